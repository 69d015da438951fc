"""Object stores: one without conditional writes, and what a person hears of wrong credentials and addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import s3
from support.work_stores import address, committed_folder
from trainers.checkpoints import commit
from trainers.checkpoints.object_store import Remote
from trainers.checkpoints.work_store import RemoteStore
from trainers.errors import StoreError
from trainers.training.train import RESULT


@pytest.mark.services
def test_a_store_without_conditional_writes(
    running: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.without_conditions(running.url) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        remote = Remote(address(tmp_path))
        remote.write("mark", b"first", only_first=True)
        remote.write("mark", b"second", only_first=True)
        assert remote.read("mark") == b"first"
        remote.write("mark", b"third")
        assert remote.read("mark") == b"third"


@pytest.mark.services
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "mistyped"}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "mistyped"}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "access is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1"}, "Invalid endpoint: 127.0.0.1"),
    ],
)
def test_wrong_credentials(
    running: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    folder = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, weights="1")
    for attempt in (
        lambda store: store.check(),
        lambda store: store.pull(folder),
        lambda store: (store.push(folder, keep=0), store.drain()),
    ):
        with pytest.raises(StoreError, match=rf"^work store s3://studies/{tmp_path.name}: {said}") as caught:
            attempt(RemoteStore(address(tmp_path), tmp_path / "here"))
        assert s3.SECRET not in str(caught.value)
        assert "mistyped" not in str(caught.value)
    assert commit.committed(folder)


@pytest.mark.services
def test_a_bucket_that_is_not_there(running: s3.Server, tmp_path: Path) -> None:
    store = RemoteStore("s3://study/mine", tmp_path)
    folder = committed_folder(tmp_path / "stages" / "a" / RESULT, weights="1")
    for attempt in (store.check, lambda: store.pull(folder), lambda: (store.push(folder, keep=0), store.drain())):
        with pytest.raises(StoreError, match=r"work store s3://study/mine: there is no bucket 'study': make it"):
            attempt()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s4://studies", "ACSEARCH_WORK s4://studies: Protocol not known: s4; for instance s3://bucket/prefix"),
        ("s3://", "ACSEARCH_WORK s3:: names no bucket"),
        ("studies", "ACSEARCH_WORK studies: names no bucket"),
        ("https://hidden@host/studies", "no credentials in the address"),
        ("s3://key:hidden@studies/mine", "no credentials in the address; give them as AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_no_address(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        RemoteStore(url, tmp_path)
    assert "hidden" not in str(caught.value)
