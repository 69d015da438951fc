"""All checks of `acsearch doctor`, one after the other."""

from __future__ import annotations

from acsearch.doctor.finding import LIMIT, Check, Finding, within
from acsearch.doctor.machine import folder, gpu, packages, python, settings, slurm, torch
from acsearch.storage.home import Home
from trainers.utils.progress import Reporter


def examine(home: Home, report: Reporter = lambda what: None) -> list[Finding]:
    """Run all checks, one after the other.

    Args:
        home: Where studies are.
        report: Called with the name of each check before it runs.
    """
    from acsearch.doctor import services

    checks: dict[str, Check] = {"python": python, "packages": packages, "torch": torch, "GPU": gpu, "Slurm": slurm}
    located: dict[str, Check] = {"settings": settings, "home": folder, "storage": services.storage}
    located |= {"MLflow": services.tracking, "work store": services.store}
    findings: list[Finding] = []
    for what, check in (located | checks).items():
        report(what)
        if what in located and any(one.what == "settings" and one.state == "fail" for one in findings):
            findings.append(Finding(what, "warn", "not checked: the settings do not say where it is"))
        else:
            findings += within(LIMIT, what, check, home)
    return findings
