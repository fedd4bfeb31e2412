"""The demonstration of decoy-state BB84: a transmitter board, a receiver, and what the line should yield."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qkdd.core.units import dec_hook
from qkdd.distill.decoy_config import DecoySettings
from qkdd.distill.decoy_plan import other_leak
from qkdd.distill.plan import least_leak
from qkdd.distill.tracker import tolerate
from qkdd.link.config import LinkShared
from qkdd.security import modes
from qkdd.security.channel import BlockCounts
from qkdd.security.proofs import decoy_length
from qkdd_hil.demo.figures import Decoy, ExpectedIntensity, Intensity
from qkdd_hil.demo.intensities import Sample
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants.base import RECEIVER_LINK, Outlook, receiver_addresses, receiver_devices
from qkdd_hil.physics import PulsedLine, PulsedMeans, PulsedParameters

BLOCK_PULSES = (
    50_000_000  # 5 s at 10 MHz; a block takes as many pulses at any rate, for the finite-size terms need them
)
MU = (0.56, 0.22, 0.001)
P = (0.32, 0.48, 0.2)
X_BASIS = 0.23
INTERVAL = 0.01  # relative, of the mean photon numbers
GATE = 0.2  # of a slot: 20 ns at 10 MHz, ten bins of the tagger
GATE_LEAST = 12e-9  # s: two bins on each side of a click that sits on the rim of its bin
DEAD_TIME = "80 ns"  # the longest of the detectors is 60 ns
MISMATCH = 0.001  # relative half-range of the detectors' efficiencies, as the bench has them
ERROR_MARGIN = 0.003
BOARD_MEMORY_S = 4.0
BLOCKS = 6  # the first one knows its error rate only from the test basis and gives a quarter less


class Pulses:
    """Alice has a transmitter board, Bob a receiver."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def bench(self, sockets: Path) -> dict[str, Any]:
        options = self._options
        return {
            "seed": options.seed,
            "protocol": "decoy_bb84",
            "eve": options.intercepted,
            "pns": options.adversary == "pns",
            "alice": {"board_window": self._board_window},
            "bob": receiver_addresses("bob", sockets),
        }

    @property
    def _board_window(self) -> int:
        """Slots: a power of two of at least four seconds, for a bench that shares its machine with two nodes."""
        return 1 << math.ceil(math.log2(BOARD_MEMORY_S * self._options.pulse_rate))

    def devices(self, side: str, instruments: Mapping[str, Any]) -> dict[str, Any]:
        if side == "bob":
            return receiver_devices(instruments)
        board = instruments["board"]
        settings = {
            "pulse_rate": f"{self._options.pulse_rate:.0f} Hz",
            "intensity_signal": MU[0],
            "intensity_decoy": MU[1],
            "intensity_weakest": MU[2],
            "attenuation": "0 dB",  # a clean stop takes it to 60 dB and the laser off
            "laser": True,
        }
        where = {"host": board["host"], "tcp_ports": board["tcp_ports"]}
        return {"board": {"driver": "qkdd_transmitter", **where, "settings": settings}}

    def link(self, side: str) -> dict[str, Any]:
        ours: dict[str, Any] = {"transmitter": "board"}
        if side == "bob":
            detectors = zip("HVDA", PulsedParameters().bob.detectors, strict=True)
            ours = {**RECEIVER_LINK, "delays": {name: f"{one.delay * 1e9:.3f} ns" for name, one in detectors}}
        return {**ours, "shared": self.shared()}

    def shared(self) -> dict[str, Any]:
        """What both nodes must agree on."""
        options = self._options
        gate = min(0.6, max(GATE, GATE_LEAST * options.pulse_rate))
        noise = max(float(one.dark_counts + one.background) for one in PulsedParameters().bob.detectors)
        return {
            "protocol": "decoy_bb84",
            "qber_max": options.qber_max,
            "error_margin": ERROR_MARGIN,
            "dead_time": DEAD_TIME,
            "gate": gate,
            "symbols": self._options.symbols.replace("-", "_"),
            "decoy": {
                "pulse_rate": f"{options.pulse_rate:.0f} Hz",
                "block_pulses": options.block_pulses or BLOCK_PULSES,
                "mu": list(MU),
                "p": list(P),
                "mu_intervals": [[mu * (1 - INTERVAL), mu * (1 + INTERVAL)] for mu in MU],
                "x_basis": X_BASIS,
                "efficiency_mismatch": MISMATCH,
                "dark_count_probability": noise * gate / options.pulse_rate,
            },
        }

    def _settings(self) -> tuple[LinkShared, DecoySettings]:
        shared = msgspec.convert(self.shared(), LinkShared, dec_hook=dec_hook)
        if shared.decoy is None:
            raise ValueError("a demonstration of pulses without decoy settings")
        return shared, shared.decoy

    def outlook(self) -> Outlook:
        shared, decoy = self._settings()
        line = PulsedLine(PulsedParameters(), self._options.seed)
        line.setting.intensities = MU
        line.setting.eve = self._options.intercepted
        rate = float(decoy.pulse_rate)
        means = line.expected(float(shared.gate) / rate, rate, float(shared.dead_time))
        counts = expected_counts(means, decoy, float(shared.dead_time))
        n_key = math.fsum(counts.n_key)
        qber = math.fsum(counts.m_key + counts.m_test) / math.fsum(counts.n_key + counts.n_test)
        tolerated = tolerate(math.fsum(counts.m_key) / n_key, shared)
        _, budget = least_leak(round(n_key), tolerated, shared)
        leak = budget + other_leak(round(n_key), shared)
        found = decoy_length(
            decoy.proof, decoy.mu, decoy.probabilities, counts, leak, shared.eps_sec, shared.eps_cor,
            receiver=decoy.receiver(), simulation=True,
        )  # fmt: skip
        split = self._options.adversary == "pns"
        forbidden = split or self._options.forbids_key(qber)
        words = "photon-number splitting: no single photon arrives, no key may come" if split else ""
        return Outlook(
            qber=qber,
            forbidden=forbidden,
            promised=not forbidden and found.l_bits > 0 and self._options.promises_key(qber),
            secret_bits_per_s=0.0 if split else found.l_bits / decoy.block_s,
            proof=decoy.proof,
            label=modes.mode(decoy.proof).label,
            words=words,
            intensities=() if split else tuple(_intensities(means, decoy)),
            blocks=BLOCKS,
        )

    def decoy(self, outlook: Outlook, seen: Sequence[Sample]) -> Decoy:
        """Figures by intensity: the means of what was `seen` after each block, beside the outlook."""
        _, settings = self._settings()
        foreseen: Sequence[ExpectedIntensity | None] = outlook.intensities or (None,) * len(settings.mu)
        return Decoy(
            adversary=self._options.adversary if not self._options.eve else "intercept",
            pulses_per_s=float(settings.pulse_rate),
            pulses_per_block=settings.block_pulses,
            blocks_counted=len(seen),
            intensities=tuple(
                Intensity(
                    mu=mu,
                    probability=p,
                    gain=_mean([sample.gains[k] for sample in seen if k in sample.gains]),
                    qber_x=_mean([sample.errors[k] for sample in seen if k in sample.errors]),
                    expected_gain=one.gain if one else None,
                    expected_qber_x=one.qber_x if one else None,
                )
                for k, (mu, p, one) in enumerate(zip(settings.mu, settings.probabilities, foreseen, strict=True))
            ),
        )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def expected_counts(means: PulsedMeans, decoy: DecoySettings, dead_s: float) -> BlockCounts:
    """Mean counts of one block, pulses of blanked detectors lost."""
    p, x = np.array(decoy.probabilities), float(decoy.x_basis)
    live = means.live(decoy.probabilities, x, dead_s)
    sent = decoy.block_pulses * live * np.outer(p, [1 - x, x])
    n, m = sent * means.gain, sent * means.error
    key, test = slice(0, 1), slice(1, 2)

    def column(table: np.ndarray[Any, np.dtype[np.float64]], basis: slice) -> tuple[float, ...]:
        return tuple(float(value) for value in table[:, basis].ravel())

    return BlockCounts(column(n, key), column(m, key), column(n, test), column(m, test))


def _intensities(means: PulsedMeans, decoy: DecoySettings) -> list[ExpectedIntensity]:
    gain, qber = means.detected(float(decoy.x_basis)), means.error / means.gain
    return [ExpectedIntensity(mu=mu, gain=float(gain[k]), qber_x=float(qber[k, 1])) for k, mu in enumerate(decoy.mu)]
