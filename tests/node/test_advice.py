"""`qkdctl link security` and `advise` behind the socket: the channel that counts show, better settings, the whole budget."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.control.errors import NotNow
from qkdd.core.counters import RecordingMeter
from qkdd.core.units import Fraction
from qkdd.distill.decoy_config import DecoyChannel, DecoySettings
from qkdd.distill.decoy_counts import DecoyStatistics
from qkdd.link.config import LinkConfig, LinkShared
from qkdd.link.status import BlockRecord, LinkSnapshot
from qkdd.node.advice import advice_view
from qkdd.node.decoy_monitor import DecoyMonitor
from qkdd.node.security_report import security_view
from qkdd.security import modes
from qkdd.security.channel import Channel, sampled_counts
from qkdd.security.errors import InconsistentCounts
from qkdd.security.estimate import fit_channel
from qkdd.security.ledger import LedgerView

LINK = Channel(0.05, 2e-6, 0.015)


def decoy(**changes: Any) -> DecoySettings:
    known: dict[str, Any] = {
        "pulse_rate": 10e6,
        "block_pulses": 300_000_000,
        "mu": (0.5, 0.2, 0.001),
        "p": (0.6, 0.3, 0.1),
        "mu_intervals": ((0.49, 0.51), (0.19, 0.21), (0.0, 0.002)),
        "x_basis": 0.3,
    }
    return DecoySettings(**(known | changes))


def one_decoy(proof: str) -> DecoySettings:
    return decoy(
        proof=proof,
        mu=(0.5, 0.2),
        p=(0.6, 0.4),
        mu_intervals=((0.49, 0.51), (0.19, 0.21)),
        expected=DecoyChannel(transmission=Fraction(LINK.eta)),
    )


def config(settings_: DecoySettings | None) -> LinkConfig:
    protocol = "bbm92" if settings_ is None else "decoy_bb84"
    return LinkConfig(name="a-b", role="alice", shared=LinkShared(protocol=protocol, decoy=settings_))  # type: ignore[arg-type]


def statistics(
    settings_: DecoySettings, link: Channel = LINK, receiver_x: float = 0.5, seed: int = 3
) -> DecoyStatistics:
    """Counts of one block, each cell drawn."""
    rng = np.random.default_rng(seed)
    x, p = float(settings_.x_basis), settings_.probabilities
    columns = []
    for share in ((1.0 - x) * (1.0 - receiver_x), x * receiver_x):
        drawn = sampled_counts(rng, link.pulse, settings_.mu, p, 1.0, round(settings_.block_pulses * share))
        columns.append(drawn)
    n_key, n_test, m_test = (
        tuple(int(v) for v in row) for row in (columns[0].n_key, columns[1].n_key, columns[1].m_key)
    )
    return DecoyStatistics(settings_.block_pulses, settings_.mu, p, x, n_key, n_test, m_test)


def watching(settings_: DecoySettings, blocks: int = 3) -> DecoyMonitor:
    monitor = DecoyMonitor("a-b", RecordingMeter())
    for seed in range(blocks):
        monitor.observe(statistics(settings_, seed=seed))
    return monitor


def record(length: int, f_sec: float = 1.3) -> BlockRecord:
    return BlockRecord(1, 1.79e9, True, None, 200_000, 0.016, 0.03, length, 31_000, f_sec, 5.0, 0.4)


@settings(max_examples=40, deadline=None)
@given(
    eta=st.floats(1e-4, 0.5),
    dark=st.floats(0.0, 1e-5),
    error=st.floats(0.0, 0.1),
    mu3=st.sampled_from([None, 0.0, 0.001, 0.02]),
)
def test_the_channel_is_found_again(eta: float, dark: float, error: float, mu3: float | None) -> None:
    mu = (0.6, 0.2) if mu3 is None else (0.6, 0.2, mu3)
    model = Channel(eta, dark, error)
    sent = [1e12] * len(mu)
    seen = [1e12 * model.pulse(value)[0] for value in mu]
    wrong = [1e12 * model.pulse(value)[1] for value in mu]
    found = fit_channel(mu, sent, seen, sent, wrong)
    assert found.eta == pytest.approx(eta, rel=1e-6)
    assert found.p_dc == pytest.approx(dark, rel=1e-4, abs=1e-10)
    assert found.e_mis == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_counts_without_a_channel_are_refused() -> None:
    with pytest.raises(InconsistentCounts):
        fit_channel((0.5, 0.1), (100.0, 100.0), (100.0, 1.0), (1.0, 1.0), (0.0, 0.0))
    with pytest.raises(InconsistentCounts, match="no transmission"):
        fit_channel((0.5, 0.1), (1e6, 1e6), (10.0, 5000.0), (1.0, 1.0), (0.0, 0.0))


def test_monitor_keeps_each_block_once_and_tells_the_error_of_each_intensity() -> None:
    meter = RecordingMeter()
    monitor = DecoyMonitor("a-b", meter)
    first = statistics(decoy())
    monitor.observe(first)
    monitor.observe(first.with_key_errors((1, 1, 0)))  # the same block, corrected
    assert monitor.count == 1
    total = monitor.total()
    assert total is not None
    assert total.n_key == first.n_key
    found = monitor.channel(total)
    assert found.eta == pytest.approx(LINK.eta, rel=0.02)
    assert found.e_mis == pytest.approx(LINK.e_mis, rel=0.1)
    assert found.receiver_key == pytest.approx(0.5, abs=0.01)


def test_advice_for_a_decoy_link_beats_what_is_configured() -> None:
    shape = decoy()
    snapshot = LinkSnapshot("a-b", "alice", last_blocks=(record(40_000), record(0)))
    advice = advice_view(config(shape), snapshot, watching(shape), None)
    assert advice.recommended.secret_bits_per_s > advice.present.secret_bits_per_s > 0
    assert advice.measured.transmission == pytest.approx(LINK.eta, rel=0.02)
    assert advice.measured.correction_efficiency == pytest.approx(1.3)
    assert advice.seen_bits_per_s == pytest.approx(4_000)
    best = advice.recommended
    assert math.fsum(best.p) == pytest.approx(1.0)
    assert best.mu[0] > best.mu[1] + best.mu[2]
    assert best.block_s <= 60.0
    assert all(rung.block_s < best.block_s for rung in advice.ladder)
    # what is advised makes a configuration that check-config takes
    advised = decoy(
        mu=tuple(best.mu),
        p=tuple(best.p),
        x_basis=Fraction(best.x_basis or 0.0),
        block_pulses=best.block_pulses,
        mu_intervals=tuple((value * 0.99, value * 1.01) for value in best.mu),
    )
    assert not list(advised.check())


def test_a_key_basis_with_fewer_errors_is_not_judged_by_the_test_basis() -> None:
    shape = decoy()
    watched = watching(shape)
    total = watched.total()
    assert total is not None
    share = sum(total.n_test) / (sum(total.n_key) + sum(total.n_test))
    tested = sum(total.m_test or ()) / sum(total.n_test)
    rates = []
    for ratio in (1.0, 0.5):  # error rate of the key basis over that of the test basis
        block = msgspec.structs.replace(record(40_000), qber=tested * (share + (1 - share) * ratio))
        snapshot = LinkSnapshot("a-b", "alice", last_blocks=(block,))
        rates.append(advice_view(config(shape), snapshot, watched, None).present.secret_bits_per_s)
    assert rates[1] > 1.05 * rates[0]


@pytest.mark.parametrize("proof", ["bb84-1decoy/wiesemann", "bb84-1decoy/rusca2018"])
def test_advice_for_one_decoy(proof: str) -> None:
    shape = one_decoy(proof)
    advice = advice_view(config(shape), LinkSnapshot("a-b", "alice"), watching(shape), 30.0)
    assert advice.recommended.secret_bits_per_s >= advice.present.secret_bits_per_s
    assert advice.label == modes.mode(proof).label
    assert len(advice.recommended.mu) == 2


def test_advice_for_pairs_is_a_block_length() -> None:
    snapshot = LinkSnapshot("a-b", "alice", last_blocks=(record(44_000, 2.1),))
    advice = advice_view(config(None), snapshot, DecoyMonitor("a-b", RecordingMeter()), None)
    assert advice.recommended.mu == []
    rates = [rung.secret_bits_per_s for rung in advice.ladder]
    assert advice.recommended.secret_bits_per_s >= 0.95 * max(rates)
    assert any(rung.block_s == 5.0 for rung in advice.ladder)


def test_no_advice_before_there_is_something_to_see() -> None:
    nothing = DecoyMonitor("a-b", RecordingMeter())
    for shape in (None, decoy()):
        with pytest.raises(NotNow):
            advice_view(config(shape), LinkSnapshot("a-b", "alice"), nothing, None)


SHAPES = {
    "bb84-2decoy/vl": decoy(efficiency_mismatch=Fraction(0.001), random_swap=True),
    "bb84-2decoy/lim2014": decoy(proof="bb84-2decoy/lim2014"),
    "bb84-1decoy/wiesemann": one_decoy("bb84-1decoy/wiesemann"),
    "bb84-1decoy/rusca2018": one_decoy("bb84-1decoy/rusca2018"),
    "bbm92/tl2017": None,
}


@pytest.mark.parametrize("proof", SHAPES)
def test_security_shows_the_proof_its_numbers_and_every_term(proof: str) -> None:
    link = config(SHAPES[proof])
    ledger = LedgerView(2, 1e-6, 1e-9, 1e-3, 1000, 999_000, 57.0, False)
    view = security_view(link, ledger)
    mode = modes.mode(proof)
    assert (view.proof, view.label, view.strict) == (proof, mode.label, mode.strict)
    summed = math.fsum(term.value for term in view.terms if not term.part_of)
    assert summed == pytest.approx(view.eps_block, rel=1e-12)
    assert {"secrecy", "correctness", "authentication", "bootstrap", "key management"} <= {t.name for t in view.terms}
    assert [entry.text for entry in view.assumptions] == [entry.text for entry in mode.assumptions]
    for entry, shown in zip(mode.assumptions, view.assumptions, strict=True):
        assert set(entry.needs) <= set(shown.numbers), (entry.id, shown.numbers)
    assert (view.epoch, view.blocks_charged, view.blocks_left) == (2, 1000, 999_000)
    if proof == "bb84-2decoy/vl":
        parts = {term.name: term.value for term in view.terms if term.part_of}
        assert math.fsum(parts.values()) == pytest.approx(link.shared.eps_sec, rel=1e-9)
