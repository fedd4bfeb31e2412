"""Syslog over TLS against a collector of the test's own: what arrives, what happens without one, what costs nothing."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import CredentialError
from qkdd.core.secret import Secret
from qkdd.core.syslog import SyslogDown, SyslogSink
from qkdd.core.syslog_config import SyslogConfig
from qkdd.core.syslog_format import Header, frame

from .collector import Collector, parse, unframed

HEADER = Header("rack-7", 4711, "qkdd@32473")


def test_a_line_as_rfc_5424_has_it() -> None:
    record = {
        "event": "block refused", "level": "warning", "timestamp": "2026-11-21T10:00:00.123456Z", "room": "link",
        "code": "QKD-BLK-QBER", "error": 'error rate "5 %" [of 4 %] \\ block', "remedy": None, "block": 7,
    }  # fmt: skip
    identity = log.message_id("block refused", "link")
    assert frame(record, HEADER, 3, identity) == (
        b"201 <28>1 2026-11-21T10:00:00.123456Z rack-7 qkdd 4711 " + identity.encode()
        + b' [qkdd@32473 room="link" code="QKD-BLK-QBER"'
        + b' error="error rate \\"5 %\\" [of 4 %\\] \\\\ block" block="7"] \xef\xbb\xbfblock refused'
    )  # fmt: skip


@given(
    st.dictionaries(st.text(max_size=50), st.one_of(st.text(max_size=3000), st.integers(), st.none()), max_size=30),
    st.text(max_size=2000),
)
def test_any_record_becomes_one_message_that_parses(fields: dict[str, str], event: str) -> None:
    data = frame({**fields, "event": event, "level": "error"}, HEADER, 3, "x" * 40)
    (message,), rest = unframed(data)
    assert rest == b""
    assert len(message) <= 8192
    found = parse(message)
    assert found.severity == 3
    for name, value in found.fields.items():
        assert 1 <= len(name) <= 32
        assert "\n" not in value


@pytest.fixture
def collector(tmp_path: Path) -> Collector:
    return Collector(tmp_path / "pki")


def config(collector: Collector, **changes: object) -> SyslogConfig:
    return SyslogConfig(**{**collector.settings(), **changes})  # type: ignore[arg-type]


@contextmanager
def listening(settings: SyslogConfig, meter: RecordingMeter) -> Iterator[SyslogSink]:
    sink = SyslogSink(settings, SystemClock(), meter)
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


@asynccontextmanager
async def connected(sink: SyslogSink) -> AsyncIterator[asyncio.Task[None]]:
    up = asyncio.Event()
    task = asyncio.create_task(sink.life(up.set))
    waiting = asyncio.create_task(up.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


def test_log_lines_and_audit_lines_arrive_in_order(tmp_path: Path, collector: Collector) -> None:
    async def main() -> None:
        meter = RecordingMeter()
        await collector.start()
        with listening(config(collector), meter) as sink:
            logger = log.get("link")
            logger.info("before the connection", block=1)
            async with connected(sink):
                logger.debug("too fine")
                logger.error("after it", code="QKD-BLK-QBER", key=Secret(b"0123456789abcdef"), raw=b"0123456789abcdef")
                audit = AuditLog(tmp_path / "audit.log", SystemClock())
                audit.write("control", uid=1000, route="/v1/drain", verdict="denied")
                audit.close()
                worker = threading.Thread(target=logger.warning, args=("from a thread",))
                worker.start()
                found = await collector.heard(4)
                worker.join()
                await sink.flushed(10.0)
        assert [m.text for m in found] == ["before the connection", "after it", "control", "from a thread"]
        assert [(m.facility, m.severity) for m in found] == [(3, 6), (3, 3), (13, 4), (3, 4)]
        assert found[0].fields == {"room": "link", "block": "1"}
        assert found[1].fields["code"] == "QKD-BLK-QBER"
        assert "0123456789abcdef" not in str(found)
        assert "30313233" not in str(found)
        assert found[2].fields == {"room": "audit", "uid": "1000", "route": "/v1/drain", "verdict": "denied"}
        assert meter.total("qkdd_syslog_messages_total") == 4
        await collector.stop()

    log.configure("debug")
    try:
        asyncio.run(main())
    finally:
        log.configure("info")


def test_a_full_queue_drops_the_oldest_and_counts(collector: Collector) -> None:
    async def main() -> None:
        meter = RecordingMeter()
        with listening(config(collector, queue=100), meter) as sink:
            for number in range(130):
                sink.take({"event": f"line {number}", "level": "info", "room": "link"})
            assert meter.total("qkdd_syslog_dropped_total") == 30
            with pytest.raises(SyslogDown):
                await sink.life(lambda: None)  # nobody is there, and nothing is lost by trying
            await collector.start()
            async with connected(sink):
                found = await collector.heard(100)
        assert [m.text for m in found] == [f"line {number}" for number in range(30, 130)]
        await collector.stop()

    asyncio.run(main())


def test_a_collector_that_goes_and_comes_back(collector: Collector) -> None:
    async def main() -> None:
        with listening(config(collector), RecordingMeter()) as sink:
            await collector.start()
            async with connected(sink) as task:
                sink.take({"event": "one", "room": "link"})
                await collector.heard(1)
                await collector.stop()
                with pytest.raises(SyslogDown, match="collector localhost"):
                    await task
            sink.take({"event": "two", "room": "link"})
            await collector.start()
            async with connected(sink):
                assert [m.text for m in await collector.heard(1)] == ["two"]
        await collector.stop()

    asyncio.run(main())


@pytest.mark.parametrize("case", ["stranger", "old protocol", "wrong name"])
def test_the_channel_is_refused_and_the_line_waits(collector: Collector, case: str) -> None:
    async def main() -> None:
        most = ssl.TLSVersion.TLSv1_2 if case == "old protocol" else None
        await collector.start(most=most, host="other.example" if case == "wrong name" else "localhost")
        settings = config(collector, **collector.foreign() if case == "stranger" else {})
        meter = RecordingMeter()
        with listening(settings, meter) as sink:
            sink.take({"event": "kept", "room": "link"})
            with pytest.raises(SyslogDown):
                await sink.life(lambda: None)
            assert meter.total("qkdd_syslog_messages_total") == 0
            assert meter.gauges[("qkdd_syslog_waiting", ())] == 1
        await collector.stop()

    asyncio.run(main())


def test_a_key_that_others_can_read_is_refused(collector: Collector) -> None:
    settings = config(collector)
    Path(settings.key).chmod(0o644)

    async def main() -> None:
        with listening(settings, RecordingMeter()) as sink, pytest.raises(CredentialError, match="read by others"):
            await sink.life(lambda: None)

    asyncio.run(main())


def test_settings_that_are_refused() -> None:
    files = {"certificate": "a", "key": "b", "trust": "c"}
    wrong = SyslogConfig(server="siem", facility="kitchen", queue=1, enterprise=0, **files)
    assert {key for key, _, _ in wrong.check()} == {"server", "facility", "queue", "enterprise"}
    assert not list(SyslogConfig(server="siem.example:6514", **files).check())


def test_without_a_supervisor_it_connects_when_the_collector_comes(collector: Collector) -> None:
    async def main() -> None:
        settings = config(collector)
        with listening(settings, RecordingMeter()) as sink:
            sink.take({"event": "early", "room": "kms"})
            keeping = asyncio.create_task(sink.keep())
            await collector.start()
            assert [m.text for m in await collector.heard(1)] == ["early"]
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await collector.stop()

    asyncio.run(main())
