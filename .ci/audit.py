"""Look for known vulnerabilities of the packages in constraints.txt, in the database OSV.

The exit code is 1 where one has a fix in a later version. Where the database cannot be reached, that is said, and all
is well: whether a commit is good must not depend on the network.

    python .ci/audit.py [CONSTRAINTS [DATABASE]]
"""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

from packaging.version import Version

DATABASE = "https://api.osv.dev"
ACCEPTED: dict[str, str] = {}  # vulnerabilities by their id, and why each does not matter here


def main(constraints: str = "constraints.txt", database: str = DATABASE) -> int:
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", Path(constraints).read_text(), re.MULTILINE))
    asked = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": pinned[name]} for name in pinned]
    try:
        answers = _ask(f"{database}/v1/querybatch", {"queries": asked})["results"]
        found = [
            (name, one["id"]) for name, answer in zip(pinned, answers, strict=True) for one in answer.get("vulns", ())
        ]
        fixes = {(name, one): _fixes(_ask(f"{database}/v1/vulns/{one}"), name, pinned[name]) for name, one in found}
    except (OSError, ValueError) as error:
        print(f"audit skipped: {database} cannot be reached ({getattr(error, 'reason', error)})")
        return 0
    wrong = {key: versions for key, versions in fixes.items() if versions and key[1] not in ACCEPTED}
    for (name, one), versions in wrong.items():
        print(f"{name} {pinned[name]}: {one}, fixed in {', '.join(versions)}; change constraints.txt, then make hashes")
    print(f"audit: {len(pinned)} packages, {len(found)} known vulnerabilities, {len(wrong)} to be fixed here")
    return int(bool(wrong))


def _ask(address: str, query: Any = None) -> Any:
    data = None if query is None else json.dumps(query).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=15) as page:
        return json.load(page)


def _fixes(vulnerability: Any, name: str, version: str) -> list[str]:
    """Later versions of a package in which a vulnerability is fixed."""
    fixed = {
        event["fixed"]
        for affected in vulnerability.get("affected", ())
        if affected["package"]["ecosystem"] == "PyPI" and _plain(affected["package"]["name"]) == _plain(name)
        for one in affected.get("ranges", ())
        if one["type"] == "ECOSYSTEM" and "withdrawn" not in vulnerability
        for event in one["events"]
        if "fixed" in event
    }
    return sorted((one for one in fixed if Version(one) > Version(version)), key=Version)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
