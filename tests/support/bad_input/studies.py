"""Priors and studies with one thing wrong."""

from __future__ import annotations

from pathlib import Path

import yaml

from acsearch.config.prior_file import priors
from support.bad_input.cases import SHEET, STUDY, TABLE, Case, prior, study, swapped


def a_loop(folder: Path) -> None:
    (folder / "loop.csv").symlink_to("loop.csv")


PRIORS = {
    "missing-key": prior("prior.yaml: key 'noise' is missing", without="noise"),
    "unknown-key": prior("unknown key 'nose'; did you mean 'noise'?", nose=1.0),
    "missing-term": prior("prior.yaml: mean must give exactly A, C, A2, AC, C2, not A, C", mean={"A": 0.5, "C": 0.2}),
    "unknown-term": prior("term_sets: no term 'Q' in 'A+Q'", term_sets={"A+Q": 1.0}),
    "negative-sd": prior(
        "prior.yaml: sd.C2: Input should be greater than or equal to 0.0001, got -1.0",
        sd={"A": 0.5, "C": 0.3, "A2": 0.4, "AC": 0.4, "C2": -1.0},
    ),
    "sharing-of-one": prior("prior.yaml: sharing.0: Input should be less than 1", sharing=[1.0]),
    "empty-grid": prior("prior.yaml: misfit: List should have at least 1 item", misfit=[]),
    "text": prior("prior.yaml: noise: Input should be a valid number, got 'low'", noise="low"),
    "other-definition": prior("prior 'prior' belongs to A as A_ll, but the table's is unstated", alignment=["A_ll"]),
}
STUDIES = {
    "list": Case("study start .", "study.yaml: expected keys and values, found a list", {"study.yaml": "- name\n"}),
    "empty": Case("study start .", "study.yaml: expected keys and values, found nothing", {"study.yaml": ""}),
    "a-table": Case("study start table.csv", "expected keys and values, found a str", {"table.csv": TABLE}),
    "unknown-key": study("study.yaml: unknown key 'polizy'; did you mean 'policy'?", polizy="ucb"),
    "missing-table": study("study.yaml: give a table, which finetunes are looked up in, or training", without="table"),
    "missing-name": study("study.yaml: key 'name' is missing", without="name"),
    "seed-is-text": study("study.yaml: seed: Input should be a valid integer, got 'one'", seed="one"),
    "seed-is-a-quoted-number": study("study.yaml: seed: Input should be a valid integer, got '1'", seed="1"),
    "seed-is-a-truth": study("study.yaml: seed: Input should be a valid integer, got True", seed=True),
    "seed-is-a-fraction": study("study.yaml: seed: Input should be a valid integer, got 1.5", seed=1.5),
    "seed-is-negative": study("study.yaml: seed: Input should be greater than or equal to 0, got -1", seed=-1),
    "seed-is-too-large": study("study.yaml: seed: Input should be less than 4294967296", seed=2**32),
    "table-is-a-list": study("study.yaml: table: Input should be a valid string", table=["table.csv"]),
    "name-is-a-number": study("study.yaml: name: Input should be a valid string, got 5", name=5),
    "name-with-a-slash": study("study.yaml: name: String should match pattern", name="a/b"),
    "name-with-a-space": study("study.yaml: name: String should match pattern", name="a b"),
    "name-going-up": study("study.yaml: name: String should match pattern", name="../up"),
    "name-with-a-newline": study("study.yaml: name: String should match pattern", name="mine\n"),
    "name-empty": study("study.yaml: name: String should match pattern", name=""),
    "name-too-long": study("study.yaml: name: String should match pattern", name="x" * 101),
    "unknown-policy": study("no policy 'ucp'; known: default (ucb)", policy="ucp"),
    "oracle": study("the policy 'oracle' looks at scores that a study does not have", policy="oracle"),
    "unknown-objective": study("objective 'pope': neither 'mean' nor one of gqa, mme", objective="pope"),
    "unknown-prior": study("neither a file that exists nor one of", prior="week"),
    "prior-is-a-table": study("table.csv: expected keys and values, found a str", prior="table.csv"),
    "no-such-table": study("tabel.csv': neither a file or folder that exists", table="tabel.csv"),
    "table-with-nul": study("study.yaml: table: String should match pattern", table="table\x00.csv"),
    "budget-zero": study("--budget 0: must be between 1 and the 5 candidates", "--budget 0"),
    "budget-negative": study("--budget -3: must be between 1 and the 5 candidates", "--budget -3"),
    "budget-too-large": study("--budget 6: must be between 1 and the 5 candidates", "--budget 6"),
    "name-option": study("--name: String should match pattern", "--name a/b"),
    "policy-option": study("no policy 'best'", "--policy best"),
    "objective-option": study("objective 'fame': neither 'mean'", "--objective fame"),
    "seed-option": study("--seed: Input should be less than 4294967296", "--seed 4294967296"),
    "table-is-a-loop": Case(
        "study start .",
        "loop.csv': neither a file",
        {"study.yaml": yaml.safe_dump(STUDY | {"table": "loop.csv"})},
        a_loop,
    ),
    "broken-table": Case(
        "study start .",
        "line 3, column score: 'NaN' is not a finite number",
        {"study.yaml": yaml.safe_dump(STUDY), "table.csv": swapped(TABLE, "clip,mme,51,", "clip,mme,NaN,")},
    ),
    "prior-of-another-definition": Case(
        "study start .",
        "prior 'other' belongs to A as A_ll, but the table's is A_cos",
        {
            "study.yaml": yaml.safe_dump(STUDY | {"prior": "other.yaml"}),
            "table.csv": TABLE,
            "table.yaml": SHEET,
            "other.yaml": priors()["weak"].read_text(encoding="utf-8").replace("alignment: [any]", "alignment: [A_ll]"),
        },
    ),
}
