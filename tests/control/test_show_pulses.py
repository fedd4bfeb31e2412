"""`qkdctl link` on a link that sends pulses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from qkdd.control import show, views

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = sys.modules.setdefault("fake_node", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake_node)

PULSES = views.PulsesView(
    gains=[0.046, 0.0093, 2e-4],
    error_rates=[0.011, 0.02, 0.5],
    detected_ratio=0.035,
    gated_ratio=0.01,
    slot_phase=1e-3,
    slot_phase_worst=0.012,
    slot_contrast=0.99,
    sifting_bits=7.4,
)


def text(pulses: views.PulsesView | None) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(show.link(msgspec.to_builtins(msgspec.structs.replace(fake_node.LINK, pulses=pulses))))
    return capture.get()


def test_gains_errors_and_phase_are_shown_in_place_of_pairs() -> None:
    shown = text(PULSES)
    for part in ("0.046", "1.10 %", "3.50 % of the pulses", "at most 0.012 of a slot", "7.4 bits a detection"):
        assert part in shown
    assert "CHSH" not in shown
    assert "coincidences" not in shown


def test_the_sender_does_not_know_the_receivers_phase() -> None:
    assert "of a slot" not in text(msgspec.structs.replace(PULSES, slot_phase=None, slot_phase_worst=None))
    assert "CHSH" in text(None)
