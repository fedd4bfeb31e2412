"""The audit log: any change shows, signatures are good or named, a full disk loses nothing that was settled."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from qkdd.control.qkdctl import app
from qkdd.core.audit import AuditLog
from qkdd.core.audit_check import AuditBroken, verify
from qkdd.core.audit_files import closed_segments, head_path
from qkdd.core.errors import CredentialError, StorageFailed, StorageFull
from qkdd.peer.audit_key import CertificateSigner, verifier
from qkdd.peer.pki_demo import DemoPki, demo_pki
from qkdd.testing.clock import FakeClock


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("pki") / "pki")


def signer(pki: DemoPki, name: str = "alice") -> CertificateSigner:
    paths = pki.post_quantum[name]
    return CertificateSigner(paths.certificate, paths.key)


def written(path: Path, pki: DemoPki | None, lines: int = 5, runs: int = 1) -> Path:
    for _ in range(runs):
        log = AuditLog(path, FakeClock(), signer(pki) if pki is not None else None)
        for number in range(lines):
            log.write("draw", sae="sae-a", number=number)
        log.close()
    return path


def test_a_restart_goes_on_with_the_chain(tmp_path: Path, pki: DemoPki) -> None:
    path = written(tmp_path / "audit.log", pki, runs=2)
    report = verify(path, verifier(pki.post_quantum["alice"].trust))
    assert (report.lines, report.signatures, report.unsigned) == (14, 2, 0)  # 2 x (signer, 5 lines, signature)
    assert verify(written(tmp_path / "plain.log", None)).lines == 5


def test_signatures_come_by_count_and_by_time(tmp_path: Path, pki: DemoPki) -> None:
    async def main() -> None:
        clock = FakeClock()
        log = AuditLog(tmp_path / "a", clock, signer(pki))
        for _ in range(1000):
            log.write("draw")
        await log.settled()
        assert verify(tmp_path / "a", verifier()).signatures == 1
        log.write("draw")
        await log.settled()
        assert verify(tmp_path / "a", verifier()).signatures == 1
        await clock.advance(601.0)
        log.write("draw")
        await log.settled()
        assert verify(tmp_path / "a", verifier()).signatures == 2
        log.close()
        log.close()

    asyncio.run(main())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_change_is_found(tmp_path_factory: pytest.TempPathFactory, pki: DemoPki, data: st.DataObject) -> None:
    path = written(tmp_path_factory.mktemp("log") / "audit.log", pki)
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["remove", "cut", "swap", "flip"]))
    if how == "remove":
        del lines[place]
    elif how == "cut":
        del lines[min(place, len(lines) - 2) :]
    elif how == "swap":
        other = (place + 1) % len(lines)
        lines[place], lines[other] = lines[other], lines[place]
    else:
        line = bytearray(lines[place])
        at = data.draw(st.integers(0, len(line) - 1))
        line[at] ^= 1 << data.draw(st.integers(0, 6))
        lines[place] = bytes(line)
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditBroken):
        verify(path, verifier(pki.post_quantum["alice"].trust))


def test_a_rewritten_chain_has_no_good_signature(tmp_path: Path, pki: DemoPki) -> None:
    """Who may write the file but lacks the key can make the chain fit, not the signature."""
    honest = written(tmp_path / "audit.log", pki)
    entries = [json.loads(line) for line in honest.read_text().splitlines()]
    forged = AuditLog(tmp_path / "forged.log", FakeClock())
    for entry in entries:
        fields = {k: v for k, v in entry.items() if k not in ("seq", "time", "event", "chain", "sae")}
        forged.write(entry["event"], **fields, **({"sae": "sae-b"} if "sae" in entry else {}))
    forged.close()
    assert verify(tmp_path / "forged.log").lines == len(entries)  # the chain alone is satisfied
    with pytest.raises(AuditBroken, match="signature is not good"):
        verify(tmp_path / "forged.log", verifier())


def test_a_foreign_signer_is_found(tmp_path: Path, pki: DemoPki) -> None:
    other = demo_pki(tmp_path / "other")
    path = written(tmp_path / "audit.log", other)
    verify(path, verifier())
    with pytest.raises(AuditBroken, match="not issued under"):
        verify(path, verifier(pki.post_quantum["alice"].trust))
    classical = pki.classical["kms-alice"]
    with pytest.raises(CredentialError, match="ML-DSA"):
        CertificateSigner(classical.certificate, classical.key)


def test_a_line_cut_by_a_crash_is_dropped(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.log", None, 2)
    path.write_bytes(path.read_bytes()[:-5])
    written(path, None, 1)
    assert verify(path).lines == 2


def test_a_full_disk_loses_nothing_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        path = tmp_path / "audit.log"
        log = AuditLog(path, FakeClock())
        log.write("before")
        await log.settled()
        room = {"bytes": 10}
        true_pwrite = os.pwrite

        def pwrite(file: int, data: bytes, offset: int) -> int:
            if not room["bytes"]:
                raise OSError(28, "No space left on device")
            part = data[: room["bytes"]]
            room["bytes"] -= len(part)
            return true_pwrite(file, part, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        log.write("during")
        with pytest.raises(StorageFull):
            await log.settled()
        with pytest.raises(StorageFull):
            await log.settled()
        for _ in range(11):
            log.write("during", text="x" * 100_000)
        with pytest.raises(StorageFull):  # what waits is bounded
            log.write("during")
        room["bytes"] = 1 << 30
        await log.settled()
        log.write("after")
        await log.settled()
        log.close()
        assert verify(path).lines == 14

    asyncio.run(main())


def test_who_waits_while_lines_are_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that comes between a write and its end must not be forgotten."""

    async def main() -> None:
        log = AuditLog(tmp_path / "audit.log", FakeClock())
        writing, go = threading.Event(), threading.Event()
        true_sync = os.fdatasync

        def fdatasync(file: int) -> None:
            writing.set()
            go.wait(10)
            true_sync(file)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        log.write("one")
        await asyncio.to_thread(writing.wait, 10)
        late = asyncio.create_task(log.settled())
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait_for(late, 10)
        log.close()

    asyncio.run(main())


def test_a_damaged_head_is_found(tmp_path: Path, pki: DemoPki) -> None:
    path = written(tmp_path / "audit.log", pki)
    head_path(path).write_text("{}")
    with pytest.raises(AuditBroken, match="not readable"):
        verify(path, verifier())


def test_the_command(tmp_path: Path, pki: DemoPki) -> None:
    path = written(tmp_path / "audit.log", pki)
    trust = str(pki.post_quantum["alice"].trust)
    good = CliRunner().invoke(app, ["audit", "verify", str(path), "--trust", trust, "--json"])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["signatures"] == 1
    path.write_text(path.read_text().replace('"sae-a"', '"sae-b"', 1))
    bad = CliRunner().invoke(app, ["audit", "verify", str(path), "--json"])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["code"] == "QKD-CORE-AUDIT"


# --- segments ----------------------------------------------------------------------------------------------------------------

SMALL = 3000  # bytes


def segmented(path: Path, lines: int = 60, runs: int = 1) -> int:
    """Writes logs of many segments; returns how many of our own lines."""

    async def main() -> None:
        for _ in range(runs):
            log = AuditLog(path, FakeClock(), segment=SMALL)
            for number in range(lines):
                log.write("draw", number=number)
                await log.settled()
            log.close()

    asyncio.run(main())
    return lines * runs


def draws(path: Path) -> int:
    """Our own lines in all segments."""
    files = [*closed_segments(path).values(), *([path] if path.exists() else [])]
    return sum(json.loads(line)["event"] == "draw" for file in files for line in file.read_bytes().splitlines())


def test_a_full_segment_is_closed_signed_and_never_touched_again(tmp_path: Path, pki: DemoPki) -> None:
    path = tmp_path / "audit.log"

    async def main() -> None:
        log = AuditLog(path, FakeClock(), signer(pki), segment=1 << 16)
        for number in range(1500):
            log.write("draw", number=number)
            if number % 50 == 49:
                await log.settled()
        log.close()

    asyncio.run(main())
    closed = closed_segments(path)
    assert len(closed) >= 2
    assert all((1 << 16) <= file.stat().st_size < (1 << 16) + 40_000 for file in closed.values())
    assert all(json.loads(file.read_bytes().splitlines()[-1])["event"] == "audit signed" for file in closed.values())
    report = verify(path, verifier(pki.post_quantum["alice"].trust))
    assert (report.first, report.segments, report.unsigned, draws(path)) == (1, len(closed) + 1, 0, 1500)
    for file in closed.values():  # any segment can be checked by itself: it holds its signer
        assert verify(file, verifier(pki.post_quantum["alice"].trust), alone=True).unsigned == 0


def test_older_segments_may_be_archived_but_none_between(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    assert segmented(path, 60, 2) == draws(path)
    whole, closed = verify(path), list(closed_segments(path).values())
    assert (whole.first, whole.segments) == (1, len(closed) + 1)
    assert len(closed) >= 4
    archived = closed[0].read_bytes()
    closed[0].unlink()
    rest = verify(path)
    assert rest.first == len(archived.splitlines()) + 1
    assert rest.lines == whole.lines - len(archived.splitlines())
    closed[2].unlink()
    with pytest.raises(AuditBroken, match="a line before it was removed"):
        verify(path)


def test_the_chain_goes_on_after_a_crash_between_two_segments(tmp_path: Path) -> None:
    """The full segment was put aside, the next one not begun, or begun and empty, or begun with half a line."""
    for rest in (None, b"", b'{"after": "12'):
        folder = tmp_path / str(rest)
        path = folder / "audit.log"
        expected = segmented(path, 30)
        last = path.read_bytes()
        os.replace(path, path.with_name(f"audit-{json.loads(last.splitlines()[0])['seq']:012d}.log"))
        if rest is not None:
            path.write_bytes(rest)
        expected += segmented(path, 30)
        assert verify(path).first == 1
        assert draws(path) == expected


@pytest.mark.parametrize("step", ["replace", "open", "fsync"])
def test_a_disk_that_fails_between_two_segments_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "audit.log"

    async def main() -> None:
        log = AuditLog(path, FakeClock(), segment=SMALL)
        true_step, refused = getattr(os, step), []

        def failing(*args: object, **kwargs: object) -> object:
            if len(refused) < 3:
                refused.append(args)
                raise OSError(5, "Input/output error")
            return true_step(*args, **kwargs)

        monkeypatch.setattr(os, step, failing)
        for number in range(60):
            log.write("draw", number=number)
            try:
                await log.settled()
            except StorageFailed:
                assert len(refused) <= 3
        await log.settled()
        log.close()
        assert len(refused) == 3

    asyncio.run(main())
    assert verify(path).first == 1
    assert draws(path) == 60
