"""Settings of a pulsed link: what is refused, what both nodes compare, whose device is whose."""

from __future__ import annotations

import msgspec
import pytest

from qkdd.core.units import Fraction, Hertz, Seconds
from qkdd.distill import DecoySettings
from qkdd.link import LinkConfig, LinkShared
from qkdd.link.sifting import spacing

DECOY = DecoySettings(
    pulse_rate=Hertz(10e6),
    block_pulses=100_000_000,
    mu=(0.5, 0.1, 0.001),
    p=(0.8, 0.1, 0.1),
    mu_intervals=((0.49, 0.51), (0.09, 0.11), (0.0, 0.002)),
)
GOOD = LinkShared(protocol="decoy_bb84", decoy=DECOY)


def keys(shared):
    return {key for key, _, _ in shared.check()}


def test_a_good_section_has_no_findings():
    assert keys(GOOD) == set()
    assert GOOD.block_s == pytest.approx(10.0)
    assert GOOD.slot_ps == pytest.approx(1e5)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"decoy": None}, "decoy"),
        ({"gate": Fraction(0.01)}, "gate"),
        ({"gate": Fraction(1.5)}, "gate"),
        ({"dead_time": Seconds(0.0)}, "dead_time"),
        ({"dead_time": Seconds(1.0)}, "dead_time"),
        ({"align_symbols": 1000}, "align_symbols"),
        ({"offset_range": Seconds(60.0)}, "offset_range"),
        ({"clock_error_max": 1e-3}, "clock_error_max"),
        ({"decoy": msgspec.structs.replace(DECOY, block_pulses=100_000_000_000)}, "decoy.block_pulses"),
        ({"protocol": "bbm92"}, "decoy"),
    ],
)
def test_what_cannot_be_is_found_by_its_key(changes, key):
    assert key in keys(msgspec.structs.replace(GOOD, **changes))


@pytest.mark.parametrize("changes", [{"gate": Fraction(0.4)}, {"symbols": "on_demand"}, {"align_symbols": 1 << 18}])
def test_both_nodes_compare_them(changes):
    other = msgspec.structs.replace(GOOD, **changes)
    assert GOOD.canonical() != other.canonical()
    tighter = msgspec.structs.replace(DECOY, block_pulses=50_000_000)
    assert GOOD.canonical() != msgspec.structs.replace(GOOD, decoy=tighter).canonical()


def test_alice_has_a_transmitter_and_bob_a_tagger():
    alice = LinkConfig(name="a-b", role="alice", shared=GOOD, tagger="t", transmitter="b")
    bob = msgspec.structs.replace(alice, role="bob")
    assert (alice.device, alice.transmits) == ("b", True)
    assert (bob.device, bob.transmits) == ("t", False)
    assert msgspec.structs.replace(alice, shared=LinkShared()).device == "t"


@pytest.mark.parametrize(
    ("rate", "dead", "gate", "apart"),
    [(10e6, 100e-9, 0.5, 1), (1e9, 20e-9, 0.5, 20), (1e9, 20e-9, 1.0, 19), (10e6, 80e-9, 0.2, 1)],
)
def test_the_least_distance_of_two_detections_follows_from_the_dead_time(rate, dead, gate, apart):
    decoy = msgspec.structs.replace(DECOY, pulse_rate=Hertz(rate))
    shared = msgspec.structs.replace(GOOD, decoy=decoy, dead_time=Seconds(dead), gate=Fraction(gate))
    assert spacing(shared) == apart
