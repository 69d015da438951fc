"""A round: a study whose processes and servers are killed at random moments until it ends, and what must be true then.

A seed decides on the kind, who is killed and when. Moments follow the study's own progress, however fast the
machine is: the same seed is the same schedule, though not the same instruction.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chaos import checks
from chaos.places import Place, World
from chaos.progress import EVENTS, PHASES, Progress, phase
from support.fork_server import living

SERVERS = ("postgresql", "s3", "mlflow")
# who may be killed
KINDS = {
    "alone": ("controller",),  # SQLite, a folder, MLflow in SQLite
    "two controllers": ("controller",),  # of one home
    "torchrun": ("controller", "launcher", "trainer", "trainer"),  # two processes train
    "servers": ("controller", "controller", *SERVERS),  # two machines
}
_ORDER = ("alone", "two controllers", "servers", "alone", "torchrun", "two controllers", "servers", "alone")
OUTAGES = [(who, at) for at in PHASES[1:] for who in SERVERS]  # who starts without a database is told so at once
_PATIENCE = 400.0


@dataclass(frozen=True)
class Kill:
    """One kill of a round.

    Attributes:
        who: a role or a server.
        after: events of the study's progress since the last kill; see `chaos.progress`.
        pause: how long to wait on top, in times that an event has taken so far.
        away: seconds until it is started again.
    """

    who: str
    after: int
    pause: float
    away: float


@dataclass
class Outcome:
    """kills: who was killed, and what the study was at.  wrong: what was not as it must be."""

    seed: int
    kind: str
    kills: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        kills = ", ".join(f"{who} in {phase}" for who, phase in self.kills) or "none"
        result = "; ".join(self.wrong) or "as undisturbed"
        noted = f" ({'; '.join(self.noted)})" if self.noted else ""
        return f"seed {self.seed:3}  {self.kind:15}  {self.seconds:5.1f} s  kills: {kills}  ->  {result}{noted}"


def schedule(seed: int) -> tuple[str, list[Kill]]:
    """The kind of a round and its kills. The first one is in the first half of the study, so that it always comes."""
    kind, chance = _ORDER[seed % len(_ORDER)], random.Random(seed)

    def kill() -> Kill:
        after, pause = chance.randint(0, EVENTS // 2), chance.uniform(0.0, 4.0)
        return Kill(chance.choice(KINDS[kind]), after, pause, chance.uniform(0.0, 3.0))

    kills = [kill() for _ in range(chance.randint(2, 4))]
    return kind, kills


def play(seed: int, world: World, twin: checks.Found) -> Outcome:
    """twin: what an undisturbed study of this kind found; see `undisturbed`."""
    kind, kills = schedule(seed)

    def disturb(place: Place, controllers: list[subprocess.Popen[bytes]], outcome: Outcome) -> None:
        progress = Progress(place)
        for kill in kills:
            due = progress.count() + kill.after
            if not _wait(place, controllers, until=partial(progress.reached, due)):
                return
            if not _wait(place, controllers, kill.pause * progress.pace()):
                return
            if not (kill.who in SERVERS or _wait(place, controllers, until=partial(_lives, place, kill.who))):
                return
            _kill(place, controllers, kill, random.Random(f"{seed} {kill}"), outcome)

    return _round(seed, kind, world, twin, disturb)


def outage(number: int, away: float, world: World, twin: checks.Found) -> Outcome:
    """One server is killed at one phase, and stays away for so many seconds. number: which of OUTAGES."""
    who, at = OUTAGES[number]

    def disturb(place: Place, controllers: list[subprocess.Popen[bytes]], outcome: Outcome) -> None:
        if _wait(place, controllers, until=lambda: phase(place) == at):
            _kill(place, controllers, Kill(who, 0, 0.0, away), random.Random(number), outcome)

    return _round(number, "servers", world, twin, disturb)


def _round(
    number: int,
    kind: str,
    world: World,
    twin: checks.Found,
    disturb: Callable[[Place, list[subprocess.Popen[bytes]], Outcome], None],
) -> Outcome:
    outcome, began = Outcome(number, kind), time.monotonic()
    place = world.place(kind, f"round-{number}")
    controllers = [place.controller(number) for number in range(1 if kind in ("alone", "torchrun") else 2)]
    try:
        disturb(place, controllers, outcome)
        if not outcome.kills:
            outcome.wrong.append("nothing was killed")
        if place.services is not None:
            place.services.up()
            outcome.wrong += place.services.lost
        if _wait(place, controllers, _PATIENCE):
            outcome.wrong.append(f"not done after {_PATIENCE:.0f} s")
        elif place.services is not None:  # the record may have missed the end: the study says so, and how to mend it
            _finish(place.command(0, "study", "sync", place.name), place.log(0))
        _finish(place.command(0, "study", "show", place.name, "--json"), place.log(0))
        _gone(place)
        outcome.wrong += checks.wrong(place, twin, in_turns=len(controllers) == 1)
        if outcome.wrong:
            logs = "".join(place.log(number).read_text() for number in range(len(controllers))).splitlines()
            outcome.wrong += dict.fromkeys(line for line in logs if "not up to date" in line)
        outcome.noted += checks.noted(place)
    except Ended as error:
        outcome.wrong.append(str(error))
    finally:
        for _, pid in living(place.pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if place.services is not None:
            place.services.up()
    outcome.seconds = time.monotonic() - began
    return outcome


def undisturbed(kind: str, world: World) -> checks.Found:
    """All candidates finetuned one after the other: the budget decides how many are proposed, and not which."""
    place = world.place("torchrun" if kind == "torchrun" else "alone", f"undisturbed-{kind}".replace(" ", "-"))
    _finish(place.controller(0, budget=3), place.log(0))
    return checks.found(place)


class Ended(Exception):
    """A process that nobody killed has failed."""


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait(_PATIENCE):
        raise Ended(f"ended with {process.returncode}: {log.read_text()[-600:]}")


def _wait(
    place: Place,
    controllers: Sequence[subprocess.Popen[bytes]],
    seconds: float = _PATIENCE,
    until: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until something is so, or for some seconds. Returns whether the study still goes on."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        codes = [one.poll() for one in controllers]
        for number, code in enumerate(codes):
            if code:
                raise Ended(f"controller {number} ended with {code}: {place.log(number).read_text()[-600:]}")
        if all(code == 0 for code in codes):
            return False
        time.sleep(0.01)
    return True


def _kill(
    place: Place, controllers: list[subprocess.Popen[bytes]], kill: Kill, chance: random.Random, outcome: Outcome
) -> None:
    if place.services is not None and kill.who != "controller":

        def ready() -> bool:  # who starts without a server is told so at once, and ends
            return all(place.begun(number) or one.poll() == 0 for number, one in enumerate(controllers))

        if not _wait(place, controllers, until=ready):
            return
        at = phase(place)
        place.services.up()
        place.services.kill(kill.who, kill.away)
        outcome.kills.append((kill.who, at))
        return
    if not _wait(place, controllers, until=partial(_lives, place, "controller")):
        return
    at = phase(place)
    there = living(place.pids)
    who = kill.who if kill.who in dict(there) else "controller"  # nobody trains just now
    if victims := [pid for role, pid in there if role == who]:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(victims), signal.SIGKILL)
    if who != "controller":
        outcome.kills.append((who, at))
        return  # its controller sees to it
    until = time.monotonic() + _PATIENCE
    while not any(one.poll() == -9 for one in controllers):
        if all(one.poll() is not None for one in controllers):
            return  # the study ended just before
        assert time.monotonic() < until
        time.sleep(0.005)
    outcome.kills.append((who, at))
    time.sleep(kill.away / 10)
    if place.services is not None:
        # whoever starts without a database is told so at once, and who begins a study without its record too
        place.services.up(*(() if at == "start" else ("postgresql",)))
    for number, one in enumerate(controllers):
        if one.poll() == -9:
            controllers[number] = place.controller(number)


def _lives(place: Place, role: str) -> bool:
    return role in dict(living(place.pids))


def _gone(place: Place) -> None:
    """All processes of the round end by themselves."""
    until = time.monotonic() + 60
    while left := living(place.pids):
        if time.monotonic() > until:
            raise Ended(f"still there: {left}")
        time.sleep(0.05)
