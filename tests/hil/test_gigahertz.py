"""The generated gigahertz recording: what is in it, what the host makes of it, what goes over the wire."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.fixture import BenchmarkFixture
from qkdd_hil.gigahertz import cable
from qkdd_hil.gigahertz.__main__ import MUST, app, middle
from qkdd_hil.gigahertz.measure import entropy, measure, slots_entropy
from qkdd_hil.gigahertz.recording import Recording, Terms, generate
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def recording() -> Recording:
    return generate(Terms(seconds=0.05))


def test_a_recording_has_the_clicks_of_a_gigahertz_link(recording: Recording) -> None:
    assert recording.clicks_per_s > MUST
    assert np.all(np.diff(recording.times) >= 0)
    assert len(np.unique(recording.times % 1000)) == 1000, "picoseconds, not bins"
    assert len(recording.symbols) == 50_000_000
    assert set(np.unique(recording.detectors)) == {0, 1, 2, 3}


def test_every_sifted_round_is_what_was_prepared(recording: Recording) -> None:
    """`measure` compares them itself; here its figures: gain of the settings, errors of the optics, wire near the entropy."""
    found = measure(recording)
    assert found.qber == pytest.approx(0.0105, abs=0.003)
    assert found.rounds / found.detections == pytest.approx(0.82, abs=0.01)
    assert found.detections > 0.75 * found.clicks
    for part in ("slots", "bases", "answer"):
        wire, bound = getattr(found, f"wire_bits_{part}"), getattr(found, f"bound_bits_{part}")
        assert 0.98 * bound < wire < 1.02 * bound + 0.001, part
    assert found.wire_bits < 1.01 * found.bound_bits


def test_a_wrong_symbol_is_noticed(recording: Recording) -> None:
    """The comparison of `measure` can fail."""
    mixed = Recording(recording.terms, recording.times, recording.detectors, recording.symbols[::-1].copy())
    assert measure(mixed).qber > 0.4


@pytest.mark.slow
def test_a_board_in_another_process_is_asked_for_what_was_detected(tmp_path: Path) -> None:
    """`run` compares every symbol with what was prepared. The window is four seconds, the most that a board can have."""
    recording = generate(Terms(seconds=0.005, seed=4))
    recording.save(tmp_path)
    found = asyncio.run(cable.run(recording, tmp_path, window=(1 << 32) - 1, seconds=0.2, share=0.02))
    assert (found.lost, found.refused, found.code) == (0, 0, None)
    assert found.asked == pytest.approx(0.2 * 0.02 * found.link_symbols_per_s, rel=0.1)
    assert 1.0 < found.cable_bytes < 4.0
    assert found.stream_bytes > 100 * found.cable_bytes
    gone = asyncio.run(cable.run(recording, tmp_path, window=1 << 20, seconds=0.1, share=0.02, late=0.05))
    assert (gone.asked, gone.refused, gone.code) == (0, 2, "QKD-LNK-SYMBOLS-LOST")
    assert gone.lost > 0
    assert gone.margin_s is not None
    assert gone.margin_s < 0


def test_a_recording_is_the_same_after_it_was_on_disk(tmp_path: Path) -> None:
    small = generate(Terms(seconds=0.002, seed=3))
    small.save(tmp_path / "r")
    again = Recording.load(tmp_path / "r")
    assert again.terms == small.terms
    for name in ("times", "detectors", "symbols"):
        assert np.array_equal(getattr(again, name), getattr(small, name))
    made = generate(Terms(seconds=0.002, seed=3))
    assert np.array_equal(made.times, small.times), "a seed makes the same recording"


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)  # the other tests want all cores
    run = CliRunner()
    folder, figures = tmp_path / "r", tmp_path / "f.json"
    assert run.invoke(app, ["generate", str(folder), "--seconds", "0.01"]).exit_code == 0
    done = run.invoke(app, ["measure", str(folder), "--repeats", "1", "--json", str(figures)])
    assert "bits on the wire" in done.output
    assert "bound_bits_slots" in figures.read_text()


@given(st.integers(1, 60), st.integers(1, 4), st.data())
def test_the_entropy_of_slots_is_the_number_of_ways(pulses: int, apart: int, data: st.DataObject) -> None:
    most = (pulses + apart - 1) // apart
    n = data.draw(st.integers(1, most))
    ways = math.comb(pulses - (apart - 1) * (n - 1), n)
    assert slots_entropy(n, pulses, apart) == pytest.approx(math.log2(ways) / n, abs=1e-6)


def test_entropy_of_frequencies() -> None:
    assert entropy(np.array([0, 1, 0, 1], np.uint8)) == pytest.approx(1.0)
    assert entropy(np.zeros(5, np.uint8)) == 0.0


@pytest.mark.benchmark(group="gigahertz")
def test_speed_of_slots_and_sifting(benchmark: BenchmarkFixture, recording: Recording) -> None:
    """With --benchmark-enable: one block; the rates themselves come from `python -m qkdd_hil.gigahertz measure`."""
    runs = []
    benchmark.pedantic(lambda: runs.append(measure(recording)), rounds=3, iterations=1)
    figures = middle(runs)
    benchmark.extra_info["bob_clicks_per_s"] = figures.bob_clicks_per_s
    benchmark.extra_info["alice_clicks_per_s"] = figures.alice_clicks_per_s
    assert figures.slots_clicks_per_s > MUST
