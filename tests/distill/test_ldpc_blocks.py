"""Two nodes correct by LDPC over a wire in memory: exact leak, retries, budget, wrong estimates, bursts, lies, and the policy."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels
from qkdd.distill import DistillConfig, DistilledBlock, Distiller, ldpc, plan_block
from qkdd.distill.errors import LeakExceeded, NoLength
from qkdd.distill.layout import COUNT_BITS, ROUNDS, blind_layout, cut, frame_code, layout, ldpc_leak
from qkdd.distill.ldpc import Correction, first_layout
from qkdd.distill.messages import AmplifySeed, Decoded, KeyTag, Parities, Plan, Syndromes, Verdict
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import correction_plan
from qkdd.distill.policy import Conditions, choose
from qkdd.distill.reconcile import Reconciled, reconcile
from qkdd.peer import Message
from qkdd.security.entropy import h2_bound

sys.path.insert(0, str(Path(__file__).parent))
from bench_sessions import noisy_blocks, pair, run_pair
from test_distil import _changed, both

from qkdd.testing.patience import PATIENCE_S

LDPC = DistillConfig(reconciler="ldpc")


def test_a_block_gives_the_planned_key_and_most_of_what_cascade_doubles() -> None:
    a, b = both(run_pair(200_000, 0.016, 0.021, DistillConfig()))
    assert a.key.same_as(b.key)
    assert a.method == b.method == "ldpc"
    assert a.length == plan_block(200_000, 0.021, LDPC).length
    assert a.length > 1.3 * plan_block(200_000, 0.021, DistillConfig(reconciler="cascade")).length
    assert a.actual_errors + a.test_errors == b.actual_errors + b.test_errors == 3200
    assert a.f_sec == b.f_sec <= 1.45


@pytest.mark.parametrize(("m", "portion"), [(15_000, 32), (60_000, 32), (330_000, 2)])
def test_leak_is_every_key_dependent_bit_on_the_wire(m: int, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldpc, "_PORTION", portion)
    config = DistillConfig(reconciler="ldpc", ldpc_frame=65_536)
    a, b, there, back = run_pair(m, 0.03, 0.036, config)
    a, b = both((a, b, there, back))
    asked = [m for m in there.sent if isinstance(m, Syndromes)]
    answers = [m for m in back.sent if isinstance(m, Decoded)]
    assert len(answers) == a.rounds
    frames = first_layout(a.test_errors, plan_block(m, 0.036, config)).frames
    assert sum(message.round == 0 for message in asked) == -(-frames // portion)
    # every code's syndrome is whole bytes; bob's map has one bit an open frame and its padding is checked to be zero
    sent = sum(8 * len(m.bits) for m in asked) + sum(COUNT_BITS for _ in answers)
    assert sent + frames + 1 <= a.leak <= sent + frames * len(answers) + 1
    assert a.leak == b.leak <= a.leak_budget
    assert not any(isinstance(m, Parities) for m in there.sent + back.sent)


def test_a_portion_that_does_not_fit_costs_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three, while frames of the first are decoded."""
    monkeypatch.setattr(ldpc, "_PORTION", 2)
    seen: list[Syndromes] = []

    def tamper(_: str, __: int, message: Message) -> Message:
        if isinstance(message, Syndromes):
            seen.append(message)
            if len(seen) == 2:
                return msgspec.structs.replace(message, bits=message.bits[:-1])
        return message

    config = DistillConfig(reconciler="ldpc", ldpc_frame=65_536)
    a, b, _, _ = run_pair(330_000, 0.03, 0.036, config, tamper=tamper, authentic=False)
    assert getattr(b, "code", None) == "QKD-BLK-MALFORMED"
    assert getattr(a, "peer_code", None) == "QKD-BLK-MALFORMED"


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 600_000), error=st.floats(0.0, 0.2), most=st.integers(16_384, 1_048_576), more=st.floats(0.0, 0.05)
)
def test_layouts_cover_every_bit_once_and_never_shrink_with_the_error(
    n: int, error: float, most: int, more: float
) -> None:
    found, above = layout(n, error, most), layout(n, min(error + more, 0.5), most)
    if found is None:
        assert above is None
        with pytest.raises(NoLength):
            ldpc_leak(n, error, most)
        return
    sizes = [found.frame(i).bits for i in range(found.frames)]
    assert sum(sizes) == n
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert found.leak == sum(found.frame(i).leak(0) for i in range(found.frames))
    assert above is None or above.leak >= found.leak
    assert ldpc_leak(n, error, most) == found.leak + (ROUNDS + 1) * (found.frames + COUNT_BITS)


@settings(max_examples=20, deadline=None)
@given(code=st.integers(0, 20), bits=st.integers(1, 70_000))
def test_frames_are_spread_and_gathered(code: int, bits: int) -> None:
    frame = frame_code(code, bits, kernels.ldpc_codes()[code].lifting_for(bits) + 64 * (bits % 2))
    key = np.random.default_rng(bits).integers(0, 2, bits, np.uint8)
    assert np.array_equal(np.sort(frame.places(frame.spread(key))), np.flatnonzero(key))
    assert int(frame.spread(np.ones(bits, np.uint8)).sum()) == bits
    assert ((frame.prior() == frame.code.KNOWN) == (frame.spread(np.ones(bits, np.uint8)) == 0)).all()


def reconcile_pair(
    n: int,
    rate: float,
    told: float,
    budgeted: float,
    *,
    place: str = "random",
    frame: int = 65_536,
    as_sent: bool = False,
) -> tuple[object, object, np.ndarray]:
    """Both nodes' Reconciled for n key bits of which `rate` differ, when the test bits showed `told`; `as_sent`: the length
    is not fixed from the budget."""
    config = DistillConfig(reconciler="ldpc", ldpc_frame=frame, error_margin=0.0)
    plan = plan_block(6 * n // 5, budgeted, config)
    if as_sent:
        plan = replace(plan, length=0)
    rng = np.random.default_rng(n)
    key = rng.integers(0, 2, plan.n, np.uint8)
    other = key.copy()
    count = round(plan.n * rate)
    if place == "burst":
        other[1000 : 1000 + count] ^= 1
    elif place == "comb":
        other[::32] ^= 1  # as many, and no multiple of the number of frames
    else:
        other[rng.choice(plan.n, count, replace=False)] ^= 1
    errors = round(told * plan.k)

    async def main() -> list[object]:
        alice, bob, _, _ = pair()
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(
                reconcile(PackedBits.of(key), errors, plan, alice, 1),
                reconcile(PackedBits.of(other), errors, plan, bob, 1),
                return_exceptions=True,
            )

    a, b = asyncio.run(main())
    return a, b, key


def rank(matrix: np.ndarray) -> int:
    """Over GF(2), of a matrix of 0 and 1."""
    rows = [int.from_bytes(np.packbits(row).tobytes(), "big") for row in matrix]
    found = 0
    while rows:
        pivot = rows.pop()
        if pivot:
            found += 1
            low = pivot & -pivot
            rows = [row ^ pivot if row & low else row for row in rows]
    return found


def test_a_punctured_syndrome_tells_m_less_p_bits_of_the_key() -> None:
    """Rank of the whole matrix less that of the private columns: what is left when the private bits are uniform."""
    frame = frame_code(0, 15_000, 64, 2)
    units = np.eye(frame.private_bits, dtype=np.uint8)
    private = np.stack([frame.code.syndrome(frame.spread(np.zeros(15_000, np.uint8), unit)) for unit in units])
    assert rank(private) == frame.private_bits
    assert frame.leak(0) == private.shape[1] - frame.private_bits
    assert sum(frame.leak(round_) for round_ in range(ROUNDS + 1)) == private.shape[1]
    opened = [place for round_ in range(1, ROUNDS + 1) for place in frame.opened(round_)]
    assert sorted(opened) == list(range(frame.private_bits))


@settings(max_examples=30, deadline=None)
@given(code=st.integers(0, 49), share=st.floats(0.0, 0.12))
def test_no_check_has_two_private_bits(code: int, share: float) -> None:
    held = round(share * kernels.ldpc_codes()[code].rows)
    frame = frame_code(code, 64 * (256 - held) - 7, 64, held)
    marked = frame.spread(np.zeros(frame.bits, np.uint8), np.ones(frame.private_bits, np.uint8))
    columns_of, _, starts = frame.code.entries()
    held_in_row = [
        int(np.isin(columns_of[starts[row] : starts[row + 1]], frame.held).sum()) for row in range(frame.code.rows)
    ]
    assert max(held_in_row) <= 1
    assert int(marked.sum()) == frame.private_bits == 64 * held
    assert (frame.private(marked) == 1).all()
    key = np.random.default_rng(code).integers(0, 2, frame.bits, np.uint8)
    assert np.array_equal(np.sort(frame.places(frame.spread(key, np.ones(64 * held, np.uint8)))), np.flatnonzero(key))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), frames=st.integers(1, 40))
def test_a_key_is_cut_so_that_each_frame_has_every_so_manieth_bit(n: int, frames: int) -> None:
    frames = min(n, frames)
    key = np.random.default_rng(n).integers(0, 2, n, np.uint8)
    rows = cut(key, frames)
    for index in range(frames):
        own = key[index::frames]
        assert np.array_equal(rows[index, : len(own)], own)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 1_000_000), error=st.floats(0.001, 0.1), more=st.floats(0.0, 0.03))
def test_punctured_layouts_begin_low_and_end_where_the_worst_is_corrected(n: int, error: float, more: float) -> None:
    found = blind_layout(n, error, error + more, 262_144)
    plain = layout(n, error + more, 262_144)
    assert (found is None) == (plain is None)
    if found is None or plain is None:
        return
    frame = found.frame(0)
    assert 0 <= found.held <= round(0.12 * frame.code.rows)
    assert found.leak == sum(found.frame(i).leak(0) for i in range(found.frames))
    assert found.leak + found.frames * frame.private_bits >= 0.9 * plain.leak
    assert found.leak >= n * h2_bound(error)


def as_sent(
    n: int, rate: float, told: float, sample: int, tolerated: float
) -> tuple[object, object, np.ndarray, list[Message], list[Message]]:
    """As reconcile_pair for a leak that is subtracted as sent; and all messages."""
    plan = correction_plan(n, (round(told * sample), sample), tolerated, LDPC, "bb84-2decoy/vl")
    rng = np.random.default_rng(n)
    key = rng.integers(0, 2, n, np.uint8)
    other = key.copy()
    other[rng.choice(n, round(n * rate), replace=False)] ^= 1

    async def main() -> tuple[list[object], list[Message], list[Message]]:
        alice, bob, there, back = pair()
        told_errors = round(told * sample)
        tasks = (
            reconcile(PackedBits.of(key), told_errors, plan, alice, 1),
            reconcile(PackedBits.of(other), told_errors, plan, bob, 1),
        )
        async with asyncio.timeout(PATIENCE_S):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        return ends, list(there.sent), list(back.sent)

    (a, b), there, back = asyncio.run(main())
    return a, b, key, there, back


@pytest.mark.parametrize(("rate", "rounds"), [(0.028, 1), (0.0312, 2), (0.0345, 3), (0.036, 4)])
def test_frames_that_fail_get_private_bits_opened(rate: float, rounds: int) -> None:
    a, b, key, there, back = as_sent(150_000, rate, 0.03, 30_000, 0.05)
    assert isinstance(a, Reconciled)
    assert isinstance(b, Reconciled)
    assert (b.key.unpacked() == key).all()
    assert a.errors == b.errors == round(150_000 * rate)
    assert a.rounds == b.rounds == rounds
    assert a.leak == b.leak
    sent = sum(8 * len(m.bits) for m in there if isinstance(m, Syndromes))
    answers = sum(1 + COUNT_BITS for m in back if isinstance(m, Decoded))
    plan = correction_plan(150_000, (900, 30_000), 0.05, LDPC, "bb84-2decoy/vl")
    start = first_layout(900, plan)
    assert start.held > 0
    assert a.leak == sent - start.frame(0).private_bits + answers
    assert a.leak == start.frame(0).leak(0) + sum(start.frame(0).leak(r) for r in range(1, rounds)) + answers


def test_private_bits_are_fresh_and_forgotten() -> None:
    plan = correction_plan(150_000, (900, 30_000), 0.05, LDPC, "bb84-2decoy/vl")
    key = np.zeros(150_000, np.uint8)
    one, two = (Correction(key.copy(), first_layout(900, plan)) for _ in range(2))
    assert (one.say(0, one.open) != two.say(0, two.open)).any()
    kept = list(one._private.values())
    assert any(bits.any() for bits in kept)
    one.wipe()
    assert not any(bits.any() for bits in kept)


@pytest.mark.parametrize("place", ["burst", "comb", "random"])
@pytest.mark.parametrize("n", [20_000, 150_000])
def test_bursts_and_combs_are_as_good_as_random_errors(place: str, n: int) -> None:
    a, b, key = reconcile_pair(n, 0.03, 0.031, 0.045, place=place)
    assert isinstance(a, Reconciled)
    assert isinstance(b, Reconciled)
    assert (a.key.unpacked() == key).all()
    assert (b.key.unpacked() == key).all()
    assert a.errors == b.errors
    assert a.leak == b.leak


def test_a_low_estimate_costs_rounds_not_the_block() -> None:
    """The test bits happened to show less than the key has: the first syndromes do not suffice, further rows do."""
    a, b, key = reconcile_pair(150_000, 0.0312, 0.027, 0.045, as_sent=True)
    assert isinstance(a, Reconciled)
    assert isinstance(b, Reconciled)
    assert a.rounds == b.rounds > 1
    assert (b.key.unpacked() == key).all()
    assert a.leak == b.leak


def test_more_errors_than_the_budget_allows_refuse_the_block_on_both_sides() -> None:
    a, b, _ = reconcile_pair(150_000, 0.06, 0.03, 0.04)
    assert isinstance(a, LeakExceeded)
    assert isinstance(b, LeakExceeded)


def test_error_free_keys_are_recognised() -> None:
    a, b, key = reconcile_pair(60_000, 0.0, 0.0, 0.02)
    assert isinstance(a, Reconciled)
    assert isinstance(b, Reconciled)
    assert a.errors == b.errors == 0
    assert (b.key.unpacked() == key).all()


def test_a_length_fixed_from_the_budget_begins_with_the_strongest_code_within_it() -> None:
    plan = plan_block(60_000, 0.021, LDPC)
    fixed, as_sent = first_layout(80, plan), first_layout(80, replace(plan, length=0))
    assert as_sent.leak < fixed.leak <= plan.leak_budget
    assert first_layout(0, plan) == fixed  # whatever the test bits show


def test_a_frame_without_further_rows_is_tried_from_other_starting_points() -> None:
    """This pattern of errors catches the decoder in a trapping set."""
    plan = plan_block(15_000, 0.021, LDPC)
    errors = (np.random.default_rng(96).random(plan.n) < 0.0165).astype(np.uint8)
    key = np.random.default_rng(1).integers(0, 2, plan.n, np.uint8)
    work = Correction(key ^ errors, first_layout(60, plan))
    work.take(Correction(key, work.parts).say(0, work.open), 0, work.open)
    assert work.last(ROUNDS, plan.leak_budget)
    assert work.correct(0, 0) is None
    assert work.correct(0, 0, 6) == errors.sum()
    assert (work.key == key).all()


def test_a_wiped_node_keeps_nothing() -> None:
    config = DistillConfig(reconciler="ldpc", error_margin=0.0)
    plan = plan_block(180_000, 0.03, config)
    key = np.ones(plan.n, np.uint8)
    work = Correction(key.copy(), first_layout(100, plan))
    work.wipe()
    assert not work.key.any()


@settings(max_examples=40, deadline=None)
@given(
    direction=st.sampled_from(["alice", "bob"]),
    index=st.integers(0, 8),
    field=st.integers(0, 22),
    variant=st.integers(0, 10),
    place=st.floats(0.0, 1.0, exclude_max=True),
    forged=st.booleans(),
)
def test_one_changed_message_never_gives_two_different_keys(
    direction: str, index: int, field: int, variant: int, place: float, forged: bool
) -> None:
    hit: list[Message] = []

    def tamper(name: str, at: int, message: Message) -> Message:
        if name != direction or at != index:
            return message
        changed = _changed(message, field, variant, place)
        if repr(changed) != repr(message):
            hit.append(message)
        return changed

    config = DistillConfig(eps_sec=1e-9, reconciler="ldpc")
    a, b, _, _ = run_pair(24_000, 0.01, 0.016, config, tamper=tamper, authentic=not forged)
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
        (Plan, "method", "cascade", "QKD-BLK-PLAN-MISMATCH"),
        (Plan, "method", "guess", "QKD-BLK-PLAN-MISMATCH"),
        (Plan, "ldpc_frame", 16_384, "QKD-BLK-PLAN-MISMATCH"),
        (Syndromes, "bits", b"\x01", "QKD-BLK-MALFORMED"),
        (Syndromes, "bits", b"", "QKD-BLK-MALFORMED"),
        (Syndromes, "round", 1, "QKD-BLK-MALFORMED"),
        (Decoded, "failed", b"\xff\xff", "QKD-BLK-MALFORMED"),
        (Decoded, "failed", b"\x01", "QKD-BLK-MALFORMED"),
        (Decoded, "errors", -1, "QKD-BLK-MALFORMED"),
        (Decoded, "errors", 10**9, "QKD-BLK-MALFORMED"),
        (Decoded, "round", 2, "QKD-BLK-MALFORMED"),
    ],
)
def test_a_peer_that_sends_nonsense_is_refused_with_a_code(kind: type, field: str, value: object, code: str) -> None:
    def tamper(_: str, __: int, message: Message) -> Message:
        return msgspec.structs.replace(message, **{field: value}) if isinstance(message, kind) else message

    a, b, _, _ = run_pair(40_000, 0.02, 0.03, LDPC, tamper=tamper, authentic=False)
    codes = {getattr(r, "peer_code", None) or getattr(r, "code", None) for r in (a, b)}
    assert code in codes
    assert not isinstance(a, DistilledBlock) or not isinstance(b, DistilledBlock)


def test_the_policy_prefers_the_longer_key_and_says_so() -> None:
    plan = choose(200_000, 0.021, DistillConfig(), Conditions(acquisition_s=5.0))
    assert plan.method == "ldpc"
    assert str(plan.length) in plan.reason
    few_errors = choose(200_000, 0.001, DistillConfig(error_margin=0.0005), Conditions(acquisition_s=5.0))
    assert few_errors.method == "cascade"  # no code discloses as little as so few errors need


def test_the_policy_turns_when_time_runs_out() -> None:
    config = DistillConfig(error_margin=0.0005)
    near = choose(200_000, 0.001, config, Conditions(round_trip_s=0.001, acquisition_s=0.5))
    far = choose(200_000, 0.001, config, Conditions(round_trip_s=0.3, acquisition_s=0.5))
    assert (near.method, far.method) == ("cascade", "ldpc")
    assert "a second" in far.reason


def test_the_configuration_decides_when_it_says_so() -> None:
    for method in ("ldpc", "cascade"):
        plan = choose(200_000, 0.02, DistillConfig(reconciler=method), Conditions())
        assert (plan.method, plan.reason) == (method, "configured")


def test_bob_follows_alices_method_and_shows_her_reason() -> None:
    async def main() -> tuple[DistilledBlock, DistilledBlock]:
        alice, bob, _, _ = pair()
        one, two = Distiller(DistillConfig()), Distiller(DistillConfig())
        one.seed(20, 2000)
        two.seed(20, 2000)
        a, b = noisy_blocks(100_000, 0.012, 9)
        return await asyncio.gather(one.distil(a, alice), two.distil(b, bob))

    a, b = asyncio.run(main())
    assert a.method == b.method == "ldpc"
    assert a.reason == b.reason
    assert math.isclose(a.f_sec, b.f_sec)
