"""The command `acsearch doctor`. It imports little, because it must work where packages are missing."""

from __future__ import annotations

from dataclasses import asdict

import typer

from acsearch.cli.options import Json, Storage, Tracking, print_json
from acsearch.storage.home import Home

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def doctor(storage: Storage = None, tracking: Tracking = None, as_json: Json = False) -> None:
    """Check every service, version, permission and clock that studies need, and say what to do.

    Everything that the checks write is removed again. The exit code is 1 if a check fails.
    """
    from acsearch.cli.screen import Screen, text
    from acsearch.doctor.examine import examine

    console = Screen()
    with Screen(stderr=True).status("looking") as status:
        findings = examine(Home(storage, tracking), lambda what: status.update(text(f"looking at {what}")))
    failed = any(one.state == "fail" for one in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(one) for one in findings]})
    else:
        wide = max(len(one.what) for one in findings)
        for one in findings:
            console.say(text(*_MARKS[one.state]), f" {one.what:{wide}}  {one.found}")
        todo = [one for one in findings if one.todo]
        if todo:
            console.say("\nWhat to do:")
        for one in todo:
            console.say(f"  {one.what:{wide}}  {one.todo}")
    if failed:
        raise typer.Exit(1)
