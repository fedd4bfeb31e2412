"""Blocks of pulses drawn from the channel model: both nodes' rounds, with attacks. A mock of a link: never shipped."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import numpy as np
from bench_sessions import MemorySession, Tamper, Wire

from qkdd.core.errors import QkddError
from qkdd.distill import DecoyBlock, DecoyChannel, DecoySettings, DistillConfig, Distiller
from qkdd.security.channel import Channel, Pulse

LINK = Channel(0.1, 1e-6, 0.01)
Model = Callable[[float], Pulse]


def two_decoy(**changes: object) -> DecoySettings:
    given: dict[str, object] = {
        "pulse_rate": 10e6,
        "block_pulses": 20_000_000,
        "mu": (0.55, 0.25, 0.001),
        "p": (0.35, 0.48, 0.17),
        "mu_intervals": ((0.54, 0.56), (0.245, 0.255), (0.0, 0.002)),
        "x_basis": 0.2,
    }
    return DecoySettings(**(given | changes))  # type: ignore[arg-type]


def one_decoy(proof: str, **changes: object) -> DecoySettings:
    given: dict[str, object] = {
        "proof": proof,
        "mu": (0.48, 0.18),
        "p": (0.62, 0.38),
        "mu_intervals": ((0.47, 0.49), (0.176, 0.184)),
        "expected": DecoyChannel(transmission=LINK.eta, dark_probability=LINK.p_dc, error=LINK.e_mis),  # type: ignore[arg-type]
    }
    return two_decoy(**(given | changes))


def config(settings: DecoySettings, **changes: object) -> DistillConfig:
    return DistillConfig(decoy=settings, **changes)  # type: ignore[arg-type]


def all_singles_blocked(mu: float) -> Pulse:
    """Photon-number splitting: nothing of a one-photon pulse arrives, of the rest one photon without loss."""
    several = -math.expm1(-mu) - mu * math.exp(-mu)
    return several + 2e-6 * (1.0 - several), 1e-6 + 0.01 * several


def intercept_resend(mu: float) -> Pulse:
    """Every pulse measured in a random basis and sent again: a quarter of the bits is wrong."""
    detected, _ = LINK.pulse(mu)
    return detected, detected * 0.25


def blocks(
    settings: DecoySettings, model: Model = LINK.pulse, seed: int = 1, number: int = 0, receiver_x: float = 0.5
) -> tuple[DecoyBlock, DecoyBlock]:
    """alice's and bob's view of one block."""
    rng = np.random.default_rng(seed)
    z, x = (1.0 - settings.x_basis) * (1.0 - receiver_x), settings.x_basis * receiver_x
    cells, labels = [], []
    for basis, share in ((0, z), (1, x)):
        for index, (mu, p) in enumerate(zip(settings.mu, settings.probabilities, strict=True)):
            detected, wrong = model(mu)
            for error, probability in ((0, detected - wrong), (1, wrong)):
                cells.append(share * p * probability)
                labels.append((basis, index, error))
    drawn = rng.multinomial(settings.block_pulses, [*cells, 1.0 - math.fsum(cells)])[:-1]
    table = np.repeat(np.array(labels, np.uint8), drawn, axis=0)
    rng.shuffle(table)
    bits = rng.integers(0, 2, len(table), np.uint8)
    bases, intensities, errors = (np.ascontiguousarray(table[:, column]) for column in range(3))
    seconds = settings.block_s
    return (
        DecoyBlock(number, bits, bases, intensities, settings.block_pulses, seconds),
        DecoyBlock(number, bits ^ errors, bases.copy(), intensities.copy(), settings.block_pulses, seconds),
    )


async def run(
    alice: DecoyBlock,
    bob: DecoyBlock,
    nodes: tuple[Distiller, Distiller],
    tamper: Tamper | None = None,
    *,
    authentic: bool = False,
) -> tuple[object, object, Wire, Wire]:
    """Both nodes' results or errors, and the two directions of the wire."""
    there, back = Wire("alice", tamper), Wire("bob", tamper)
    sessions = (
        MemorySession("alice", there, back, authentic=authentic),
        MemorySession("bob", back, there, authentic=authentic),
    )

    async def side(session: MemorySession, block: DecoyBlock, node: Distiller) -> object:
        try:
            return await node.distil(block, session)  # type: ignore[arg-type]
        except QkddError as error:
            await session.abort(error)
            return error

    a, b = await asyncio.gather(side(sessions[0], alice, nodes[0]), side(sessions[1], bob, nodes[1]))
    return a, b, there, back


def distil_pair(
    settings: DecoySettings, model: Model = LINK.pulse, tamper: Tamper | None = None, seed: int = 1, **changes: object
) -> tuple[object, object, Wire, Wire]:
    """One block of fresh nodes, from drawing to the result."""
    shared = config(settings, **changes)
    return asyncio.run(run(*blocks(settings, model, seed), (Distiller(shared), Distiller(shared)), tamper))
