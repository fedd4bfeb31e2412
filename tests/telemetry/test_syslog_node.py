"""A whole daemon tells a collector what it does, from its start to its stop; no secret is in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.peer.pki_demo import demo_pki
from tests.core.collector import Collector

from .test_mqtt_node import write_node


def node_file(folder: Path, collector: Collector) -> Path:
    path: Path = write_node(folder)
    text = path.read_text()
    files = demo_pki(folder / "pki").post_quantum["alice"]
    for name, real in (
        ("node.pem", files.certificate), ("node.key", files.key), ("ca.pem", files.trust), ("ca.crl", files.crl),
    ):  # fmt: skip
        text = text.replace(f'"{name}"', f'"{real}"')
    section = "[syslog]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in collector.settings().items())
    path.write_text(text.replace("[devices.tagger]", f"{section}\n[devices.tagger]"))
    return path


def test_a_daemon_on_syslog(tmp_path: Path) -> None:
    async def main() -> None:
        collector = Collector(tmp_path / "collector")
        await collector.start()
        path = node_file(tmp_path / "node", collector)
        daemon = Daemon(load_node(path), SystemClock(), source=path)
        await daemon.start()
        try:
            found = []
            while not {"daemon started", "syslog up"} <= {message.text for message in found}:
                found += await collector.heard(1)
            (audit,) = (m for m in found if m.text == "daemon started" and m.facility == 13)
            assert audit.fields["node"] == "alice"
            assert daemon.supervisor.parts["syslog"].state.value == "up"
        finally:
            await daemon.stop()
        await collector.stop()
        master = (path.parent / "master.key").read_text().strip()
        assert master not in str(found)
        assert b"qkdd_syslog_messages_total" in daemon.meter.exposition()

    log.configure("info")
    asyncio.run(main())
