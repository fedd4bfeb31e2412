"""Two nodes distil over a wire in memory: equal keys, exact leak, refusals with codes, and no way to differing keys."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.distill import DistillConfig, DistilledBlock, Distiller, SiftedBlock, plan_block
from qkdd.distill.errors import BlockRefused, LeakExceeded, QberExceeded
from qkdd.distill.messages import AmplifySeed, KeyTag, Parities, Plan, TestBits, TestSubset, Verdict
from qkdd.distill.packed import PackedBits
from qkdd.peer import AuthenticationFailed, Message

sys.path.insert(0, str(Path(__file__).parent))
from bench_sessions import noisy_blocks, pair, run_pair

SMALL = 30_000
CONFIG = DistillConfig(reconciler="cascade")  # LDPC: test_ldpc_blocks.py


def both(results: tuple[object, object, object, object]) -> tuple[DistilledBlock, DistilledBlock]:
    a, b = results[:2]
    assert isinstance(a, DistilledBlock), a
    assert isinstance(b, DistilledBlock), b
    return a, b


def test_a_full_block_gives_the_planned_key_on_both_sides() -> None:
    a, b = both(run_pair(200_000, 0.02, 0.03, CONFIG))
    assert a.key.same_as(b.key)
    assert a.length == b.length == plan_block(200_000, 0.03, CONFIG).length
    assert len(a.key) == math.ceil(a.length / 8)
    assert a.qber == pytest.approx(0.02, abs=1e-9)
    assert a.f_parities <= 1.12
    assert a.leak <= a.leak_budget


def test_leak_is_every_key_dependent_bit_on_the_wire() -> None:
    a, b, there, back = run_pair(SMALL, 0.015, 0.02, CONFIG)
    assert isinstance(a, DistilledBlock)
    assert isinstance(b, DistilledBlock)
    sent = [m for m in there.sent if isinstance(m, Parities)], [m for m in back.sent if isinstance(m, Parities)]
    assert len(sent[0]) == len(sent[1]) == a.rounds
    # bytes carry the bits of a round plus less than one byte of padding, which is checked to be zero
    for messages in sent:
        size = sum(8 * len(m.bits) for m in messages)
        assert 0 <= size - (a.leak - 1) // 2 < 8 * len(messages)
    kinds = {type(m) for m in there.sent} | {type(m) for m in back.sent}
    assert {m.__name__ for m in kinds} == {
        "Plan", "TestSubset", "TestBits", "ReconcileSeed", "Parities", "KeyTag", "Verdict", "AmplifySeed", "Amplified",
    }  # fmt: skip


def test_the_test_subset_has_k_positions_and_its_bits_leave_the_key() -> None:
    a, _, there, _ = run_pair(SMALL, 0.01, 0.02, CONFIG)
    assert isinstance(a, DistilledBlock)
    subset = next(m for m in there.sent if isinstance(m, TestSubset))
    ones = int(np.unpackbits(np.frombuffer(subset.subset, np.uint8)).sum())
    assert ones == a.test_size
    assert a.key_size + a.test_size == a.sifted


def test_blocks_are_used_up() -> None:
    blocks = noisy_blocks(SMALL, 0.01, 3)
    run_pair(SMALL, 0.01, 0.02, CONFIG, blocks=blocks)
    assert not any(blocks[0].bits.data)
    assert not any(blocks[1].bits.data)


def test_too_many_errors_in_the_test_bits_refuse_the_block_on_both_sides() -> None:
    a, b, there, back = run_pair(SMALL, 0.05, 0.02, CONFIG)
    assert isinstance(a, QberExceeded)
    assert isinstance(b, QberExceeded)
    assert a.details == b.details
    assert not any(isinstance(m, Parities) for m in there.sent + back.sent)


def test_the_budget_stops_both_sides_before_it_is_exceeded() -> None:
    config = DistillConfig(reconciler="cascade", leak_efficiency=1.0, error_margin=0.01)
    a, b, there, back = run_pair(200_000, 0.0265, 0.03, config)
    assert isinstance(a, LeakExceeded)
    assert isinstance(b, LeakExceeded)
    budget = plan_block(200_000, 0.03, config).leak_budget
    sent = sum(8 * len(m.bits) for wire in (there, back) for m in wire.sent if isinstance(m, Parities))
    rounds = sum(isinstance(m, Parities) for wire in (there, back) for m in wire.sent)
    assert sent - 8 * rounds <= budget


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.03, 0.06])
def test_bursts_and_other_rates(rate: float) -> None:
    m, rng = 60_000, np.random.default_rng(5)
    bits = rng.integers(0, 2, m, np.uint8)
    other = bits.copy()
    start = 1000
    other[start : start + round(m * rate)] ^= 1  # one burst holds all errors
    zero = np.zeros(m, np.uint8)
    tolerated = max(rate * 1.3, 0.01)
    blocks = SiftedBlock(1, PackedBits.of(bits), zero, 1.0), SiftedBlock(1, PackedBits.of(other), zero, 1.0)
    config = DistillConfig(reconciler="cascade", eps_sec=1e-6, qber_max=0.2)
    if rate == 0.06:  # two-way leak leaves nothing here: the plan says so
        with pytest.raises(Exception, match="QKD-BLK-NO-LENGTH"):
            plan_block(m, tolerated, config)
        return
    a, b = both(run_pair(m, rate, tolerated, config, blocks=blocks))
    assert a.key.same_as(b.key)
    assert a.actual_errors + a.test_errors == round(m * rate)


def _changed(message: Message, field: int, variant: int, place: float) -> Message:
    """The message with one bit of one field flipped (bytes), or another value (numbers)."""
    names = [f for f in message.__struct_fields__ if f != "proof"]
    name = names[field % len(names)]
    value = getattr(message, name)
    if isinstance(value, bool):
        new: object = not value
    elif isinstance(value, int):
        new = value ^ (1 << variant)
    elif isinstance(value, float):
        new = [value * 2, math.nan, math.inf, -value, 0.049][variant % 5]
    elif isinstance(value, str):
        new = ["QKD-BLK-UNPAID", "QKD-BLK-NO-LENGTH", "no such code"][variant % 3]
    else:
        position = int(place * 8 * len(value))
        data = bytearray(value)
        data[position // 8] ^= 0x80 >> position % 8
        new = [bytes(data), bytes(data), value[:-1], value + b"\0"][variant % 4]
    return msgspec.structs.replace(message, **{name: new})


@settings(max_examples=60, deadline=None)
@given(
    direction=st.sampled_from(["alice", "bob"]),
    index=st.integers(0, 60),
    field=st.integers(0, 20),
    variant=st.integers(0, 10),
    place=st.floats(0.0, 1.0, exclude_max=True),
    forged=st.booleans(),
)
def test_one_changed_message_never_gives_two_different_keys(
    direction: str, index: int, field: int, variant: int, place: float, forged: bool
) -> None:
    """Also when the attacker forges every seal: then the hash under a fresh key still keeps the keys equal, unless he changes
    what only the seals protect (hash key, verdict, amplification seed)."""
    hit: list[Message] = []

    def tamper(name: str, at: int, message: Message) -> Message:
        if name != direction or at != index:
            return message
        changed = _changed(message, field, variant, place)
        if repr(changed) != repr(message):
            hit.append(message)
        return changed

    config = DistillConfig(reconciler="cascade", eps_sec=1e-9)
    a, b, _, _ = run_pair(12_000, 0.01, 0.016, config, tamper=tamper, authentic=not forged)
    accepted = isinstance(a, DistilledBlock) and isinstance(b, DistilledBlock)
    if not hit:
        assert accepted or type(a) is type(b)
    elif not forged:
        assert not accepted
    protected_by_seals_only = bool(hit) and isinstance(hit[0], (AmplifySeed, KeyTag, Verdict))
    if isinstance(a, DistilledBlock) and isinstance(b, DistilledBlock) and not protected_by_seals_only:
        assert a.key.same_as(b.key)


@pytest.mark.parametrize(
    ("kind", "field", "value", "code"),
    [
        (Plan, "length", 10**9, "QKD-BLK-PLAN-MISMATCH"),
        (Plan, "tolerated_error", math.nan, "QKD-BLK-PLAN-MISMATCH"),
        (Plan, "tolerated_error", 0.3, "QKD-BLK-PLAN-MISMATCH"),
        (Plan, "block", 8, "QKD-BLK-MALFORMED"),
        (TestSubset, "subset", b"", "QKD-BLK-MALFORMED"),
        (TestSubset, "subset", bytes(SMALL // 8), "QKD-BLK-MALFORMED"),
        (TestBits, "bits", b"\xff" * 9000, "QKD-BLK-MALFORMED"),
        (TestBits, "bits", b"\x01", "QKD-BLK-MALFORMED"),
        (Parities, "bits", b"\xb0\xf5\xc3", "QKD-BLK-MALFORMED"),
        (Parities, "round", 99, "QKD-BLK-MALFORMED"),
        (KeyTag, "hash_key", b"short", "QKD-BLK-MALFORMED"),
        (AmplifySeed, "seed", bytes(10), "QKD-BLK-MALFORMED"),
    ],
)
def test_a_peer_that_sends_nonsense_is_refused_with_a_code(kind: type, field: str, value: object, code: str) -> None:
    def tamper(_: str, __: int, message: Message) -> Message:
        return msgspec.structs.replace(message, **{field: value}) if isinstance(message, kind) else message

    a, b, _, _ = run_pair(SMALL, 0.01, 0.02, CONFIG, tamper=tamper, authentic=False)
    codes = {getattr(r, "peer_code", None) or getattr(r, "code", None) for r in (a, b)}
    assert code in codes
    assert not isinstance(a, DistilledBlock) or not isinstance(b, DistilledBlock)


def test_a_broken_seal_discards_the_block() -> None:
    def tamper(name: str, _: int, message: Message) -> Message:
        if name == "bob" and isinstance(message, TestBits):
            return msgspec.structs.replace(message, bits=bytes([message.bits[0] ^ 0x80]) + message.bits[1:])
        return message

    a, b, _, _ = run_pair(8000 * 5, 0.0, 0.006, CONFIG, tamper=tamper)
    assert isinstance(a, AuthenticationFailed)
    assert not isinstance(a, DistilledBlock)
    assert not isinstance(b, DistilledBlock)


def test_bob_follows_alices_tolerated_error_when_their_memories_differ() -> None:

    async def main() -> None:
        alice, bob, _, _ = pair()
        one, two = Distiller(CONFIG), Distiller(CONFIG)
        one.seed(20, 2000)
        two.seed(21, 2000)
        a, b = noisy_blocks(100_000, 0.012, 9)
        first, second = await asyncio.gather(one.distil(a, alice), two.distil(b, bob))
        assert first.key.same_as(second.key)
        assert first.tolerated_error == second.tolerated_error

    asyncio.run(main())


def test_a_link_above_qber_max_says_so_measures_on_and_makes_key_again_when_the_line_is_good() -> None:
    async def main() -> None:
        one, two = Distiller(CONFIG), Distiller(CONFIG)
        for distiller in (one, two):
            distiller.seed(1800, 20_000)  # an alignment that saw 9 %
        found: list[str] = []
        for number, error in enumerate((0.09, 0.016, 0.016)):
            alice, bob = pair()[:2]
            a, b = noisy_blocks(180_000, error, number)
            results = await asyncio.gather(one.distil(a, alice), two.distil(b, bob), return_exceptions=True)
            codes = {getattr(result, "code", "accepted") for result in results}
            assert len(codes) == 1
            found += codes
            if isinstance(results[0], BlockRefused):
                measured = results[0].details
                assert measured["test_errors"] / measured["test_size"] == pytest.approx(error, abs=0.005)
        assert found == ["QKD-BLK-QBER", "QKD-BLK-UNPAID", "accepted"]

    asyncio.run(main())


def test_a_node_without_a_plan_follows_the_other_one_in_both_directions() -> None:
    async def main(alice_errors: int, bob_errors: int) -> set[str]:
        one, two = Distiller(CONFIG), Distiller(CONFIG)
        one.seed(alice_errors, 20_000)
        two.seed(bob_errors, 20_000)
        alice, bob = pair()[:2]
        a, b = noisy_blocks(180_000, 0.016, 5)
        results = await asyncio.gather(one.distil(a, alice), two.distil(b, bob), return_exceptions=True)
        return {getattr(result, "code", "accepted") for result in results}

    assert asyncio.run(main(1800, 320)) == {"QKD-BLK-UNPAID"}
    assert asyncio.run(main(320, 1800)) == {"accepted"}
