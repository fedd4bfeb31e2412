"""The composed daemon: starts without devices, peer or KMS, shows what is missing, reloads, drains, stops, locks its state."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qkdd.control.client import ControlClient, Refused
from qkdd.core import audit_check
from qkdd.core.clock import SystemClock
from qkdd.core.errors import QkddError
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.node.errors import Interlock, ReloadRefused, StateInUse
from qkdd.peer.audit_key import verifier
from qkdd.peer.pki import demo_pki
from qkdd.testing.patience import PATIENCE_S

_spec = importlib.util.spec_from_file_location("node_support", Path(__file__).with_name("support.py"))
assert _spec is not None
assert _spec.loader is not None
support = sys.modules.setdefault("node_support", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(support)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return demo_pki(tmp_path_factory.mktemp("pki") / "pki")


def node_file(folder: Path, pki: Any, me: str = "alice", port: int = 0) -> Path:
    path: Path = support.write_node(folder, me=me, port=port)
    files = pki.post_quantum[me]
    text = path.read_text()
    for name, real in (
        ("node.pem", files.certificate),
        ("node.key", files.key),
        ("ca.pem", files.trust),
        ("ca.crl", files.crl),
    ):
        text = text.replace(f'"{name}"', f'"{real}"')
    path.write_text(text)
    return path


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(load_node(path), SystemClock(), source=path)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def until(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Let real sockets work until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in several rooms and real sockets
            await asyncio.sleep(0.02)


def test_alone_it_runs_and_says_what_is_missing(tmp_path: Path, pki: Any) -> None:
    async def main() -> None:
        path = node_file(tmp_path, pki)
        async with running(path) as daemon:
            await until(
                lambda: len(daemon.control.errors()) >= 1 and daemon.supervisor.parts["store"].state.value == "up"
            )
            client = ControlClient(daemon.config.control.socket)
            status = await asyncio.to_thread(client.get, "/v1/status")
            assert status["state"] == "degraded"
            assert not status["healthy"]
            parts = {part["name"]: part for part in status["parts"]}
            assert parts["tagger"]["error"]["code"].startswith("QKD-DEV-")
            assert parts["link"]["error"] is None  # it waits; what is wrong is said once, at its place
            for route in ("devices", "link", "blocks", "keys", "errors"):
                await asyncio.to_thread(client.get, f"/v1/{route}")
            with pytest.raises(Refused, match="QKD-CTL-NOT-NOW"):
                await asyncio.to_thread(client.get, "/v1/devices/tagger/fields")
            with pytest.raises(Refused, match="QKD-CTL-NOT-NOW"):
                await asyncio.to_thread(client.post, "/v1/calibrate/polarization")
            daemon.control.refresh_metrics()
            text = daemon.meter.exposition().decode()
            assert 'qkdd_device_up{device="tagger",driver="s15_tdc1"} 0.0' in text
            assert 'qkdd_part_up{part="store"} 1.0' in text
            assert "qkdd_epsilon_spent_ratio 0.0" in text
            with pytest.raises(StateInUse):
                await Daemon(load_node(path), SystemClock()).start()
        assert audit_check.verify(tmp_path / "state" / "audit.log", verifier()).lines >= 3
        async with running(path):  # everything was released
            pass

    asyncio.run(main())


def test_peer_with_real_certificates_up_down_up(tmp_path: Path, pki: Any) -> None:
    async def main() -> None:
        a_path = node_file(tmp_path / "a", pki)
        async with running(a_path) as alice:
            await until(lambda: alice.rooms.peer._server is not None)
            b_path = node_file(tmp_path / "b", pki, "bob", alice.rooms.peer.port)
            async with running(b_path) as bob:
                await until(lambda: bob.link_run.session is not None and alice.link_run.session is not None)
                assert bob.control.link().authentication == "ml-dsa"
                await until(lambda: alice.supervisor.parts["peer"].state.value == "up")
            await until(lambda: alice.supervisor.parts["peer"].state.value != "up")
            assert alice.link_run.session is None
            async with running(b_path):
                await until(lambda: alice.link_run.session is not None)

    asyncio.run(main())


def test_another_link_section_is_refused_by_its_key_and_heals(tmp_path: Path, pki: Any) -> None:
    async def main() -> None:
        async with running(node_file(tmp_path / "a", pki)) as alice:
            await until(lambda: alice.rooms.peer._server is not None)
            b_path = node_file(tmp_path / "b", pki, "bob", alice.rooms.peer.port)
            support.edit(b_path, 'window = "6 ns"', 'window = "7 ns"')
            async with running(b_path) as bob:
                await until(lambda: any(e.part == "peer" and "window" in e.message for e in bob.control.errors()))
            support.edit(b_path, 'window = "7 ns"', 'window = "6 ns"')
            async with running(b_path) as bob:
                await until(lambda: bob.link_run.session is not None)

    asyncio.run(main())


def test_reload_drain_resume(tmp_path: Path, pki: Any) -> None:
    async def main() -> None:
        path = node_file(tmp_path, pki)
        async with running(path) as daemon:
            await until(lambda: daemon.rooms.peer._server is not None)
            assert await daemon.reload() == []
            support.edit(path, 'id = "alice"', 'id = "alice"\nlog_level = "warning"')
            assert await daemon.reload() == ["node.log_level"]
            support.edit(path, 'window = "6 ns"', 'window = "9 ns"')
            with pytest.raises(ReloadRefused, match=r"link\.shared\.window"):
                await daemon.reload()
            assert daemon.config.link.shared.window == pytest.approx(6e-9)
            await daemon.control.drain()
            assert daemon.link_run.draining
            daemon.resume()
            assert not daemon.link_run.draining
            with pytest.raises(QkddError, match="level"):
                daemon.control.set_log_level("loud")

    asyncio.run(main())


def test_an_interlock_stops_link_and_devices_until_resume(tmp_path: Path, pki: Any) -> None:
    async def main() -> None:
        async with running(node_file(tmp_path, pki)) as daemon:
            daemon.trip(Interlock("the lid is open"))
            await until(lambda: "tagger" not in daemon.supervisor.parts and "link" not in daemon.supervisor.parts)
            assert daemon.control.status().state == "tripped"
            assert any(e.code == "QKD-NODE-INTERLOCK" for e in daemon.control.errors())
            daemon.resume()
            assert {"tagger", "link"} <= set(daemon.supervisor.parts)
            assert daemon.control.status().state != "tripped"

    asyncio.run(main())


def test_the_process_serves_metrics_and_ends_on_sigterm(tmp_path: Path, pki: Any) -> None:
    path = node_file(tmp_path, pki)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "qkdd", "run", str(path)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        line = ""
        while "daemon started" not in line:
            line = process.stderr.readline()
            assert line, "the daemon ended"
        status = ControlClient(str(tmp_path / "c.sock")).get("/v1/status")
        assert status["node"] == "alice"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "daemon stopped" in rest
    assert not (tmp_path / "c.sock").exists()


def test_a_wrong_file_starts_nothing(tmp_path: Path) -> None:
    path = support.edit(support.write_node(tmp_path), 'window = "6 ns"', 'window = "6 mV"')
    done = subprocess.run([sys.executable, "-m", "qkdd", "run", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "QKD-CFG-REFUSED" in done.stderr
    assert "link.shared.window" in done.stderr
    assert not (tmp_path / "state").exists()
