"""Boards for tests: a store on small flash, signed images."""

from __future__ import annotations

from qkdd_drivers.qkdd_board.bootstore import BootStore
from qkdd_drivers.qkdd_board.flash import Flash, Power
from qkdd_drivers.qkdd_board.sim import development_key
from qkdd_fwbridge import image

MODEL = "QKDD-TX1"
SLOT_SECTORS = 4


def signed(version: tuple[int, int, int], counter: int, *, model: str = MODEL, size: int = 6000) -> bytes:
    """An image whose payload is its version, over and over."""
    body = (b"%d.%d.%d " % version) * size
    manifest = image.Manifest(model, version, counter, (1, 1), (1, 2))
    return image.sign(manifest, body[:size], development_key())


def store(seed: int = 1, first: bytes | None = None) -> tuple[BootStore, Power]:
    power = Power(seed)
    flash = Flash(BootStore.sectors_needed(SLOT_SECTORS), power)
    made = BootStore(flash, SLOT_SECTORS, MODEL, 1, [development_key().public_key()])
    made.manufacture(first or signed((2, 0, 0), 1))
    made.boot()
    return made, power
