"""A round: a study whose processes and servers are killed at random moments until it ends, and what must be true then.

A seed decides on the kind, who is killed and when. Moments are seconds since the last kill, so what the victim was at
depends on the machine's speed: the same seed is the same schedule, not the same instruction.
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
from pathlib import Path

from chaos import checks
from chaos.places import Place, World
from support.fork_server import living
from trainers.checkpoints.commit import MANIFEST

SERVERS = ("postgresql", "s3", "mlflow")
# who may be killed, and about how long an undisturbed study takes
KINDS = {
    "alone": (("controller",), 10.0),  # SQLite, a folder, MLflow in SQLite
    "two controllers": (("controller",), 12.0),  # of one home
    "torchrun": (("controller", "launcher", "trainer", "trainer"), 40.0),  # two processes train
    "servers": (("controller", "controller", *SERVERS), 40.0),  # two machines
}
_ORDER = ("alone", "two controllers", "servers", "alone", "torchrun", "two controllers", "servers", "alone")
PHASES = ("start", "data and C", "stage 1", "between candidates", "stage 2", "evaluation", "proposing and recording")
OUTAGES = [(who, phase) for phase in PHASES[1:] for who in SERVERS]  # who starts without a database is told so at once
_PATIENCE = 400.0


@dataclass(frozen=True)
class Kill:
    """who: a role or a server.  after: seconds since the last kill.  away: seconds until it is started again."""

    who: str
    after: float
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
        kills = ", ".join(f"{who} in {phase}" for who, phase in self.kills) or "none came in time"
        result = "; ".join(self.wrong) or "as undisturbed"
        noted = f" ({'; '.join(self.noted)})" if self.noted else ""
        return f"seed {self.seed:3}  {self.kind:15}  {self.seconds:5.1f} s  kills: {kills}  ->  {result}{noted}"


def schedule(seed: int) -> tuple[str, list[Kill]]:
    kind, chance = _ORDER[seed % len(_ORDER)], random.Random(seed)
    who, seconds = KINDS[kind]
    kills = [
        Kill(chance.choice(who), chance.uniform(0.1, 0.7 * seconds), chance.uniform(0.0, 3.0))
        for _ in range(chance.randint(2, 4))
    ]
    return kind, kills


def play(seed: int, world: World, twin: checks.Found) -> Outcome:
    """twin: what an undisturbed study of this kind found; see `undisturbed`."""
    kind, kills = schedule(seed)

    def disturb(place: Place, controllers: list[subprocess.Popen[bytes]], outcome: Outcome) -> None:
        for kill in kills:
            if not _wait(place, controllers, kill.after):
                return
            if kill.who in ("launcher", "trainer"):  # when there is one, and it has come some way
                until = time.monotonic() + 20
                while kill.who not in dict(living(place.pids)) and time.monotonic() < until:
                    if not _wait(place, controllers, 0.02):
                        break
                time.sleep(kill.away / 4)
            _kill(place, controllers, kill, random.Random(f"{seed} {kill}"), outcome)

    return _round(seed, kind, world, twin, disturb)


def outage(number: int, away: float, world: World, twin: checks.Found) -> Outcome:
    """One server is killed at one phase, and stays away for so many seconds. number: which of OUTAGES."""
    who, phase = OUTAGES[number]

    def disturb(place: Place, controllers: list[subprocess.Popen[bytes]], outcome: Outcome) -> None:
        until = time.monotonic() + _PATIENCE
        while _phase(place) != phase:
            if not _wait(place, controllers, 0.01) or time.monotonic() > until:
                return
        _kill(place, controllers, Kill(who, 0.0, away), random.Random(number), outcome)

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


def _wait(place: Place, controllers: Sequence[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Whether the study still goes on after that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
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
    phase = _phase(place)
    if place.services is not None and kill.who != "controller":
        place.services.up()
        place.services.kill(kill.who, kill.away)
        outcome.kills.append((kill.who, phase))
        return
    found = [pid for role, pid in living(place.pids) if role == kill.who]
    who = kill.who if found else "controller"  # nobody trains just now
    found = found or [pid for role, pid in living(place.pids) if role == who]
    if not found:
        return
    victim = chance.choice(found)
    os.kill(victim, signal.SIGKILL)
    outcome.kills.append((who, phase))
    if who != "controller":
        return  # its controller sees to it
    until = time.monotonic() + 30
    while ("controller", victim) in living(place.pids) or not any(one.poll() == -9 for one in controllers):
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(kill.away / 10)
    if place.services is not None:
        # whoever starts without a database is told so at once, and who begins a study without its record too
        place.services.up(*(() if phase == "start" else ("postgresql",)))
    for number, one in enumerate(controllers):
        if one.poll() == -9:
            controllers[number] = place.controller(number)


def _gone(place: Place) -> None:
    """All processes of the round end by themselves."""
    until = time.monotonic() + 60
    while left := living(place.pids):
        if time.monotonic() > until:
            raise Ended(f"still there: {left}")
        time.sleep(0.05)


def _phase(place: Place) -> str:
    """What the study is at, as its work folders show it."""
    stages = [stage for home in place.homes for stage in (home / "work" / "stages").glob("*")]
    if not stages:
        return "start" if not any((home / "work").exists() for home in place.homes) else "data and C"
    done = {stage.name for stage in stages if (stage / "result" / MANIFEST).exists()}
    training = {stage.name for stage in stages if (stage / "outbox.jsonl").exists()} - done
    if training:
        return "stage 1" if len(done) < 3 else "stage 2"
    if len(done) < 3:
        return "between candidates"
    evaluated = {stage.name for stage in stages if len(list(stage.glob("eval/results/*.json"))) == 2}
    begun = {stage.name for stage in stages if (stage / "eval").exists()}
    if begun - evaluated or len(done) - 3 > len(evaluated):
        return "evaluation"
    return "proposing and recording"
