"""The result of a check of `acsearch doctor`, and how a check is run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from acsearch.redaction import without_secrets
from acsearch.storage.home import Home
from trainers.errors import AcsearchError, first_line

LIMIT = 60.0  # seconds for a check, which may import torch from a slow disk; its requests have shorter limits


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        what: Name of the thing that was checked.
        state: `warn` for something that works but needs attention.
        found: One line.
        todo: What the user should do; empty where there is nothing to do.
    """

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


Check = Callable[[Home], list[Finding]]


def within(seconds: float, what: str, check: Check, home: Home) -> list[Finding]:
    """Run a check with a time limit. An exception or a timeout of the check is a finding too.

    Args:
        seconds: The time limit.
        what: Name of the check.
        check: The check.
        home: Where studies are.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check(home))
        except AcsearchError as error:
            found.append(Finding(what, "fail", str(error), "fix what it names"))
        except Exception as error:
            found.append(Finding(what, "fail", first_line(error), "acsearch did not foresee this; please report it"))

    thread = threading.Thread(target=run, daemon=True)  # a daemon, because a check may hang for ever
    thread.start()
    thread.join(seconds)
    late = [] if found else [Finding(what, "fail", f"no answer within {seconds:g} s", "see whether it is overloaded")]
    return [Finding(one.what, one.state, without_secrets(one.found), one.todo) for one in found or late]
