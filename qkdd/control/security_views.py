"""What the control socket shows of the proof in use, of the security budget and of the best operating point.

Units stand in the names; probabilities are plain numbers. No key byte has a place here.
"""

from __future__ import annotations

from qkdd.control.views import View


class AssumptionView(View, frozen=True):
    """Something that the proof takes for granted; numbers: what the operator configured for it, name to text."""

    id: str
    text: str
    numbers: dict[str, str]


class EpsilonTermView(View, frozen=True):
    """One term of the composition. part_of: the term that contains it, empty for those that are summed."""

    name: str
    value: float
    text: str
    part_of: str = ""


class SecurityView(View, frozen=True):
    """The proof of a link and its budget. label: to be shown with every length, empty if there is nothing to add.

    length: "fixed", "variable" or "observed". eps_block: sum of the terms of one block. The ledger's numbers are None
    until it was read first.
    """

    link: str
    protocol: str
    proof: str
    title: str
    source: str
    status: str
    strict: bool
    label: str
    length: str
    attacks: str
    assumptions: list[AssumptionView]
    caveats: list[str]
    terms: list[EpsilonTermView]
    eps_block: float
    epoch: int | None
    budget: float | None
    spent: float | None
    blocks_charged: int | None
    blocks_left: int | None
    days_left: float | None
    alert: bool


class MeasuredView(View, frozen=True):
    """The channel as the last blocks show it. gains and errors: per intensity, brightest first; empty for entangled pairs."""

    blocks: int
    transmission: float | None
    background_per_gate: float | None
    optical_error: float | None
    gains: list[float]
    errors: list[float | None]
    receiver_x_basis: float | None
    correction_efficiency: float
    sifted_bits_per_s: float | None
    qber: float | None


class OperatingView(View, frozen=True):
    """An operating point and what it yields; mu, p and x_basis are empty or None for entangled pairs."""

    mu: list[float]
    p: list[float]
    x_basis: float | None
    block_pulses: int | None
    block_s: float
    secret_bits: int
    secret_bits_per_s: float


class RungView(View, frozen=True):
    block_s: float
    secret_bits_per_s: float


class AdviceView(View, frozen=True):
    """present: what is configured, and the rate that this channel is expected to give with it; rates of the model,
    not of the clock. seen_bits_per_s: what the last blocks really gave."""

    link: str
    proof: str
    label: str
    measured: MeasuredView
    present: OperatingView
    recommended: OperatingView
    ladder: list[RungView]
    seen_bits_per_s: float | None
    notes: list[str]
