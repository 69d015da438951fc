"""Leases in SQLite and in a real PostgreSQL server: one owner at a time, on any machine, through kills and silences."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from acsearch.storage import leases as module
from acsearch.storage import retrying
from acsearch.storage.home import Home
from acsearch.storage.leases import LeaseLostError, Leases
from acsearch.study.stored import StoredStudy
from support import ROOT, network, postgres, racing_controller
from support.fork_server import Forks
from trainers.utils import locks

HOLD = """
import sys, time, sqlalchemy
from acsearch.storage.leases import Leases
url, term = sys.argv[1], float(sys.argv[2])
with Leases(sqlalchemy.create_engine(url), "study", term).claim("trial-0") as ours:
    print(ours, flush=True)
    time.sleep(3600 if ours else 0)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres.server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'leases.db'}"
    return postgres.database(request.getfixturevalue("server"), "leases")


@pytest.fixture
def long_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has been up, and has answered us, for longer than any lease lasts."""
    monkeypatch.setitem(module._UP, "postgresql", "0")
    monkeypatch.setattr(retrying, "_failed", -math.inf)


def leases(url: str, term: float = 600.0) -> Leases:
    """Leases which do not lapse while a test runs, however slow the machine."""
    return Leases(sqlalchemy.create_engine(url), "study", term)


def lapse(url: str) -> None:
    """What is held has not been renewed in time."""
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("update acsearch_leases set expires = 1 where expires > 0"))


def expiry(url: str) -> float:
    """When the only lease lapses, by the database's clock."""
    with sqlalchemy.create_engine(url).connect() as connection:
        return float(connection.execute(sqlalchemy.text("select expires from acsearch_leases")).scalar_one())


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def holder(url: str, term: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, url, str(term)], stdout=subprocess.PIPE, text=True)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_of_many_gets_it(url: str) -> None:
    leases(url)
    processes = [holder(url, 60) for _ in range(4)]
    assert sorted(map(says, processes)) == ["False", "False", "False", "True"]
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("long_up")
def test_it_is_free_when_it_is_given_back_and_when_it_lapses(url: str) -> None:
    one, other = leases(url), leases(url)
    with one.claim("a") as first, other.claim("a") as second:
        assert (first, second) == (True, False)
        assert one.held("a")
        assert str(os.getpid()) in str(other.holder("a"))
    assert not one.held("a")
    with other.exclusive("a"), one.claim("b") as free:  # others are not touched
        assert free
    for term in (600, 3):
        process = holder(url, term)
        assert says(process) == "True"
        process.kill()
        process.wait()
        if term == 600:
            with one.claim("trial-0") as taken:
                assert not taken  # its owner is dead, and its time is not up
            lapse(url)
        with one.exclusive("trial-0"):
            assert one.held("trial-0")


def test_who_lives_keeps_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RENEWALS", 6000)  # one in 0.1 s
    one, other = leases(url), leases(url)
    with one.claim("a"):
        for _ in range(3):
            before = expiry(url)
            until(lambda before=before: expiry(url) > before)  # type: ignore[misc]
            assert other.held("a")
        one.confirm()


@pytest.mark.usefixtures("long_up")
def test_who_was_cut_off_learns_that_it_was_taken_over(url: str) -> None:
    """As in a split of the network: the first job is alive, unheard of, and then back."""
    one, other = leases(url), leases(url)
    one._keep = lambda: None  # type: ignore[method-assign]  # its renewals do not arrive
    with one.claim("trial-0") as ours:
        assert ours
        one.confirm()
        lapse(url)
        with other.claim("trial-0") as taken:
            assert taken
            taken_over = rf"trial-0 was taken over by .*process {os.getpid()}.* while this one"
            with pytest.raises(LeaseLostError, match=taken_over):
                one.confirm()
            with pytest.raises(LeaseLostError):
                one.heartbeat()
        other.confirm()


@pytest.mark.usefixtures("long_up")
def test_who_waits_for_a_frozen_process_says_for_whom(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    process = holder(url, 600)
    assert says(process) == "True"
    process.send_signal(signal.SIGSTOP)

    class Lapse(logging.Handler):
        """Its lease lapses when somebody has said that it is waited for."""

        def emit(self, record: logging.LogRecord) -> None:
            lapse(url)

    lapsing = Lapse()
    logging.getLogger("acsearch").addHandler(lapsing)
    try:
        with leases(url).exclusive("trial-0"):
            pass
    finally:
        logging.getLogger("acsearch").removeHandler(lapsing)
        process.kill()
        process.wait()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "acsearch"]
    assert said.startswith("waiting for lease trial-0 of study 'study': held by ")
    assert f"process {process.pid};" in said


@pytest.mark.services
@pytest.mark.usefixtures("long_up")
def test_after_the_network_was_away_from_all_owners_come_first(server: str) -> None:
    """For longer than leases last; the database was never down."""
    address = sqlalchemy.make_url(postgres.database(server, "network"))
    assert address.port
    with network.network(address.port) as between:
        url = str(address.set(port=between.port))
        one, other = leases(url), leases(url)
        with one.claim("trial-0") as ours:
            assert ours
            between.cut()
            lapse(str(address))
            with ThreadPoolExecutor(1) as thread:
                taking = thread.submit(other._take, "trial-0")
                until(lambda: retrying.seconds_since_outage() < math.inf)  # it has noticed
                between.mend()
                assert not taking.result()
            one.confirm()
            assert other.held("trial-0")
        with other.claim("trial-0") as taken:
            assert taken


# -- a study in PostgreSQL ---------------------------------------------------------------------------------------------


def controller(forked: Forks, url: str, home: Path, *arguments: str, lease: int = 600) -> subprocess.Popen[str]:
    environment = os.environ | forked.environment | {"ACSEARCH_HOME": str(home), "ACSEARCH_LEASE_SECONDS": str(lease)}
    command = forked.command("study", *arguments, "--storage", url)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out


@pytest.mark.services
def test_a_study_goes_on_where_another_machine_died(forked: Forks, server: str, tmp_path: Path) -> None:
    """Two homes are two machines: they share the database and nothing else. It ends as one that nobody disturbed."""
    url = postgres.database(server, "studies")
    killed = controller(forked, url, tmp_path / "one", "start", "law_v1", "--budget", "4", lease=3)
    storage = Home(storage=url).open_storage(create=True)
    while not any(
        trial.state.name == "COMPLETE" for study in storage.get_all_studies() for trial in _trials(storage, study)
    ):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finish(controller(forked, url, tmp_path / "two", "resume", "law_v1", lease=3))
    finish(controller(forked, url, tmp_path / "two", "start", "law_v1", "--name", "undisturbed", "--budget", "4"))
    names = ("law_v1", "undisturbed")
    shown = [json.loads(finish(controller(forked, url, tmp_path / "two", "show", name, "--json"))) for name in names]
    assert shown[0]["candidates"] == shown[1]["candidates"]
    ranked = [[(f["representation"], f["scores"]) for f in one["finetunes"]] for one in shown]
    assert ranked[0] == ranked[1]
    assert len(ranked[0]) == 4


def _trials(storage: optuna.storages.RDBStorage, study: object) -> list[optuna.trial.FrozenTrial]:
    return storage.get_all_trials(study._study_id, deepcopy=False)  # type: ignore[attr-defined]


@pytest.mark.services
def test_two_machines_at_once_keep_the_budget(forked: Forks, server: str, tmp_path: Path) -> None:
    url = postgres.database(server, "shared")
    first = controller(forked, url, tmp_path / "one", "start", "law_v1", "--budget", "5", "--resume")
    second = controller(forked, url, tmp_path / "two", "start", "law_v1", "--budget", "5", "--resume")
    finish(first)
    finish(second)
    place = Home(storage=url)
    found = StoredStudy.open(place.open_storage(create=False), place.claims("law_v1"), "law_v1").snapshot()
    assert [record.state for record in found.finetunes] == ["complete"] * 5
    assert len({record.candidate for record in found.finetunes}) == 5


@pytest.mark.services
def test_who_steals_does_not_wait(forked: Forks, server: str, tmp_path: Path) -> None:
    """The other one lives, and its lease is good for minutes. It finds its finetune done by somebody else."""
    url, log = postgres.database(server, "stolen"), tmp_path / "log"
    environment = os.environ | {"ACSEARCH_HOME": str(tmp_path / "one"), "ACSEARCH_STORAGE": url}
    slow = [
        sys.executable,
        str(ROOT / "tests/support/slow_controller.py"),
        "law_v1",
        "2",
        str(tmp_path / "go on"),
        str(log),
    ]
    with subprocess.Popen(slow, env=environment | {"ACSEARCH_LEASE_SECONDS": "600"}) as first:
        while not log.exists():
            assert first.poll() is None
            time.sleep(0.05)
        said = finish(controller(forked, url, tmp_path / "two", "resume", "law_v1", "--steal"))
        assert first.poll() is None
        shown = json.loads(finish(controller(forked, url, tmp_path / "two", "status", "law_v1", "--json")))
        assert [one["state"] for one in shown["finetunes"]] == ["complete"] * 2
        assert [one["outcome"] for one in shown["finetunes"][0]["attempts"]] == [None, "done"], said
        (tmp_path / "go on").touch()
        assert first.wait(timeout=600) == 0
    assert [line.split()[:2] for line in log.read_text().splitlines()] == [["begin", "0"], ["end", "0"]]
    after = json.loads(finish(controller(forked, url, tmp_path / "two", "status", "law_v1", "--json")))
    assert after == shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def test_two_controllers_race(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    """Never one finetune too many, and none twice. $ACSEARCH_RACES says how often; ten times, if it does not."""
    rounds = int(os.environ.get("ACSEARCH_RACES", "10"))
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    if kind == "postgresql":
        url = postgres.database(request.getfixturevalue("server"), "races")
    (tmp_path / "start").mkdir()
    command = [
        sys.executable,
        str(ROOT / "tests/support/racing_controller.py"),
        url,
        str(rounds),
        str(tmp_path / "start"),
    ]
    racers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in racers:
        _, error = one.communicate(timeout=600 + 60 * rounds)
        assert one.returncode == 0, error
    place, workers = Home(storage=url), set()
    storage = place.open_storage(create=False)
    for number in range(rounds):
        study = StoredStudy.open(storage, place.claims(f"race-{number}"), f"race-{number}")
        trials = study.optuna_study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if study.attempts(f"trial-{trial.number}")]
        assert len(begun) == racing_controller.BUDGET
        assert all(trial.state.name == "COMPLETE" for trial in begun)
        assert len({trial.params["candidate"] for trial in begun}) == racing_controller.BUDGET
        assert all(len(study.attempts(f"trial-{trial.number}")) == 1 for trial in begun)
        workers |= {attempt.who for trial in begun for attempt in study.attempts(f"trial-{trial.number}")}
    assert len(workers) == 2  # else nobody raced
