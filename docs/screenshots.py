"""Take the screenshots of the documentation: the runs of a study in MLflow, a comparison, and each saved view.

    python docs/screenshots.py --tracking sqlite:///mlflow.db --experiment acsearch/demo --out docs/images

Starts an MLflow server for that store on a free loopback port and ends it afterwards.  Needs Chromium.  The browser is
driven through its DevTools pipe, because `--screenshot` fires before the charts are drawn and cannot keep MLflow's
assistant from opening over a quarter of the page.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient

from acsearch.reporting.mlflow_views import saved_views

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
SIZE = {"width": 1800, "height": 1100, "deviceScaleFactor": 1, "mobile": False}
# MLflow opens its assistant on the first visit to a local server, unless it remembers having done so.
BEFORE_PAGE = "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch {}"
# Hide the assistant's button and the tool bars of charts; unfold the study in a table of runs.
TIDY = """(() => { const style = document.createElement('style');
    style.textContent = '[data-assistant-ui], .modebar-container { display: none !important }';
    document.head.append(style);
    document.querySelectorAll('.ag-row button').forEach(button => button.click()) })()"""
# Changes as long as anything is still being loaded or drawn; null before the page has content.
FINGERPRINT = "document.querySelector('main, #root') && document.documentElement.outerHTML.length"


@contextmanager
def server(tracking: str) -> Iterator[str]:
    """Address of an MLflow server of that store, for as long as the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = ["-m", "mlflow", "server", "--backend-store-uri", tracking, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command, "--workers", "1"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that its workers end with it
    )
    try:
        address = f"http://127.0.0.1:{port}/"
        for _ in range(120):
            try:
                urllib.request.urlopen(address + "health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"mlflow server exited with {process.returncode} for {tracking}") from None
                time.sleep(1)
        else:
            raise SystemExit(f"mlflow server did not answer within two minutes for {tracking}")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


class Browser:
    """A page of a headless Chromium, driven by DevTools messages: JSON ended by a zero byte, over file descriptors."""

    def __init__(self, profile: str) -> None:
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None:
            raise SystemExit(f"no browser found, looked for {', '.join(BROWSERS)}")
        commands, self._send = os.pipe()
        receive, replies = os.pipe()
        # Chromium reads descriptor 3 and writes descriptor 4.
        redirect = f'exec "$0" "$@" 3<&{commands} 4>&{replies}'
        self._process = subprocess.Popen(
            ["sh", "-c", redirect, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, replies),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(replies)
        self._replies = os.fdopen(receive, "rb")
        self._count = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Emulation.setDeviceMetricsOverride", **SIZE)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=BEFORE_PAGE)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self._count += 1
        message: dict[str, object] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            reply = json.loads(self._next())
            if reply.get("id") == self._count:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                return dict(reply["result"])

    def _next(self) -> bytes:
        parts = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser went away")
            parts += byte
        return bytes(parts)

    def evaluate(self, script: str) -> object:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def shoot(self, url: str, path: Path) -> None:
        """Open the page in a fresh document and save it as PNG once it stands still."""
        self.call("Page.navigate", url="about:blank")  # else a new fragment would keep the old page's state
        self.call("Page.navigate", url=url)
        self._settle(path.name)
        self.evaluate(TIDY)
        self._settle(path.name)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _settle(self, name: str, still: float = 4.0, timeout: float = 90.0) -> None:
        """Wait until nothing on the page has changed for `still` seconds."""
        deadline = time.monotonic() + timeout
        last, since = None, time.monotonic()
        while time.monotonic() < deadline:
            now = self.evaluate(FINGERPRINT)
            if now is None or now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > still:
                return
            time.sleep(0.25)
        print(f"{name}: the page was still changing after {timeout:.0f} s", file=sys.stderr)

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)


def pages(tracking: str, experiment_name: str) -> dict[str, str]:
    """URL fragments by file name."""
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        raise SystemExit(f"no experiment {experiment_name!r} in {tracking}")
    identity = experiment.experiment_id
    finetunes = client.search_runs([identity], "tags.`acsearch.kind` = 'finetune'")
    runs = quote(json.dumps([run.info.run_id for run in finetunes]))
    experiments = quote(json.dumps([identity]))
    fragments = {
        "mlflow-runs": f"#/experiments/{identity}/runs?workflowType=machine_learning",
        "mlflow-compare": f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning",
    }
    views = saved_views((), has_correspondence=True)  # only where they are, not what they show
    return fragments | {f"mlflow-{v.key}": v.fragment(identity) for v in views if v.tag in experiment.tags}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking", required=True, help="store, as in sqlite:///mlflow.db")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the PNG files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    fragments = pages(options.tracking, options.experiment)
    with server(options.tracking) as address, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            for name, fragment in fragments.items():
                browser.shoot(address + fragment, options.out / f"{name}.png")
                print(options.out / f"{name}.png")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
