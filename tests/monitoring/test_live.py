"""A real Prometheus and Alertmanager watch a real daemon: it is killed, the page fires; it is back, the page clears."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qkdd.core.ports import free_port
from qkdd.peer.pki_demo import demo_pki
from qkdd.testing.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
write_node = runpy.run_path(str(ROOT / "tests/node/support.py"))["write_node"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMETHEUS is None or ALERTMANAGER is None,
        reason="prometheus and prometheus-alertmanager (Debian packages) are not installed",
    ),
]


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    ends = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < ends, what
        time.sleep(0.2)


class Pager:
    """Where Alertmanager sends: (path, alert, status) as they come."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                heard.extend((self.path, a["labels"]["alertname"], a["status"]) for a in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextmanager
def child(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen([str(part) for part in command], stdout=file, stderr=file)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def node_file(folder: Path, metrics: int) -> Path:
    path: Path = write_node(folder)
    files = demo_pki(folder / "pki").post_quantum["alice"]
    text = path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{metrics}"', 1)
    for name, real in (
        ("node.pem", files.certificate), ("node.key", files.key), ("ca.pem", files.trust), ("ca.crl", files.crl),
    ):  # fmt: skip
        text = text.replace(f'"{name}"', f'"{real}"')
    path.write_text(text)
    return path


def configure(folder: Path, metrics: int, alerts: int, pager: int) -> None:
    """The shipped files, faster and on free ports."""
    rules = re.sub(r"for: \d+[mh]", "for: 2s", (ROOT / "monitoring/rules/qkdd.yml").read_text())
    (folder / "rules.yml").write_text(rules)
    config = (ROOT / "monitoring/prometheus.yml").read_text()
    for old, new in (
        ("5s", "1s"), ("rules/qkdd.yml", "rules.yml"), ("127.0.0.1:9101", f"127.0.0.1:{metrics}"),
        ("127.0.0.1:9093", f"127.0.0.1:{alerts}"),
    ):  # fmt: skip
        config = config.replace(old, new)
    (folder / "prometheus.yml").write_text(config)
    routes = (ROOT / "monitoring/alertmanager.yml").read_text()
    routes = routes.replace("group_wait: 10s", "group_wait: 0s").replace("group_interval: 5m", "group_interval: 1s")
    (folder / "alertmanager.yml").write_text(routes.replace("127.0.0.1:9099", f"127.0.0.1:{pager}"))


def test_a_page_fires_and_clears(tmp_path: Path) -> None:
    metrics, web, alerts = free_port(), free_port(), free_port()
    file = node_file(tmp_path / "node", metrics)
    daemon = (Path(sys.executable).with_name("qkdd"), "run", file)
    pager = Pager()
    configure(tmp_path, metrics, alerts, pager.server.server_address[1])

    def scraped(value: str) -> bool:
        query = f"http://127.0.0.1:{web}/api/v1/query?query=up%7Bjob%3D%22qkdd%22%7D"
        try:
            with urllib.request.urlopen(query, timeout=PATIENCE_S) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return False
        return bool(found) and found[0]["value"][1] == value

    try:
        with (
            child(
                ALERTMANAGER or "", f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'am'}",
                f"--web.listen-address=127.0.0.1:{alerts}", "--cluster.listen-address=", log=tmp_path / "am.log",
            ),
            child(
                PROMETHEUS or "", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{web}", log=tmp_path / "prometheus.log",
            ),
        ):  # fmt: skip
            with child(*daemon, log=tmp_path / "node.log") as running:
                until(lambda: scraped("1"), "Prometheus scrapes the daemon")
                assert not [h for h in pager.heard if h[1] == "QkddNodeUnreachable"]
                running.send_signal(signal.SIGKILL)
                until(lambda: ("/page", "QkddNodeUnreachable", "firing") in pager.heard, "the page fires")
            with child(*daemon, log=tmp_path / "node.log"):
                until(lambda: scraped("1"), "the daemon is back")
                until(lambda: ("/page", "QkddNodeUnreachable", "resolved") in pager.heard, "the page clears")
    finally:
        pager.close()
