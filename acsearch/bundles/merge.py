"""Merge two copies of a study that went on separately: add to this one what only the other has, or refuse.

Two studies are copies of one if they have the same table, prior, objective, policy, seed and time of start. A study
finetunes a candidate once, so a trial of one copy and a trial of the other are the same if their candidate is.

    here                  in the bundle         result
    no study              any                   the whole study, with its numbers, states and times
    no such trial         any                   added, with its number if that is the next one, else with the next
    running               finished              finished, as in the bundle
    running               running               unchanged
    finished              running               unchanged
    complete              complete, equal       unchanged
    complete              complete, different   refused: it is not known which of them is right
    failed                complete, or reverse  refused: a finished trial does not change
    no candidate yet      same trial, with one  the trial gets that candidate, and its result if it has one
    any                   no candidate yet      added if it is the next one, else left out: it has not begun

Scores of both copies are kept; where both measured a candidate with different results, the merge is refused. The budget
is the larger of the two, and must allow the finetunes of both copies together. Other attributes are added where they
are missing.

Results of the bundle count as known after everything that is known here: a trial that is added counts as finished no
earlier than the last finished trial here, and a trial that the bundle completes is finished now. So the steps that the
MLflow record already has stay correct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acsearch.bundles import limits
from acsearch.errors import BundleError
from acsearch.study.identity import READABLE
from acsearch.study.schema import (
    BUDGET,
    SCORE,
    TRIAL,
    About,
    Scores,
    StudyContent,
    TrialContent,
    is_local,
    is_ours,
)
from acsearch.study.validation import check
from acsearch.tables.table import Table
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import abbreviate

RESULT = re.compile(r"stages/[0-9a-f]{24}/result")  # of a finetune, in the work folder


@dataclass(frozen=True)
class Changes:
    """What has to be written to the study here.

    Attributes:
        attributes: Attributes of the study to set.
        finish: Trials here, each with the trial of the bundle that gives its candidate or its result.
        add: Trials to add, with their new numbers.
    """

    attributes: dict[str, Any]
    finish: tuple[tuple[TrialContent, TrialContent], ...]
    add: tuple[TrialContent, ...]

    def __bool__(self) -> bool:
        return bool(self.attributes or self.finish or self.add)

    @property
    def scores(self) -> int:
        """Number of candidates whose scores are added."""
        return sum(key.startswith(SCORE) for key in self.attributes)

    @property
    def claims(self) -> list[str]:
        """Names of the claims that must be held while the changes are written."""
        return [f"{TRIAL}{mine.number}" for mine, _ in self.finish] + [
            key for key in self.attributes if key.startswith(SCORE)
        ]


def merge(here: StudyContent, there: StudyContent, table: Table, budget: int = 0) -> Changes:
    """Compute what has to be added to the study here.

    Args:
        here: The study here.
        there: The study in the bundle.
        table: The table of candidates.
        budget: Finetunes to allow, where both copies together did more than the budget of either; 0 for none.

    Raises:
        BundleError: the two are not copies of one study, or contradict each other; the message says how.
        ConfigError: the budget is out of range.
    """
    check_export(there, table)
    _check_same_study(here, there)
    if budget and not there.budget <= budget <= len(table.representations):
        raise ConfigError(f"--budget {budget}: choose {there.budget} to {len(table.representations)}")
    _check_same_scores(here, there, table.representations)
    allowed = max(here.budget, there.budget, budget)
    attributes = {key: value for key, value in there.attributes.items() if key not in here.attributes}
    if allowed > here.budget:
        attributes[BUDGET] = allowed
    by_candidate: dict[int | None, TrialContent] = {
        one.candidate: one for one in here.trials if one.candidate is not None
    }
    finish: list[tuple[TrialContent, TrialContent]] = []
    add: list[TrialContent] = []
    latest = max((one.finished for one in here.trials if one.finished), default=None)
    for one in there.trials:
        place = len(here.trials) + len(add)
        mine = by_candidate.get(one.candidate) or (here.trials[one.number] if one.number < len(here.trials) else None)
        if mine and mine.candidate == one.candidate is not None:
            if mine.state == "RUNNING" and one.state != "RUNNING":
                finish.append((mine, one))
            elif mine.state != "RUNNING" and one.state != "RUNNING":
                _check_same_result(mine, one, table.representations)
        elif mine and mine.candidate is None and mine.state == "RUNNING" and one.candidate is not None:
            finish.append((mine, one))
        elif one.candidate is not None or one.number == place:
            finished = max(one.finished, latest) if one.finished and latest else one.finished
            add.append(one.model_copy(update={"number": place, "finished": finished}))
    together = len(here.finetunes) + sum(one.counts for one in add)
    if together > allowed:
        raise BundleError(
            f"study {here.name!r}: the two copies have {together} finetunes together, and its budget is {allowed}: "
            f"nothing was imported; allow them with --budget {together}"
        )
    return Changes(attributes, tuple(finish), tuple(add))


def check_export(export: StudyContent, table: Table) -> None:
    """Check that a study fits its table, and is as an export writes it.

    Raises:
        BundleError: it is not; the message says what is wrong.
    """
    try:
        about = export.about
        if about is None:
            raise ValueError("nobody started it")
        if about.format not in READABLE:
            raise ValueError(f"format {about.format}, where this acsearch reads {READABLE}")
        _check_attributes(export.attributes, [key for key in export.attributes if not is_ours(key)])
        if len(export.trials) > export.budget + limits.EXTRA_TRIALS:
            raise ValueError(f"{len(export.trials)} trials, with a budget of {export.budget}")
        for trial in export.trials:
            _check_trial(trial)
        proposed = [one.candidate for one in export.trials if one.candidate is not None]
        if len(set(proposed)) < len(proposed):
            raise ValueError("a candidate is finetuned twice")
        check(export, table)
    except ValueError as error:
        raise BundleError(f"study {export.name!r}: not as acsearch exports it: {error}") from error


def _check_attributes(attributes: dict[str, Any], others: list[str]) -> None:
    """Raise ValueError for attributes that an export leaves out, and for more than an export can have."""
    for key, value in attributes.items():
        if is_local(key):
            raise ValueError(f"{key} belongs to the place that it was exported from, and no bundle has it")
        if not key.isprintable() or not 0 < len(key) <= limits.KEY_LENGTH:
            raise ValueError(f"an attribute called {abbreviate(key)}")
        if len(json.dumps(value)) > limits.ATTRIBUTE_BYTES:
            raise ValueError(f"{key} is longer than {limits.ATTRIBUTE_BYTES} bytes")
    if len(others) > limits.EXTRA_ATTRIBUTES:
        raise ValueError(f"{len(others)} attributes that acsearch does not know")


def _check_trial(trial: TrialContent) -> None:
    """Raise ValueError for a trial that no export has."""
    _check_attributes(trial.attributes.stored, [*(trial.attributes.model_extra or {})])
    if trial.state in ("WAITING", "PRUNED"):
        raise ValueError(f"trial {trial.number} is {trial.state}, which acsearch leaves none")
    if trial.started is None and trial.finished is None:
        raise ValueError(f"trial {trial.number} has no time of start")
    checkpoint = trial.attributes.checkpoint
    if checkpoint is not None and not RESULT.fullmatch(checkpoint):
        raise ValueError(f"trial {trial.number}: its checkpoint {abbreviate(checkpoint)} is not in the work folder")


def _check_same_study(here: StudyContent, there: StudyContent) -> None:
    if here.about is None:
        return
    assert there.about is not None
    ours, theirs = _identity(here.about), _identity(there.about)
    for key in ("started", *sorted({*ours, *theirs})):
        if ours.get(key) != theirs.get(key):
            raise BundleError(
                f"study {here.name!r} is another one of the same name: {key} is {ours.get(key)} here and "
                f"{theirs.get(key)} in the bundle; nothing was imported"
            )


def _identity(about: About) -> dict[str, Any]:
    """What a study was started with, without the locations of its table and prior."""
    return about.model_dump(exclude_unset=True) | {"table": about.table.digest, "prior": about.prior.digest}


def _check_same_scores(here: StudyContent, there: StudyContent, names: Sequence[str]) -> None:
    ours = here.scores
    for row, theirs in there.scores.items():
        if row in ours and _measured(ours[row]) != _measured(theirs):
            raise BundleError(
                f"study {here.name!r}: {names[row]} was scored in both copies, A and C are {_shown(ours[row])} here "
                f"and {_shown(theirs)} in the bundle; nothing was imported, go on with one of the copies"
            )


def _measured(scores: Scores) -> tuple[object, ...]:
    return scores.alignment, scores.correspondence


def _shown(scores: Scores) -> str:
    return f"{', '.join(map(str, dict.fromkeys(scores.alignment)))} and {scores.correspondence}"


def _check_same_result(mine: TrialContent, one: TrialContent, names: Sequence[str]) -> None:
    """Raise BundleError when two finetunes of a candidate have different results."""
    assert one.candidate is not None
    what = f"{names[one.candidate]} was finetuned as trial {mine.number} here and as trial {one.number} in the bundle"
    keep = "nothing was imported; a study has one finetune of a candidate, go on with one of the copies"
    if mine.state != one.state:
        raise BundleError(f"{what}: {mine.state.lower()} here, {one.state.lower()} there; {keep}")
    ours, theirs = mine.attributes.points or {}, one.attributes.points or {}
    for benchmark in ours:
        if ours[benchmark] != theirs.get(benchmark):
            raise BundleError(f"{what}: {benchmark} is {ours[benchmark]} here, {theirs.get(benchmark)} there; {keep}")
