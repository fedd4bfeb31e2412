"""Symbols and their accounting; versions; health tests; random bytes of the host."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qkdd_drivers.qkdd_board.emission import Emission
from qkdd_fwbridge import symbols as s
from qkdd_fwbridge import versions
from qkdd_fwbridge.errors import FirmwareUnsupported, Malformed, SourceFailed, SymbolsContradict
from qkdd_fwbridge.health import HealthTest, proportion_cutoff, repetition_cutoff
from qkdd_fwbridge.messages import Capability, Mode, Randomness, Symbols, Welcome
from qkdd_fwbridge.randomness import HealthTestedSource

symbol_lists = st.lists(st.integers(0, 15).filter(lambda v: v & 3 != 3), max_size=99)


@given(symbol_lists)
def test_packing(values: list[int]) -> None:
    symbols = np.array(values, np.uint8)
    data = s.pack(symbols)
    assert len(data) == (len(values) + 1) // 2
    assert s.unpack(data, len(values)).tolist() == values
    assert s.symbol(*s.split(symbols)).tolist() == values


@pytest.mark.parametrize(("data", "count"), [(b"\x00", 3), (b"\x30", 2), (b"\x01", 1)])
def test_impossible_symbols_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(Malformed):
        s.unpack(data, count)


def block(first: int, count: int, skipped: int = 0) -> Symbols:
    return Symbols(first, skipped, count, s.pack(np.zeros(count, np.uint8)))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.booleans()), max_size=30))
def test_every_lost_slot_is_counted(parts: list[tuple[int, int, bool]]) -> None:
    stream = s.SymbolStream(0, 1 << 20)
    at = skipped = lost = 0
    for count, hole, arrives in parts:
        at, skipped = at + hole, skipped + hole
        if arrives:
            stream.take(block(at, count, skipped))
        else:
            lost += count
        at += count
    stream.end(at, skipped, 0)
    assert stream.lost == lost
    assert stream.skipped == skipped


def test_contradictions_are_refused() -> None:
    stream = s.SymbolStream(0, 100)
    stream.take(block(0, 10))
    for bad in (block(5, 10), block(12, 10, 3), block(90, 20)):
        with pytest.raises(SymbolsContradict):
            stream.take(bad)
    with pytest.raises(SymbolsContradict):
        stream.end(5, 0, 0)


def test_credit_is_given_when_half_is_used() -> None:
    stream = s.SymbolStream(0, 100)
    assert stream.credit() is None
    stream.take(block(0, 60))
    granted = stream.credit()
    assert granted is not None
    assert granted.total == 160


def test_symbols_lost_at_the_very_end_do_not_block_the_stream() -> None:
    """All credit is used up by frames that the cable lost: the board's sign of life shows it, and credit comes back."""
    board = Emission(
        Mode.FULL,
        Randomness.QRNG,
        100,
        1000.0,
        (0, 65536, 65536),
        0.0,
        secrets.token_bytes,
        bytearray(),
        lambda f, v: None,
    )
    stream = s.SymbolStream(0, 100)
    board.poll(0.5)
    assert sum(frame.count for frame in board.frames()) == 100  # the cable loses them
    board.poll(0.9)
    (sign,) = board.frames()
    assert stream.take(sign).lost == 100
    granted = stream.credit()
    assert granted is not None
    board.credit(granted.total)
    board.poll(1.0)
    (frame,) = board.frames()
    block = stream.take(frame)
    assert (block.first_slot, len(block.bit), block.lost) == (900, 100, 0)


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.ON_DEMAND])
def test_slots_that_are_skipped_are_dark_and_not_lost(mode: Mode) -> None:
    lit: dict[int, int] = {}

    def pulses(first: int, symbols: s.U8) -> None:
        assert first == len(lit)
        lit.update((first + i, int(v)) for i, v in enumerate(symbols))

    board = Emission(
        mode, Randomness.QRNG, 10**6, 10_000.0, (0, 65536, 65536), 0.0, secrets.token_bytes, bytearray(), pulses
    )
    board.poll(0.1)
    board.skip_until(2.5)
    board.skip_until(2.0)
    board.poll(3.0)
    assert (board.next_slot, board.starved) == (30_000, 24_000)
    dark = [slot for slot, value in lit.items() if value == 0xFF]
    assert dark == list(range(1000, 25_000))
    if mode is Mode.ON_DEMAND:
        here, _ = board.window(np.arange(30_000, dtype=np.int64))
        assert np.flatnonzero(~here).tolist() == dark
        return
    stream, got = s.SymbolStream(0, 10**6), 0
    for frame in board.frames():
        block = stream.take(frame)
        assert block.lost == 0
        got += len(block.bit)
    assert (got, stream.skipped) == (6000, 24_000)


# Versions


def welcome(version: tuple[int, int, int], protocol: tuple[int, int] = (1, 2)) -> Welcome:
    return Welcome(0, *protocol, 0xFF, 1, 0, "QKDD-TX1", "1", *version, 1, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("firmware", "protocol"), [((1, 2, 0), 1), ((1, 9, 9), 1), ((2, 0, 0), 2), ((2, 65535, 65535), 2)]
)
def test_table(firmware: tuple[int, int, int], protocol: int) -> None:
    agreed = versions.negotiate("0.1.0", welcome(firmware))
    assert agreed.protocol == protocol
    assert bool(agreed.capabilities & Capability.ON_DEMAND) == (protocol == 2)


@pytest.mark.parametrize(
    ("daemon", "firmware", "protocol"),
    [
        ("0.1.0", (1, 1, 9), (1, 2)),
        ("0.1.0", (3, 0, 0), (1, 9)),
        ("7.0", (2, 0, 0), (1, 2)),
        ("0.1.0", (2, 0, 0), (1, 1)),
    ],
)
def test_refusal_names_both_versions(daemon: str, firmware: tuple[int, int, int], protocol: tuple[int, int]) -> None:
    with pytest.raises(FirmwareUnsupported) as refused:
        versions.negotiate(daemon, welcome(firmware, protocol))
    assert versions.text(firmware) in refused.value.message
    assert daemon in refused.value.message


def test_the_table_has_no_overlap() -> None:
    for index, a in enumerate(versions.TABLE):
        for b in versions.TABLE[index + 1 :]:
            assert a.firmware[1] <= b.firmware[0] or b.firmware[1] <= a.firmware[0] or a.daemon[1] <= b.daemon[0]


# Health


def test_cutoffs_of_the_literature() -> None:
    """Binary, W = 1024, 2^-20: figures that circulate with drafts of SP 800-90B (document not at hand, so not re-read).

    W = 512, 2^-30: the table in the Linux kernel's crypto/jitterentropy.c, which starts from a corrected formula (UL's comment
    10b on SP 800-90B: the first sample always counts) and so is at most one higher than the standard's own.
    """
    for entropy, cutoff in ((0.2, 941), (0.4, 840), (0.6, 748), (0.8, 664), (1.0, 589)):
        assert proportion_cutoff(entropy, 1024, -20) == cutoff
    corrected = (325, 422, 459, 477, 488, 494, 499, 502, 505, 507, 508, 509, 510, 511, 512)
    for oversampling, cutoff in enumerate(corrected, start=1):
        assert proportion_cutoff(1 / oversampling, 512, -30) in (cutoff - 1, cutoff)
    assert repetition_cutoff(1.0, -20) == 21
    assert repetition_cutoff(0.5, -30) == 61


def test_good_noise_passes_in_any_pieces() -> None:
    test = HealthTest(0.9)
    bits = np.unpackbits(np.frombuffer(secrets.token_bytes(20_000), np.uint8))
    for piece in np.array_split(bits, 97):
        test.feed(piece)
    assert test.tested == len(bits)


@given(st.integers(1, 60))
def test_a_run_is_seen_across_pieces(cut: int) -> None:
    test = HealthTest(1.0)
    run = np.ones(31, np.uint8)
    test.feed(np.zeros(1, np.uint8))
    test.feed(run[: min(cut, 30)])
    with pytest.raises(SourceFailed, match="repetition"):
        test.feed(run[min(cut, 30) :])
    with pytest.raises(SourceFailed):
        test.feed(np.array([0, 1], np.uint8))  # it stays failed


def test_one_below_the_cutoff_passes() -> None:
    HealthTest(1.0).feed(np.array([0] + [1] * 30 + [0], np.uint8))


def test_bias_is_seen() -> None:
    bits = (np.random.default_rng(1).random(1 << 16) < 0.64).astype(np.uint8)
    with pytest.raises(SourceFailed, match="proportion"):
        HealthTest(1.0).feed(bits)


def test_host_source_extracts_and_latches() -> None:
    stuck = False
    source = HealthTestedSource(lambda count: bytes(count) if stuck else secrets.token_bytes(count), 0.5)
    data = source.take(5000)
    assert len(data) == 5000
    assert 0.4 < source.ratio < 0.5
    stuck = True
    with pytest.raises(SourceFailed):
        source.take(5000)
    stuck = False
    with pytest.raises(SourceFailed):
        source.take(1)


def test_a_source_that_ends_has_failed() -> None:
    with pytest.raises(SourceFailed):
        HealthTestedSource(lambda count: b"", 1.0).take(1)


def test_choices_follow_their_probabilities() -> None:
    words = np.frombuffer(secrets.token_bytes(1 << 20), "<u4")
    basis, bit, intensity = s.split(s.choose(words, 8192, 32768, 49152))
    n = len(words)
    for value, expected in (
        (basis.mean(), 0.25), (bit.mean(), 0.5), ((intensity == 0).mean(), 0.5), ((intensity == 2).mean(), 0.25)
    ):  # fmt: skip
        assert abs(value - expected) < 6 * (0.25 / n) ** 0.5
