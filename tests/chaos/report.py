"""The results in docs/chaos.md: what was killed, at what, and what came out."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from chaos.progress import PHASES
from chaos.rounds import Outcome

_RESULTS = "## Results\n"


def write(path: Path, outcomes: list[Outcome], command: str) -> None:
    """What the file says above its results stays."""
    before = path.read_text(encoding="utf-8").partition(_RESULTS)[0] if path.exists() else ""
    path.write_text(before + "\n".join([_RESULTS, *_results(outcomes, command)]) + "\n", encoding="utf-8")


def _results(outcomes: list[Outcome], command: str) -> Iterator[str]:
    kills = Counter(kill for outcome in outcomes for kill in outcome.kills)
    bad = [outcome for outcome in outcomes if outcome.wrong]
    seconds = sum(outcome.seconds for outcome in outcomes)
    yield f"    {command}\n"
    yield (
        f"{len(outcomes)} rounds, {sum(kills.values())} kills, {len(outcomes) - len(bad)} rounds as undisturbed. "
        f"The rounds' times add up to "
        f"{seconds / 60:.0f} minutes on a {platform.machine()} machine with {os.cpu_count()} cores and no GPU.\n"
    )
    yield "| rounds | number | kills | as undisturbed | median seconds |"
    yield "|---|---|---|---|---|"
    for kind in dict.fromkeys(sorted(outcome.kind for outcome in outcomes)):
        some = [outcome for outcome in outcomes if outcome.kind == kind]
        fine = sum(not outcome.wrong for outcome in some)
        number = sum(len(outcome.kills) for outcome in some)
        yield f"| {kind} | {len(some)} | {number} | {fine} | {median(outcome.seconds for outcome in some):.0f} |"
    yield "\nWho was killed, and what the study was at, as far as its work folder shows it:\n"
    who = [name for name, _ in Counter(victim for victim, _ in kills.elements()).most_common()]
    yield f"| | {' | '.join(who)} |"
    yield f"|---|{'---|' * len(who)}"
    for phase in PHASES:
        yield f"| {phase} | {' | '.join(str(kills[name, phase] or '') for name in who)} |"
    if noted := [outcome for outcome in outcomes if outcome.noted]:
        told = (f"seed {outcome.seed}: {', '.join(outcome.noted)}" for outcome in noted)
        yield f"\nAllowed, and told here: {'; '.join(told)}."
    if bad:
        yield "\nNot as undisturbed:\n"
        yield from (f"- {outcome}" for outcome in bad)
