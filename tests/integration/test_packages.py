"""What is installed: the hashes of constraints.txt, and the audit of what it names."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.doctor import unused_address

AUDIT = [sys.executable, str(ROOT / ".ci" / "audit.py")]
KNOWN = {  # in the form of OSV
    "OLD-1": {"affected": [{"package": {"name": "Old_Package", "ecosystem": "PyPI"}, "ranges": []}]},
    "OLD-2": {"affected": [{"package": {"name": "old-package", "ecosystem": "PyPI"}, "ranges": []}]},
}
KNOWN["OLD-2"]["affected"][0]["ranges"] = [
    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.9.1"}]},
    {"type": "ECOSYSTEM", "events": [{"introduced": "1.0"}, {"fixed": "1.10"}]},
]


def test_every_package_has_its_hashes_but_those_that_are_built_in_several_ways() -> None:
    entries = re.split(r"^(?=\w)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 200
    without = [entry.split("==")[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)]
    assert without == ["torch", "torchvision"]


@pytest.mark.parametrize("is_right", [True, False])
def test_uv_installs_by_constraints_only_what_has_the_hash(is_right: bool, tmp_path: Path) -> None:
    wheel, name = tmp_path / "tinypackage-1.0-py3-none-any.whl", "tinypackage-1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n"
    kind = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(
        f"{name}/{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for file, text in (("METADATA", metadata), ("WHEEL", kind))
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in (("METADATA", metadata), ("WHEEL", kind), ("RECORD", f"{record}{name}/RECORD,,\n".encode())):
            archive.writestr(f"{name}/{file}", text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest() if is_right else "0" * 64
    (tmp_path / "constraints.txt").write_text(f"tinypackage==1.0 \\\n    --hash=sha256:{digest}\n")
    command = [Path(sys.executable).with_name("uv"), "pip", "install", "--target", "there", "--no-index", "--no-cache"]
    command += ["--find-links", ".", "-c", "constraints.txt", "tinypackage"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == is_right, done.stderr
    assert ("Hash mismatch" in done.stderr) != is_right


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a database that knows of one package, old-package 1.2."""

    class Osv(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            known = [{"id": name} for name in KNOWN]
            self._answer(
                {"results": [{"vulns": known} if one["package"]["name"] == "old-package" else {} for one in asked]}
            )

        def do_GET(self) -> None:
            self._answer(KNOWN[self.path.rpartition("/")[2]])

        def _answer(self, content: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("pinned", "code", "says"),
    [
        ("new==1.0\nold-package==1.2 \\\n    --hash=sha256:00\n", 1, "old-package 1.2: OLD-2, fixed in 1.10; change"),
        ("old-package==1.11\n", 0, "audit: 1 packages, 2 known vulnerabilities, 0 to be fixed here"),
        ("new==1.0\n", 0, "audit: 1 packages, 0 known vulnerabilities"),
    ],
)
def test_the_audit_fails_for_what_a_later_version_fixes(
    database: str, tmp_path: Path, pinned: str, code: int, says: str
) -> None:
    (tmp_path / "pins.txt").write_text(pinned)
    done = subprocess.run([*AUDIT, tmp_path / "pins.txt", database], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert says in done.stdout


def test_the_audit_is_skipped_with_the_reason_where_the_database_cannot_be_reached() -> None:
    at = f"http://{unused_address()}"
    done = subprocess.run([*AUDIT, ROOT / "constraints.txt", at], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(rf"audit skipped: {at} cannot be reached \(.*refused\)\n", done.stdout)
