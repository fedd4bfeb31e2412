"""Statistics of opened pairs, sifting helpers, and the link's configuration."""

from __future__ import annotations

import numpy as np
import pytest

from qkdd.core import config
from qkdd.distill.errors import BlockMalformed
from qkdd.link.config import STATE_FLIPS, LinkConfig, LinkShared
from qkdd.link.errors import BasisImbalance
from qkdd.link.estimate import coincidence_matrix, pair_statistics, timing_information
from qkdd.link.protocols.bbm92 import announced_bins, check_balance
from qkdd.link.wire import pack_detectors, unpack_detectors, unpack_rising

PHI_PLUS = np.array([[98, 2, 50, 50], [2, 98, 50, 50], [50, 50, 96, 4], [50, 50, 4, 96]])


def test_statistics_of_a_known_matrix():
    found = pair_statistics(PHI_PLUS, STATE_FLIPS["phi+"])
    assert (found.errors, found.bits) == (12, 400)
    assert found.visibility == pytest.approx((0.96, 0.92))
    # t1² + t2² of diag(0.96, 0.92)
    assert found.chsh_s == pytest.approx(2 * (0.96**2 + 0.92**2) ** 0.5)
    # by hand: 2/|t|·sqrt(sum E²(1 - E²)/N), N = 200
    spread = 2 * ((0.96**2 * (1 - 0.96**2) + 0.92**2 * (1 - 0.92**2)) / 200) ** 0.5 / (0.96**2 + 0.92**2) ** 0.5
    assert found.chsh_error == pytest.approx(spread)


@pytest.mark.parametrize("state", sorted(STATE_FLIPS))
def test_the_configured_state_makes_bits_agree(state):
    flips = STATE_FLIPS[state]
    matrix = PHI_PLUS.copy()
    for basis in (0, 1):
        if flips[basis]:
            own = slice(2 * basis, 2 * basis + 2)
            matrix[own, own] = matrix[own, own][:, ::-1]
    found = pair_statistics(matrix, flips)
    assert found.qber == pytest.approx(0.03)
    assert found.chsh_s == pytest.approx(2 * (0.96**2 + 0.92**2) ** 0.5)


def test_no_pairs_are_no_correlation_and_no_crash():
    found = pair_statistics(np.zeros((4, 4), np.int64), (0, 0))
    assert found.qber is None
    assert found.chsh_s == 0.0
    assert coincidence_matrix(np.empty(0, np.uint8), np.empty(0, np.uint8)).sum() == 0


def test_timing_information_sees_a_shift_and_nothing_where_there_is_none():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, 50_000).astype(np.uint8)
    noise = rng.normal(0, 300.0, len(bits))
    assert timing_information(noise, bits, 2000.0) < 1e-4
    assert timing_information(noise, bits, 100.0) < 5e-4
    # two values far apart give the bit away
    assert timing_information(noise + 10_000.0 * bits, bits, 2000.0) == pytest.approx(1.0, abs=1e-3)
    assert timing_information(np.empty(0), np.empty(0, np.uint8), 2000.0) == 0.0


def test_announced_times_hide_what_lies_below_the_bin():
    times = np.array([999, 1000, 2999, 3000], np.int64) + 10**6
    assert announced_bins(times, 10**6, 2000).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(("z", "x", "refused"), [(500, 500, False), (525, 475, False), (526, 474, True), (0, 0, False)])
def test_basis_balance(z, x, refused):
    bases = np.repeat(np.array([0, 1], np.uint8), (z, x))
    if refused:
        with pytest.raises(BasisImbalance):
            check_balance(bases, 0.05)
    else:
        check_balance(bases, 0.05)


def test_detectors_travel_in_two_bits():
    detectors = np.array([0, 1, 2, 3, 3, 0, 2], np.uint8)
    assert unpack_detectors(pack_detectors(detectors), 7).tolist() == detectors.tolist()
    with pytest.raises(BlockMalformed):
        unpack_detectors(pack_detectors(detectors), 99)


@pytest.mark.parametrize(("values", "below"), [([1, 1, 2], 10), ([1, 5, 10], 10)], ids=["repeated", "beyond the block"])
def test_numbers_that_do_not_fit_are_refused(values, below):
    from qkdd import kernels

    data = kernels.gap_encode(np.array(values, np.int64))
    with pytest.raises(BlockMalformed):
        unpack_rising(data, len(values), below)
    with pytest.raises(BlockMalformed):
        unpack_rising(b"\xff" * 3, 500, 1000)


GOOD = 'name = "a-b"\nrole = "alice"\n[shared]\nblock = "5 s"\n'


def test_configuration_reads_and_its_canonical_form_ignores_how_it_is_written():
    first = config.parse(GOOD, LinkConfig).shared.canonical()
    assert first == config.parse(GOOD.replace("5 s", "5000 ms"), LinkConfig).shared.canonical()
    assert first != config.parse(GOOD.replace("5 s", "4 s"), LinkConfig).shared.canonical()
    assert {"block", "qber_max", "eps_sec", "state"} <= set(first)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (GOOD.replace('"alice"', '"eve"'), "role"),
        (GOOD + 'dead_time = "10 ns"\n', "shared.dead_time"),
        (GOOD + 'announce_bin = "4 ns"\n', "shared.announce_bin"),
        (GOOD + 'window = "6 V"\n', "shared.window"),
        (GOOD + 'protocol = "e91"\n', "shared.protocol"),
        ("channels = { H = 0, V = 0, D = 2, A = 3 }\n" + GOOD, "channels"),
        ("channels = { H = 0, V = 1, D = 2 }\n" + GOOD, "channels"),
        ('delays = { Q = "1 ns" }\n' + GOOD, "delays.Q"),
    ],
)
def test_what_is_refused_names_its_key(text, key):
    with pytest.raises(config.ConfigRefused) as caught:
        config.parse(text, LinkConfig)
    assert key in {finding.key for finding in caught.value.findings}


def test_the_defaults_are_those_of_the_demonstration():
    shared = LinkShared()
    assert list(shared.check()) == []
    assert (shared.window_ps, shared.dead_ps, shared.block_ps) == (6000, 100_000, 5 * 10**12)
