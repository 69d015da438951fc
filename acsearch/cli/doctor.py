"""The command `acsearch doctor`. It imports little, because it must work where packages are missing."""

from __future__ import annotations

from dataclasses import asdict

import typer

from acsearch.cli.options import Json, Storage, Tracking, print_json
from acsearch.storage.home import Home

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}


def doctor(storage: Storage = None, tracking: Tracking = None, as_json: Json = False) -> None:
    """Check every service, version, permission and clock that studies need, and say what to do.

    Everything that the checks write is removed again. The exit code is 1 if a check fails.
    """
    from rich.console import Console
    from rich.markup import escape

    from acsearch.doctor.examine import examine

    console = Console(highlight=False, soft_wrap=True)
    with Console(stderr=True).status("looking") as status:
        findings = examine(Home(storage, tracking), lambda what: status.update(f"looking at {what}"))
    failed = any(one.state == "fail" for one in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(one) for one in findings]})
    else:
        wide = max(len(one.what) for one in findings)
        for one in findings:
            console.print(f"{_MARKS[one.state]} {one.what:{wide}}  {escape(one.found)}")
        todo = [one for one in findings if one.todo]
        if todo:
            console.print("\nWhat to do:")
        for one in todo:
            console.print(f"  {one.what:{wide}}  {escape(one.todo)}")
    if failed:
        raise typer.Exit(1)
