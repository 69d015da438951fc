"""Reading pairs in SPair-71k's layout; what is broken or missing is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acsearch.scores.extract import measure
from acsearch.scores.pairs import read_pairs
from support.colour_encoder import vision
from support.keypoint_pairs import write_spair
from trainers.errors import DataError


def test_reads_the_published_layout(spair: Path) -> None:
    pairs = read_pairs(spair)
    files = sorted((spair / "PairAnnotation" / "test").glob("*.json"))
    assert len(pairs) == len(files) > 12
    assert pairs.categories == ("cat", "sofabed")
    assert len(pairs.images) == len(set(pairs.images)) == 8
    for row, path in enumerate(files):
        content = json.loads(path.read_text())
        count = len(content["kps_ids"])
        assert pairs.images[pairs.source[row]] == spair / "JPEGImages" / content["category"] / content["src_imname"]
        assert pairs.images[pairs.target[row]].name == content["trg_imname"]
        assert pairs.sizes[pairs.target[row]].tolist() == content["trg_imsize"][:2]
        assert pairs.source_points[row, :count].tolist() == content["src_kps"]
        assert pairs.target_points[row, :count].tolist() == content["trg_kps"]
        assert pairs.ids[row].tolist() == [int(one) for one in content["kps_ids"]] + [-1] * (
            pairs.mask.shape[1] - count
        )
        assert pairs.mask[row].tolist() == [True] * count + [False] * (pairs.mask.shape[1] - count)
        assert pairs.boxes[row].tolist() == content["trg_bndbox"]
    assert pairs.geometry is None  # SPair has no groups for a sofabed


def test_geometry_aware_points_have_a_visible_partner_in_the_target(spair: Path) -> None:
    groups = {"cat": {"groups": [[0, 1], [9, 10, 11]]}, "sofabed": {"groups": [[2, 3]], "keypoints": ["a", "b"]}}
    (spair / "keypoints.json").write_text(json.dumps(groups))
    pairs = read_pairs(spair)
    assert pairs.geometry is not None
    assert 0 < pairs.geometry.sum() < pairs.points
    for row in range(len(pairs)):
        image = pairs.images[pairs.target[row]]
        notes = json.loads((spair / "ImageAnnotation" / image.parent.name / f"{image.stem}.json").read_text())
        for key, geometry in zip(pairs.ids[row], pairs.geometry[row], strict=True):
            own = [group for group in groups[image.parent.name]["groups"] if key in group]
            assert geometry == any(sum(notes["kps"][str(other)] is not None for other in group) >= 2 for group in own)


def test_spair_groups_are_used_where_the_folder_has_none(tmp_path: Path) -> None:
    folder = write_spair(tmp_path / "cats")
    for path in (folder / "PairAnnotation" / "test").glob("*:sofabed.json"):
        path.unlink()
    pairs = read_pairs(folder)
    assert pairs.geometry is not None
    assert set(pairs.ids[pairs.geometry]) <= {2, 3, 9, 10, 11, 12}
    assert pairs.geometry.any()


def test_reads_the_micro_world_s_pairs(tmp_path: Path) -> None:
    from studies.micro.world.dataset.pairs import write_pairs

    write_pairs(tmp_path, 0, 24, 12, lambda done: None)
    pairs = read_pairs(tmp_path)
    assert (len(pairs), len(pairs.images)) == (24, 12)
    assert pairs.geometry is not None
    assert pairs.geometry.any()
    result = measure(vision(96), pairs)
    assert result.geometry_aware is not None
    assert 0 < result.geometry_aware.points < result.overall.points == pairs.points
    assert result.position.per_image < 20 < result.ceiling.per_image == 100.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pair: pair.pop("trg_kps"), "trg_kps"),
        (lambda pair: pair["src_kps"].pop(), "not as many"),
        (lambda pair: pair.update(category="dog"), "'dog', and JPEGImages has no such folder"),
        (lambda pair: pair.update(trg_bndbox=[5, 5, 5, 9]), "is empty"),
        (lambda pair: pair.update(src_kps=[], trg_kps=[], kps_ids=[]), "src_kps"),
        (lambda pair: pair.update(src_imsize=[1, 1, 3]), "in another pair"),
        (lambda pair: pair["src_kps"].__setitem__(0, [1, "x"]), "src_kps"),
    ],
)
def test_a_broken_pair_is_named(spair: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = sorted((spair / "PairAnnotation" / "test").glob("*.json"))[7]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_pairs(spair)
    assert path.name in str(error.value)


def test_what_is_missing_is_named(spair: Path) -> None:
    with pytest.raises(DataError, match="no folder JPEGImages"):
        read_pairs(spair / "elsewhere")
    with pytest.raises(DataError, match="no pair of the split 'val'"):
        read_pairs(spair, "val")
    names = [path.stem for path in (spair / "PairAnnotation" / "test").glob("*.json")]
    (spair / "Layout" / "large").mkdir(parents=True)
    (spair / "Layout" / "large" / "test.txt").write_text("\n".join([*names, "999999-a-b:cat"]))
    with pytest.raises(DataError, match=r"1 of the pairs .* 999999-a-b:cat"):
        read_pairs(spair)
    (spair / "Layout" / "large" / "test.txt").write_text("\n".join(names))
    read_pairs(spair)
    (spair / "keypoints.json").write_text('{"cat": {}}')
    with pytest.raises(DataError, match=r"keypoints\.json.*groups"):
        read_pairs(spair)
    (spair / "keypoints.json").unlink()
    (spair / "JPEGImages" / "cat" / "wide.jpg").unlink()
    with pytest.raises(DataError, match=r"wide\.jpg: no such image"):
        read_pairs(spair)
