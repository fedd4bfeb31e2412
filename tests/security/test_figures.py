"""Published numbers (S9) within the tolerances stated there; the search; curves, picture and command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qkdd.security import figures, keyrate, modes
from qkdd.security.channel import Channel, dead_time_factor, fibre_transmission, rusca2018_pulse, wiesemann_pulse
from qkdd.security.errors import PlotsAbsent, ProofInputError
from qkdd.security.keyrate_cli import app
from qkdd.security.optimise import Operating, advise, climb, decode, encode, link_family
from qkdd.security.proofs import EQUAL_DETECTORS, Receiver

LINK = Channel(0.1, 1e-6, 0.01, 0.0, 1e7, 1e-7)


def test_lim_fig1_at_100_km() -> None:
    published = {5: 1.04e-5, 6: 2.76e-5, 7: 4.77e-5, 8: 6.75e-5, 9: 8.54e-5}
    rates = {power: figures.lim2014_fig1(10.0**power, 100.0).rate for power in published}
    for power, rate in published.items():
        assert rates[power] == pytest.approx(rate, rel=0.01)
    assert rates[9] / rates[7] == pytest.approx(1.75, rel=0.05)
    clamped = [figures.lim2014_fig1(n, 100.0, clamp=True).rate for n in (1e7, 1e9)]
    assert clamped[1] / clamped[0] == pytest.approx(1.75, rel=0.05)


def test_lim_fig1_small_block_reach() -> None:
    """Published 135 km, within 10 %; the search must find the narrow region next to the end."""
    assert figures.lim2014_fig1(1e4, 126.0).rate > 0.0


@pytest.mark.slow
def test_lim_fig1_small_block_ends() -> None:
    assert figures.lim2014_fig1(1e4, 130.0).rate == 0.0


def test_rusca_reach_and_rate() -> None:
    assert figures.rusca2018_figure(1e7, 60.0).rate > 0.0
    assert figures.rusca2018_figure(1e7, 66.0).rate == 0.0
    assert figures.rusca2018_figure(1e7, 26.0).rate == pytest.approx(1.23e5, rel=0.01)
    assert figures.rusca2018_figure(1e7, 23.0).rate == pytest.approx(
        2.3e5, rel=0.1
    )  # detector's 3 dB counted in the 26


def test_ma_2005_reach() -> None:
    assert figures.reach(figures.ma2005_rate, 500.0) == pytest.approx(140.55, abs=0.15)
    assert figures.reach(lambda km: figures.ma2005_rate(km, e_d=0.2), 500.0) == 0.0


def test_ma_fung_lo_optimum() -> None:
    mu, gain, qber = figures.ma_fung_lo_optimum(0.145, 6.02e-6, 0.015, 1.22)
    assert mu == pytest.approx(0.1176, rel=0.002)
    assert gain == pytest.approx(2.777e-3, rel=0.002)
    assert qber == pytest.approx(0.0574, rel=0.002)


@pytest.mark.parametrize(
    "point",
    [Operating((0.5, 0.12, 2e-4), (0.5, 0.35, 0.15), 0.8), Operating((0.6, 0.2), (0.7, 0.3), 0.9)],
)
def test_coordinates_return_to_the_point(point: Operating) -> None:
    back = decode(encode(point), point.mu[2] if len(point.mu) == 3 else None)
    assert back.mu == pytest.approx(point.mu)
    assert back.p == pytest.approx(point.p)
    assert back.p_key == pytest.approx(point.p_key)


@pytest.mark.parametrize(
    "mode", [m.id for m in modes.MODES.values() if m.intensities and m.protocol.startswith("bb84")]
)
def test_advice_is_an_optimum_and_carries_its_label(mode: str) -> None:
    advice = advise(mode, LINK, longest_block_s=10.0, rungs=2)
    assert advice.label == modes.mode(mode).label
    assert 2e5 < advice.length < 2e6
    assert advice.rate_hz * advice.block_s == pytest.approx(advice.length, abs=1.0)
    assert advice.rate_hz > advice.ladder[0][1] > advice.ladder[1][1] > 0.0
    problem = link_family(mode, LINK, advice.block_pulses, 1e-12, 1e-15, EQUAL_DETECTORS)(1.0)
    again = problem(climb(problem, advice.at, width=-0.3)).rate
    assert again <= advice.rate_hz * 1.001
    assert advise(mode, LINK, longest_block_s=10.0, rungs=2) == advice  # deterministic


def test_advice_knows_unequal_detectors_and_dead_links() -> None:
    equal = advise("bb84-2decoy/vl", LINK, longest_block_s=10.0)
    unequal = advise("bb84-2decoy/vl", LINK, longest_block_s=10.0, receiver=Receiver(0.01, 0.001))
    assert 0.0 < unequal.rate_hz < equal.rate_hz
    dead = advise("bb84-1decoy/wiesemann", Channel(1e-9, 1e-4, 0.01), longest_block_s=1.0)
    assert dead.rate_hz == 0.0
    assert dead.length == 0
    with pytest.raises(ProofInputError):
        advise("bbm92/tl2017", LINK, longest_block_s=1.0)
    with pytest.raises(ProofInputError):
        advise("bb84-2decoy/vl", LINK, longest_block_s=math.nan)


def test_channel_models() -> None:
    assert fibre_transmission(50.0) == pytest.approx(0.1)
    assert dead_time_factor(1e7, 1e-7) == pytest.approx(0.5)
    for k in (1e-6, 0.5):
        plain, exact = rusca2018_pulse(k, 0.01, 1e-7, 0.01), wiesemann_pulse(k, 0.01, 1e-7, 0.01)
        assert exact[0] <= plain[0]
        assert exact[0] == pytest.approx(plain[0], rel=1e-6, abs=1e-9)
    with pytest.raises(ProofInputError):
        rusca2018_pulse(0.5, 1.5, 0.0, 0.0)


def test_curves_fall_and_end() -> None:
    chart = keyrate.link_chart("bb84-1decoy/rusca2018", Channel(0.1, 1e-6, 0.01), [10.0], furthest_km=300, step_km=50)
    rates = [rate for _, rate in chart.curves[0].points]
    assert 2 <= len(rates) < 7
    assert rates == sorted(rates, reverse=True)
    assert chart.note == modes.NOT_STRICT
    with pytest.raises(ProofInputError):
        keyrate.places(100.0, 0.0)


def test_picture_carries_the_label(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from qkdd.security.plot import draw

    curves = (keyrate.Curve("c", ((0.0, 1.0), (1.0, 0.1))), keyrate.Curve("none", ()))
    chart = keyrate.Chart("T", "m", modes.NOT_STRICT, "x", "y", curves)
    draw([chart], tmp_path / "a.svg")
    draw([chart, chart], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ProofInputError):
        draw([chart], tmp_path / "a.nothing")
    with pytest.raises(ProofInputError):
        draw([], tmp_path / "a.png")


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from qkdd.security.plot import draw

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotsAbsent, match="QKD-SEC-PLOTS"):
        draw([keyrate.Chart("T", "m", "", "x", "y", ())], tmp_path / "a.png")


def test_command() -> None:
    run = CliRunner().invoke(app, ["--json", "--furthest", "20", "--step", "20", "--block", "10"])
    assert run.exit_code == 0
    (chart,) = json.loads(run.stdout)
    assert chart["mode"] == modes.DEFAULT_DECOY_MODE
    assert len(chart["curves"][0]["points"]) == 2
    assert CliRunner().invoke(app, ["--mode", "nobody"]).exit_code == 1
    assert CliRunner().invoke(app, ["--set", "nobody"]).exit_code == 2
