"""Curves of secret rate against distance: the published parameter sets and a link of one's own. Pure; `plot` draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec

from qkdd.security import figures, modes
from qkdd.security.channel import Channel, fibre_transmission
from qkdd.security.errors import ProofInputError
from qkdd.security.optimise import Operating, advise
from qkdd.security.proofs import EQUAL_DETECTORS, Receiver


class Curve(msgspec.Struct, frozen=True):
    """Points (x, rate) of one curve; it ends at the last point with key."""

    label: str
    points: tuple[tuple[float, float], ...]


class Chart(msgspec.Struct, frozen=True):
    """Curves over one axis. mode: the proof; note: its label ("not a strict bound"), to be drawn with it."""

    title: str
    mode: str
    note: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


def _trace(
    label: str, places: Sequence[float], at: Callable[[float, Operating | None], tuple[float, Operating]]
) -> Curve:
    """The curve over rising places, each search starting where the last one ended; stops where there is no key."""
    points, start = [], None
    for place in places:
        rate, start = at(place, start)
        if rate <= 0.0:
            break
        points.append((place, rate))
    return Curve(label, tuple(points))


def places(furthest: float, step: float) -> list[float]:
    """0, step, … up to and including `furthest`. Raises ProofInputError if that is no sensible axis."""
    if not (step > 0.0 and furthest >= 0.0 and furthest / step <= 2000.0):
        raise ProofInputError(f"no axis from 0 to {furthest} in steps of {step}", name="step")
    return [index * step for index in range(int(furthest / step + 1e-9) + 1)]


def lim2014_chart(furthest_km: float = 200.0, step_km: float = 5.0) -> Chart:
    """Lim et al. 2014 Fig. 1: secret bits per pulse against fibre length for blocks of 1e4 to 1e9 key-basis detections."""

    def curve(power: int) -> Curve:
        def at(km: float, start: Operating | None) -> tuple[float, Operating]:
            point = figures.lim2014_fig1(10.0**power, km, start=start)
            return point.rate, point.at

        return _trace(f"n = 1e{power}", places(furthest_km, step_km), at)

    mode = modes.mode("bb84-2decoy/lim2014")
    curves = tuple(curve(power) for power in range(4, 10))
    return Chart("Lim et al. 2014, Fig. 1", mode.id, mode.label, "fibre length (km)", "secret bits per pulse", curves)


def rusca2018_chart(furthest_db: float = 70.0, step_db: float = 2.0) -> Chart:
    """Rusca et al. 2018: secret bits per second against channel loss (detector excluded) at 1 GHz."""

    def curve(power: int) -> Curve:
        def at(db: float, start: Operating | None) -> tuple[float, Operating]:
            point = figures.rusca2018_figure(10.0**power, db, start=start)
            return point.rate, point.at

        return _trace(f"n = 1e{power}", places(furthest_db, step_db), at)

    mode = modes.mode("bb84-1decoy/rusca2018")
    curves = tuple(curve(power) for power in (5, 7, 9))
    x_label, y_label = "channel loss without detector (dB)", "secret bits per second"
    return Chart("Rusca et al. 2018", mode.id, mode.label, x_label, y_label, curves)


PUBLISHED: dict[str, Callable[[], Chart]] = {"lim2014": lim2014_chart, "rusca2018": rusca2018_chart}


def link_chart(
    mode_id: str,
    link: Channel,
    blocks_s: Sequence[float],
    *,
    furthest_km: float,
    step_km: float,
    db_per_km: float = 0.2,
    eps_sec: float = 1e-12,
    eps_cor: float = 1e-15,
    mu3: float = 2e-4,
    receiver: Receiver = EQUAL_DETECTORS,
) -> Chart:
    """Secret bits per second of one's own link against fibre length, one curve per block duration.

    link.eta: transmission without the fibre (receiver and detector). Operating point optimised at every distance.
    """
    mode = modes.mode(mode_id)

    def curve(seconds: float) -> Curve:
        def at(km: float, start: Operating | None) -> tuple[float, Operating]:
            here = dataclasses.replace(link, eta=link.eta * fibre_transmission(km, db_per_km))
            found = advise(
                mode_id,
                here,
                longest_block_s=seconds,
                eps_sec=eps_sec,
                eps_cor=eps_cor,
                mu3=mu3,
                receiver=receiver,
                start=start,
            )
            return found.rate_hz, found.at

        return _trace(f"block of {seconds:g} s", places(furthest_km, step_km), at)

    curves = tuple(curve(seconds) for seconds in blocks_s)
    return Chart(mode.title, mode.id, mode.label, "fibre length (km)", "secret bits per second", curves)
