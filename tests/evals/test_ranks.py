"""Two processes score what one scores."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from evals import evaluate
from support import ROOT
from support.evaluation import COUNT, GIVEN, LAW, Guesser, samples
from support.paper_benchmarks import save

pytestmark = pytest.mark.slow

RANK = """
import dataclasses, json, os, sys
from pathlib import Path
from PIL import ImageFile
sys.path.insert(0, sys.argv[1])
from support.evaluation import COUNT, GIVEN, LAW, Guesser
from evals import evaluate
folder, data = Path(sys.argv[2]), {"micro_count": Path(sys.argv[3]), "mmmu_val": Path(sys.argv[4])}
result = evaluate(Guesser(GIVEN), [*COUNT, LAW["mmmu_val"]], folder, data=data)
assert not ImageFile.LOAD_TRUNCATED_IMAGES  # what is trained next must not take half a picture for a whole one
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(dataclasses.asdict(result)["scores"]))
"""


def test_two_ranks_score_what_one_scores(tmp_path: Path, questions: dict[str, Path]) -> None:
    """Samples, scores and errors, with seven samples (a rank is padded) and MMMU's guesses; both ranks know all."""
    script, two = tmp_path / "rank.py", tmp_path / "two"
    script.write_text(RANK)
    data = {**questions, "mmmu_val": save("mmmu_val", tmp_path / "mmmu")}
    one = evaluate(Guesser(GIVEN), [*COUNT, LAW["mmmu_val"]], tmp_path / "one", data=data)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [ROOT / "tests", two, data["micro_count"], data["mmmu_val"]]
    done = subprocess.run(
        [*launch, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((two / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks == [json.loads(json.dumps({name: asdict(score) for name, score in one.scores.items()}))] * 2
    for name in data:
        assert samples(two, name) == samples(tmp_path / "one", name)
