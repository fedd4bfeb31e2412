"""A whole daemon tells a real broker what it is and does; no key byte is in it, and stopping says goodbye."""

from __future__ import annotations

import asyncio
import json
import runpy
from pathlib import Path
from typing import Any

from qkdd.core.clock import SystemClock
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.peer.pki_demo import demo_pki

from .broker import Broker, Pki
from .test_mqtt import observer

write_node = runpy.run_path(str(Path(__file__).parents[1] / "node" / "support.py"))["write_node"]


def node_file(folder: Path, pki: Pki, broker: Broker) -> Path:
    path: Path = write_node(folder)
    text = path.read_text()
    files = demo_pki(folder / "pki").post_quantum["alice"]
    for name, real in (
        ("node.pem", files.certificate), ("node.key", files.key), ("ca.pem", files.trust), ("ca.crl", files.crl),
    ):  # fmt: skip
        text = text.replace(f'"{name}"', f'"{real}"')
    certificate, key = pki.issue("alice")
    mqtt = {
        "server": f"localhost:{broker.port}", "site": "lab", "certificate": str(certificate), "key": str(key),
        "trust": str(pki.trust), "period": "1 s",
    }  # fmt: skip
    section = "[telemetry.mqtt]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in mqtt.items())
    path.write_text(text.replace("[devices.tagger]", f"{section}\n[devices.tagger]"))
    return path


def test_a_daemon_on_mqtt(tmp_path: Path) -> None:
    async def main() -> None:
        pki = Pki(tmp_path / "mqtt")
        broker = Broker(tmp_path / "broker", pki)
        broker.start()
        try:
            path = node_file(tmp_path / "node", pki, broker)
            async with observer(pki, broker) as heard:
                daemon = Daemon(load_node(path), SystemClock(), source=path)
                await daemon.start()
                try:
                    seen: dict[str, dict[str, Any]] = {}
                    while "telemetry/devices" not in seen or not any(t.startswith("event/") for t in seen):
                        ((topic, payload, _),) = await heard(1)
                        seen[topic.removeprefix("qkd/v1/lab/alice/")] = json.loads(payload)
                finally:
                    await daemon.stop()
                last = {}
                while last.get("state") != "offline":
                    ((topic, payload, _),) = await heard(1)
                    last = json.loads(payload)
            assert {"birth", "status", "telemetry/link", "telemetry/keys", "telemetry/devices"} <= set(seen)
            assert seen["birth"]["node"] == "alice"
            assert [device["name"] for device in seen["birth"]["devices"]] == ["tagger", "polarization"]
            assert seen["telemetry/link"]["boot"] == seen["birth"]["boot"]
            master = (path.parent / "master.key").read_text().strip()
            assert master not in json.dumps(seen)
            assert daemon.meter.exposition().decode().count("qkdd_mqtt_messages_total") >= 1
        finally:
            broker.stop()

    asyncio.run(main())
