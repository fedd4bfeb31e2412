"""Closed forms for the means of the prepare-and-measure bench, per pulse, in the symbols of the decoy papers.

A detector with mean photon number l and dark count probability p_dc in the accepted part of a slot clicks with
q = 1 - (1 - p_dc) e^-l. In a basis with detectors 0 and 1 a detection is any click, D = 1 - (1 - q0)(1 - q1), and an error is a
click of the wrong one alone or, half the time, both. With equal detectors this is Lim et al. 2014 (S8.2) and, for a small
p_dc, Rusca et al. 2018 (S8.3). A slot with clicks in both bases counts half in each, with a random bit: what the squashing model
of a passive receiver asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkdd_hil.physics.parameters import DetectorParameters
from qkdd_hil.physics.polarization import Matrix


@dataclass(frozen=True, slots=True)
class PulsedMeans:
    """click: float64[2, 2, 3, 4], chance by (basis, bit, intensity) and detector that it clicks in the accepted part of a slot;
    `eve` is already in `gain` and `error`. gain, error: float64[3, 2] by intensity and basis: chance that a pulse of that
    intensity prepared in that basis is detected in the same basis, and that it is and the bits differ. cross: float64[3, 2],
    that it is detected in the other one. stray_hz: clicks/s outside the accepted parts of the slots."""

    click: Matrix
    gain: Matrix
    error: Matrix
    cross: Matrix
    stray_hz: float
    pulse_hz: float

    def detected(self, p_x: float) -> Matrix:
        """float64[3]: chance of a click of any detector, by intensity, for the transmitter's X probability."""
        anywhere = 1.0 - (1.0 - self.click).prod(axis=-1)
        found: Matrix = np.einsum("bvk,b->k", anywhere, np.array([1 - p_x, p_x]) / 2)
        return found

    def click_rate(self, p: Sequence[float], p_x: float) -> float:
        """Clicks/s of all detectors for intensity probabilities p and the transmitter's X probability."""
        chances = np.einsum("bvkd,b,k->", self.click, np.array([1 - p_x, p_x]) / 2, np.asarray(p, dtype=float))
        return float(chances) * self.pulse_hz + self.stray_hz

    def live(self, p: Sequence[float], p_x: float, dead_s: float) -> float:
        """Share of the pulses that find the receiver open, when any click closes all detectors for `dead_s`, and again.

        Clicks of light come at the slots' middles: they close the next floor(dead_s / slot) pulses. Others come at any time.
        With a slot far shorter than dead_s it is S8.3's 1 / (1 + R t) to first order in R t.
        """
        per_pulse = (self.click_rate(p, p_x) - self.stray_hz) / self.pulse_hz
        closed = math.floor(dead_s * self.pulse_hz + 1e-9)
        return (1.0 - min(1.0, per_pulse)) ** closed * math.exp(-self.stray_hz * dead_s)


def _outcomes(click: Matrix) -> tuple[Matrix, Matrix]:
    """(detection, wrong): float64[2, 2, 3, 2] by (basis, bit, intensity) and the receiver's basis, for click chances
    float64[2, 2, 3, 4]. wrong: bit 1 where 0 was sent and the other way round."""
    silent = 1.0 - click.reshape(2, 2, 3, 2, 2)
    detection = 1.0 - silent.prod(axis=-1)
    one = (1.0 - silent[..., 1]) * silent[..., 0] + 0.5 * (1.0 - silent[..., 0]) * (1.0 - silent[..., 1])
    wrong = one.copy()
    wrong[:, 1] = detection[:, 1] - one[:, 1]
    other = detection[..., ::-1]  # the other basis clicked as well: half of these go there, the rest has a random bit
    return detection * (1.0 - other / 2.0), wrong * (1.0 - other) + detection * other / 4.0


def means_of(
    arrives: Matrix,
    means: Matrix,
    noise_hz: Matrix,
    detectors: Sequence[DetectorParameters],
    *,
    gate_s: float,
    live_s: float,
    pulse_hz: float,
    eve: float = 0.0,
    blank_s: float = 0.0,
) -> PulsedMeans:
    """Means for light that arrives as `arrives`, float64[2, 2, 4]: chance by (basis, bit) and detector that a photon at the exit
    is detected there; means: float64[3] photons of each intensity. noise_hz: float64[4], dark and stray clicks/s of detectors
    that are live. gate_s: length of the part of a slot that is accepted; live_s: length of the detectors' gate, 0 = always
    live. blank_s: clicks so soon after another one are dropped, which takes away the first afterpulses.

    Afterpulses are spread evenly over the slots, for their parents' slots are past: with a mean chance C of a click they add
    p_ap C (accepted share) to each detector, which is S8.2's p_ap D_k for the mean over the intensities.
    """
    accepted = min(gate_s, live_s) if live_s > 0 else gate_s
    always = live_s if live_s > 0 else 1.0 / pulse_hz
    dark = 1.0 - np.exp(-noise_hz * accepted)
    light = np.exp(-np.einsum("bvd,k->bvkd", arrives, means))
    primary = 1.0 - (1.0 - dark) * light
    mean_click = primary.mean(axis=(0, 1, 2))
    survive = np.array(
        [
            d.afterpulse * float(np.exp(-max(0.0, blank_s - d.dead_time) / max(d.afterpulse_time, 1e-15)))
            for d in detectors
        ]
    )
    share = 1.0 if live_s > 0 else min(1.0, accepted * pulse_hz)
    after = survive * mean_click * share
    click = 1.0 - (1.0 - primary) * (1.0 - after)
    detection, wrong = _outcomes(click)
    bases = np.arange(2)
    matched, missed = detection.mean(axis=1)[bases, :, bases], detection.mean(axis=1)[bases, :, 1 - bases]
    error = wrong.mean(axis=1)[bases, :, bases]
    # Resent in the other basis: what the receiver would see of the other basis's states, with a bit that says nothing.
    strange = detection.mean(axis=1)[1 - bases, :, bases]
    gain = (1.0 - eve / 2) * matched + eve / 2 * strange
    error = (1.0 - eve / 2) * error + eve / 2 * strange / 2
    stray = float((noise_hz * (always - accepted)).sum()) * pulse_hz
    return PulsedMeans(click, gain.T, error.T, missed.T, stray, pulse_hz)
