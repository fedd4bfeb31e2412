"""Recordings: every format out and in again, real ones, and the replay tagger over them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_drivers.convert import convert
from qkdd_drivers.picoquant import t2
from qkdd_drivers.picoquant.ptu import PtuReader, PtuWriter
from qkdd_drivers.replay.driver import Replay
from qkdd_drivers.replay.formats import open_recording

from qkdd import kernels
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, TimeTagger, errors
from qkdd.device.recording import RecordingReader, RecordingWriter
from qkdd.device.tags import TagBlock
from qkdd.testing.clock import FakeClock
from qkdd.testing.leaks import no_leaks

ABOUT = {"resolution_ps": 5, "inputs": 5}


def clicks(count: int = 5000, seed: int = 1, channels: int = 4) -> TagBlock:
    """Clicks in steps of 5 ps, far enough apart that the T2 counter wraps often."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.integers(1, 40_000_000, count)) * 5
    return TagBlock(times, random.integers(0, channels, count).astype(np.uint8), int(times[-1]))


def own(path: Path, block: TagBlock) -> Path:
    with RecordingWriter(path, ABOUT) as writer:
        for at in range(0, len(block), 1000):
            part = slice(at, at + 1000)
            writer.write(TagBlock(block.times[part], block.channels[part], int(block.times[part][-1])))
    return path


def together(blocks: list[TagBlock]) -> TagBlock:
    return TagBlock(
        np.concatenate([b.times for b in blocks]), np.concatenate([b.channels for b in blocks]), blocks[-1].until
    )


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_t2_records_are_read_as_they_were_written(data: st.DataObject) -> None:
    """Encoder, the decoder in numpy, and the kernels' decoder, over any cut of the stream."""
    count = data.draw(st.integers(0, 50))
    steps = data.draw(st.lists(st.integers(0, 5 * t2.WRAP), min_size=count, max_size=count))
    channels = np.array(data.draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)), np.uint8)
    units = np.cumsum(np.array(steps, np.int64)) if count else np.empty(0, np.int64)
    encoder, cut = t2.Encoder(5), data.draw(st.integers(0, count))
    end = (int(units[-1]) if count else 0) + data.draw(st.integers(0, 3 * t2.WRAP))
    middle = int(units[cut - 1]) if cut else 0
    words = np.concatenate(
        (
            encoder.encode(units[:cut] * 5, channels[:cut], middle * 5),
            encoder.encode(units[cut:] * 5, channels[cut:], end * 5),
        )
    )
    plain_units, plain_channels, wraps = t2.decode(words)
    state = kernels.T2State("hydraharp2", 5)
    pieces = [kernels.decode_t2(piece, state) for piece in np.array_split(words, 3)]
    times, found = np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
    assert np.array_equal(plain_units, units)
    assert np.array_equal(times, units * 5)
    assert np.array_equal(found, channels)
    assert np.array_equal(plain_channels, channels)
    assert wraps == end // t2.WRAP
    assert state.overflow == wraps * t2.WRAP


def test_a_ptu_file_gives_back_what_was_written(tmp_path: Path) -> None:
    block = clicks()
    with PtuWriter(tmp_path / "run.ptu", serial="1035683") as writer:
        for at in range(0, len(block), 700):
            part = slice(at, at + 700)
            writer.write(block.times[part], block.channels[part], int(block.times[part][-1]))
    reader = PtuReader.open(tmp_path / "run.ptu")
    found = together(list(reader.blocks()))
    reader.close()
    assert reader.header["HW_SerialNo"] == "1035683"
    assert reader.header["MeasDesc_AcquisitionTime"] == round(block.until / 1e9)
    assert np.array_equal(found.times, block.times)
    assert np.array_equal(found.channels, block.channels)


def test_a_ptu_file_that_is_cut_or_no_t2_measurement_is_refused(tmp_path: Path) -> None:
    block = clicks(100)
    path = tmp_path / "run.ptu"
    with PtuWriter(path) as writer:
        writer.write(block.times, block.channels, block.until)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    reader = PtuReader.open(path)
    with pytest.raises(ValueError, match="records fewer"):
        list(reader.blocks())
    reader.close()
    for damaged, words in ((whole[:100], "no end"), (b"x" * 200, "no PTU")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=words):
            PtuReader.open(path)


@pytest.mark.parametrize("suffix", [".qkdt", ".ptu", ".a1", ".a1x"])
def test_every_format_is_recognised_and_keeps_the_clicks(tmp_path: Path, suffix: str) -> None:
    block = clicks()
    source = own(tmp_path / "in.qkdt", block)
    target = tmp_path / f"out{suffix}"
    assert convert(source, target) == len(block)
    reader = open_recording(target, "auto")
    found = together(list(reader.blocks()))
    reader.close()
    assert len(found) == len(block)
    assert np.array_equal(found.channels, block.channels)
    late = block.times[0] if suffix.startswith(".a1") else 0  # a1 streams count from their first record
    assert np.max(np.abs(found.times + late - block.times)) <= (4 if suffix.startswith(".a1") else 0)


def test_an_unfinished_recording_is_sound_up_to_its_last_block(tmp_path: Path) -> None:
    path = own(tmp_path / "run.qkdt", clicks(3000))
    whole = path.read_bytes()
    path.write_bytes(whole[:-17])
    reader = RecordingReader(path)
    assert [len(block) for block in reader.blocks()] == [1000, 1000]
    reader.close()
    path.write_bytes(whole[:-17] + bytes([whole[-17] ^ 1]) + whole[-16:])
    reader = RecordingReader(path)
    with pytest.raises(ValueError, match="damaged"):
        list(reader.blocks())
    reader.close()


def test_a_recording_keeps_losses_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "run.qkdt"
    block = TagBlock(np.array([5]), np.array([2], np.uint8), 99, 7, ("QKD-DEV-TAGS-LOST", "X"), 3)
    with RecordingWriter(path, ABOUT) as writer:
        writer.write(block)
    reader = RecordingReader(path)
    (found,) = reader.blocks()
    reader.close()
    assert (found.until, found.lost, found.faults, found.reordered) == (99, 7, block.faults, 3)


def make(path: Path, clock: FakeClock, **options: Any) -> Any:
    config = DeviceConfig(driver="replay", recording=str(path), options=options)
    return Replay("tagger", config, Replay.links(config), clock, RecordingMeter())


async def play(driver: Any, clock: FakeClock) -> tuple[list[TagBlock], errors.DeviceError]:
    """All blocks until the recording ends, with time moved on."""
    blocks: list[TagBlock] = []
    await driver.start()
    while True:
        task = asyncio.ensure_future(driver.read())
        while not task.done():
            await clock.advance(0.05)
            await asyncio.sleep(0.001)
        try:
            blocks.append(task.result())
        except errors.DeviceError as error:
            return blocks, error


@pytest.mark.parametrize("speed", [0.0, 1.0, 10.0])
def test_replay_gives_all_tags_in_time(tmp_path: Path, speed: float) -> None:
    block = clicks(2000)
    path = own(tmp_path / "run.qkdt", block)

    async def main() -> None:
        clock = FakeClock()
        driver = make(path, clock, speed=speed)
        assert isinstance(driver, TimeTagger)
        async with driver:
            began = clock.monotonic()
            blocks, error = await play(driver, clock)
            assert isinstance(error, errors.RecordingEnded)
            found = together(blocks)
            assert np.array_equal(found.times, block.times)
            assert np.array_equal(found.channels, block.channels)
            untils = [b.until for b in blocks]
            assert untils == sorted(untils)
            if speed:
                took, recorded = clock.monotonic() - began, block.until * 1e-12
                assert recorded / speed <= took + 0.001
                assert all(len(b) == 0 or int(b.times[-1]) <= b.until for b in blocks)
            again, _ = await play(driver, clock)
            assert len(together(again)) == len(block)

    with no_leaks():
        asyncio.run(main())


def test_what_is_wrong_with_a_recording_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        with pytest.raises(errors.DeviceOffline):
            await make(tmp_path / "none", clock).open()
        (tmp_path / "odd").write_bytes(
            b"hello, this is a letter and not a recording at all, whatever you may think of it"
        )
        with pytest.raises(errors.WrongDevice, match="not recognised"):
            await make(tmp_path / "odd", clock).open()
        path = own(tmp_path / "run.qkdt", clicks(2000))
        path.write_bytes(path.read_bytes()[:9500] + b"\0" * 50 + path.read_bytes()[9550:])
        driver = make(path, clock, speed=0)
        async with driver:
            await driver.start()
            with pytest.raises(errors.ProtocolError, match="damaged"):
                await driver.read()

    with no_leaks():
        asyncio.run(main())
    for options in ({"speed": -1.0}, {"speed": "fast"}, {"format": "wav"}, {"colour": 1}):
        with pytest.raises(errors.DeviceConfigError):
            make(tmp_path / "run.qkdt", FakeClock(), **options)


FOLDER = Path(__file__).parents[3] / "shared" / "data" / "timestamps"


@pytest.mark.recordings
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there")
@pytest.mark.parametrize(
    ("name", "count"),
    [("tdc1_periodic_500ns.txt", 70_000), ("timestamp7_c1234.Aa1.ts", 2000), ("timestamp7_c14_rollover.Aa1fX.ts", 862)],
)
def test_real_recordings_are_recognised(name: str, count: int) -> None:
    reader = open_recording(FOLDER / name, "auto")
    found = together(list(reader.blocks()))
    reader.close()
    assert len(found) == pytest.approx(count, rel=0.05)
    assert np.all(np.diff(found.times) >= 0)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from qkdd.cli import main; sys.argv[0] = 'qkdd'; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_record_and_convert_as_their_user_types_them(tmp_path: Path) -> None:
    block = clicks(3000)
    own(tmp_path / "in.qkdt", block)
    (tmp_path / "node.toml").write_text(
        '[node]\nid = "not looked at"\n[devices.tagger]\ndriver = "replay"\nrecording = "in.qkdt"\noptions.speed = 0.0\n'
    )
    node, out, ptu = str(tmp_path / "node.toml"), tmp_path / "out.qkdt", tmp_path / "out.ptu"
    done = _run("record", node, str(out))  # ends by itself with the recording
    assert (done.returncode, done.stdout.strip()) == (0, f"{out}: 3000 clicks"), done.stderr
    again = _run("record", node, str(out))
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr
    assert _run("convert", str(out), str(ptu)).returncode == 0
    reader = open_recording(ptu, "auto")
    assert np.array_equal(together(list(reader.blocks())).times, block.times)
    reader.close()
    for bad in (
        ("record", node, str(tmp_path / "x.qkdt"), "--device", "none"),
        ("convert", node, str(tmp_path / "x.ptu")),
    ):
        failed = _run(*bad)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        assert not (tmp_path / "x.ptu").exists()
