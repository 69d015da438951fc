"""What a check of `acsearch doctor` finds, and how one is run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from acsearch.redaction import without_secrets
from acsearch.storage.home import Home
from trainers.errors import AcsearchError, first_line

LIMIT = 20.0  # seconds for a check; what it waits for has shorter limits of its own


@dataclass(frozen=True)
class Finding:
    """state: warn for what works but should be looked at.  found: in a line.  todo: "" where nothing has to be done."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


Check = Callable[[Home], list[Finding]]


def within(seconds: float, what: str, check: Check, home: Home) -> list[Finding]:
    """What a check finds. Whatever goes wrong in it is a finding, and so is that it takes too long."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check(home))
        except AcsearchError as error:
            found.append(Finding(what, "fail", str(error), "mend what it names"))
        except Exception as error:
            found.append(Finding(what, "fail", first_line(error), "acsearch did not foresee this; please report it"))

    thread = threading.Thread(target=run, daemon=True)  # which may hang for ever, and not keep us from ending
    thread.start()
    thread.join(seconds)
    late = [] if found else [Finding(what, "fail", f"no answer within {seconds:g} s", "see whether it is overloaded")]
    return [Finding(one.what, one.state, without_secrets(one.found), one.todo) for one in found or late]
