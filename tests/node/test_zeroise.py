"""Emergency erasure of a running node, by order and by tamper input: nothing is left, and it does not start again by itself."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qkdd.control.qkdctl import app
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused
from qkdd.core.counters import RecordingMeter
from qkdd.core.tamper import TamperWatch
from qkdd.core.zeroise import EXIT_ZEROISED, MARK, ZeroiseConfig, Zeroised, refuse_zeroised, store_files, zeroise
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.peer.pki import demo_pki
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S, Stopwatch

_spec = importlib.util.spec_from_file_location("node_test_daemon", Path(__file__).with_name("test_daemon.py"))
assert _spec is not None
assert _spec.loader is not None
daemons = sys.modules.setdefault("node_test_daemon", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(daemons)


def qkdctl(*words: str, typed: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), typed)
    return result.exit_code, result.output


@pytest.mark.parametrize("how", ["order", "tamper"])
def test_nothing_is_left_within_a_second(tmp_path: Path, how: str) -> None:
    pki = demo_pki(tmp_path / "pki")
    path = daemons.node_file(tmp_path, pki)
    gpio = tmp_path / "gpio"
    gpio.write_text("0\n")
    path.write_text(path.read_text() + f'\n[zeroise]\ntamper_file = "{gpio}"\n')
    config = load_node(path)
    state = Path(config.node.state_directory)
    kept = tmp_path / "kept"
    kept.mkdir()

    async def main() -> None:
        ended, gone = list[int](), asyncio.Event()

        def end(code: int) -> None:
            ended.append(code)
            gone.set()

        daemon = Daemon(config, SystemClock(), source=path)
        daemon.end = end
        await daemon.start()
        try:
            keys = [Path(p) for p in (config.node.master_key, config.peer.key)]
            held = [p for p in [*keys, *store_files(state / "keys.sqlite")] if p.exists()]
            assert len(held) >= 3
            for file in held:
                os.link(file, kept / f"{uuid.uuid4()}-{file.name}")  # a second name shows what is left of the content
            if how == "order":
                socket = config.control.socket
                code, _ = await asyncio.to_thread(qkdctl, "zeroise", "--socket", socket, typed="bob\n")
                assert (code, held[0].exists()) == (1, True)
            watch_ = Stopwatch()
            if how == "order":
                code, text = await asyncio.to_thread(qkdctl, "zeroise", "--socket", socket, typed="alice\n")
                assert (code, "NOT ERASED" in text) == (0, False)
            else:
                gpio.write_text("1\n")
            while not await asyncio.to_thread((state / MARK).exists):
                assert watch_.seconds < 1.0
            assert not any(file.exists() for file in held)
            assert all(file.stat().st_size == 0 for file in kept.iterdir() if not file.name.endswith("-shm"))
            await asyncio.wait_for(gone.wait(), PATIENCE_S)
            assert ended == [EXIT_ZEROISED]
        finally:
            await daemon.stop()

    asyncio.run(main())
    with pytest.raises(ConfigRefused):  # no master key
        load_node(path)
    with pytest.raises(Zeroised):
        asyncio.run(Daemon(config, SystemClock(), source=path).start())
    assert qkdctl("rebootstrap", str(state), "--confirm", "elsewhere")[0] == 1
    refused = state / "keys.sqlite"
    refused.write_bytes(b"from a backup")
    assert qkdctl("rebootstrap", str(state), "--confirm", str(state))[0] == 1
    refused.unlink()
    assert qkdctl("rebootstrap", str(state), "--confirm", str(state))[0] == 0
    refuse_zeroised(state)


def test_a_key_that_cannot_be_erased_is_named_and_the_store_is_overwritten(tmp_path: Path) -> None:
    """A credential in a folder that is read-only for the service: the store must not be left for it."""
    key, store = tmp_path / "master.key", tmp_path / "keys.sqlite"
    key.mkdir()  # opening it for writing fails, for root too
    store.write_bytes(b"sealed" * 1000)
    descriptor = os.open(store, os.O_RDONLY)
    seen: list[bytes] = []
    original = os.ftruncate

    def look(number: int, size: int) -> None:
        seen.append(os.pread(descriptor, 6000, 0))
        original(number, size)

    os.ftruncate = look
    try:
        report = zeroise(tmp_path, [key], [store], "test", 0.0)
    finally:
        os.ftruncate = original
        os.close(descriptor)
    assert len(report.failed) == 1
    assert "master.key" in report.failed[0]
    assert len(seen) == 1
    assert b"sealed" not in seen[0]
    assert not store.exists()


OPEN_STORE = """
import sys
from pathlib import Path
from qkdd.core.errors import QkddError
from qkdd.core.sqlite_file import SqliteFile
from qkdd.core.zeroise import store_files, zeroise

folder = Path(sys.argv[1])
store = SqliteFile(folder / "keys.sqlite")
connection = store.open()
with connection.begin():
    connection.exec_driver_sql("CREATE TABLE keys (sealed BLOB)")
report = zeroise(folder, [], store_files(store.path), "test", 0.0)
for _ in range(3):
    try:
        with connection.begin():
            connection.exec_driver_sql("INSERT INTO keys VALUES (zeroblob(100000))")
    except Exception as error:
        assert isinstance(store.error(error), QkddError)
assert report.failed == (), report
assert not any(path.exists() for path in store_files(store.path))
print("alive")
"""


def test_a_key_is_overwritten_whatever_its_name(tmp_path: Path) -> None:
    key = tmp_path / "master-shm"
    key.write_bytes(bytes(range(32)))
    os.link(key, tmp_path / "second name")
    assert zeroise(tmp_path, [key], [], "test", 0.0).failed == ()
    assert (tmp_path / "second name").read_bytes() == b""


def test_a_store_in_use_is_erased_under_the_process_that_uses_it(tmp_path: Path) -> None:
    """SQLite has the index of its log mapped: a file cut under it would end the process in the midst of the erasure."""
    done = subprocess.run([sys.executable, "-c", OPEN_STORE, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
    assert (tmp_path / MARK).exists()


def watch(config: ZeroiseConfig, meter: RecordingMeter, seconds: float = 5.0) -> list[str]:
    tripped: list[str] = []

    async def trip(reason: str) -> None:
        tripped.append(reason)

    async def main() -> None:
        try:
            async with asyncio.timeout(seconds):
                await TamperWatch(config, SystemClock(), meter, trip).run()
        except TimeoutError:
            return

    asyncio.run(main())
    return tripped


def test_a_byte_on_a_descriptor_trips_and_a_closed_one_does_not() -> None:
    meter = RecordingMeter()
    ours, theirs = os.pipe()
    os.write(theirs, b"!")
    assert len(watch(ZeroiseConfig(tamper_descriptor=ours), meter)) == 1
    os.close(theirs)
    assert watch(ZeroiseConfig(tamper_descriptor=ours), meter) == []
    assert meter.gauges["qkdd_tamper_inputs_lost", ()] == 1.0
    os.close(ours)


def test_a_program_that_says_tamper() -> None:
    meter = RecordingMeter()
    assert len(watch(ZeroiseConfig(tamper_command=("sh", "-c", "echo fine; echo tamper; sleep 60")), meter)) == 1
    assert watch(ZeroiseConfig(tamper_command=("sh", "-c", "echo tampered")), meter, 0.3) == []
    assert watch(ZeroiseConfig(tamper_command=("/nowhere/at/all",)), meter, 0.3) == []
    assert meter.gauges["qkdd_tamper_inputs_lost", ()] == 1.0


def test_a_file_that_cannot_be_read_is_an_alarm_and_no_erasure(tmp_path: Path) -> None:
    async def main() -> None:
        clock, meter, tripped = FakeClock(), RecordingMeter(), asyncio.Event()

        async def trip(_reason: str) -> None:
            tripped.set()

        file = tmp_path / "value"
        task = asyncio.create_task(TamperWatch(ZeroiseConfig(tamper_file=str(file)), clock, meter, trip).run())
        while meter.gauges.get(("qkdd_tamper_inputs_lost", ())) != 1.0:
            await asyncio.to_thread(time.monotonic)
        assert not tripped.is_set()
        file.write_text("1")
        while not tripped.is_set():
            await clock.advance(0.05)
            await asyncio.to_thread(time.monotonic)
        await task
        assert meter.gauges["qkdd_tamper_inputs_lost", ()] == 0.0

    asyncio.run(main())
