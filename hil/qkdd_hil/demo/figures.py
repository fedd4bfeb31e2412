"""The figures of a demonstration; docs/demo-figures.schema.json is made from the type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]


class ExpectedIntensity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One intensity of a decoy line as its closed form says: detections per pulse in any basis, errors in the test basis."""

    mu: float
    gain: float
    qber_x: float


class Intensity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One intensity of a decoy link: mean of the blocks, and what the closed form says."""

    mu: Annotated[float, Meta(description="Mean photon number at the transmitter's exit.")]
    probability: Annotated[float, Meta(ge=0, le=1)]
    gain: Annotated[
        float | None, Meta(description="Detections per pulse of this intensity; null: no block was counted.")
    ]
    qber_x: Annotated[float | None, Meta(description="Error rate in the test basis; null: nothing was opened.")]
    expected_gain: Annotated[float | None, Meta(description="Null under an adversary who splits pulses.")]
    expected_qber_x: float | None


class Cable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Between the transmitter's node and its board, from the daemon's metrics."""

    symbols: Annotated[str, Meta(description="stream: all of them; on-demand: those that the receiver announced.")]
    asked: Annotated[Count, Meta(description="Symbols asked for, those of alignments included; 0 for a stream.")]
    lost: Annotated[Count, Meta(description="Symbols lost on the cable or asked for too late.")]
    bytes_to_board: Count
    bytes_from_board: Count
    margin_s: Annotated[
        float | None,
        Meta(
            description="Least time that an asked symbol would still have been in the board's memory; null: not known."
        ),
    ] = None


class Decoy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a decoy-state link beyond the rest."""

    adversary: Annotated[str, Meta(description="none, intercept or pns: who sits on the line of this run.")]
    pulses_per_s: Annotated[float, Meta(gt=0)]
    pulses_per_block: Annotated[int, Meta(gt=0)]
    blocks_counted: Annotated[Count, Meta(description="Blocks that the means over the intensities rest on.")]
    intensities: tuple[Intensity, ...]
    cable: Cable | None = None


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures of one run of `qkdd demo`, written by `--json FILE`."""

    qber: Annotated[
        float | None,
        Meta(description="Error rate (a fraction) of the finished blocks, weighted by their sifted bits; null: none."),
    ]
    chsh_s: Annotated[
        float | None,
        Meta(
            description="CHSH value inferred from the correlations of two bases a side; no Bell test. Null: not known."
        ),
    ]
    sifted_bits: Annotated[Count, Meta(description="Sifted bits of all finished blocks, accepted and refused.")]
    secret_bits: Annotated[Count, Meta(description="Secret bits of the accepted blocks.")]
    secret_bits_per_s: Annotated[
        float, Meta(ge=0, description="Secret bits of the accepted blocks over their acquisition time.")
    ]
    blocks_accepted: Count
    blocks_refused: Count
    keys_delivered: Annotated[
        Count, Meta(description="Keys that the applications of both sides fetched through ETSI GS QKD 014.")
    ]
    keys_equal: Annotated[
        bool, Meta(description="Every delivered key was the same on both sides; false when none was delivered.")
    ]
    reason: Annotated[str | None, Meta(description="Most frequent code of refused blocks; null when none was refused.")]
    reason_text: Annotated[str | None, Meta(description="What the last block with that code said; null: nothing.")]
    seconds_to_first_key: Annotated[
        float | None,
        Meta(description="From the start of the daemons until both applications held the first key; null: none."),
    ]
    proof: Annotated[str, Meta(description="The mode that gives the length; empty: the link's default.")] = ""
    label: Annotated[str, Meta(description="What has to be shown with every length of this mode; usually empty.")] = ""
    expected_qber: Annotated[float | None, Meta(description="Error rate by the closed form of the line.")] = None
    expected_secret_bits_per_s: Annotated[
        float | None, Meta(description="By the closed form for these settings; null: not computed for this protocol.")
    ] = None
    decoy: Annotated[Decoy | None, Meta(description="Null without pulses.")] = None


class Block(msgspec.Struct, frozen=True):
    """What is needed of a block as the control socket shows it; unknown members are ignored."""

    number: int
    accepted: bool
    code: str | None
    acquisition_s: float
    sifted_bits: int
    qber: float | None
    secret_bits: int
    reason: str | None = None


class Foreseen(Protocol):
    """What `variants.Outlook` says."""

    @property
    def qber(self) -> float: ...

    @property
    def secret_bits_per_s(self) -> float | None: ...

    @property
    def proof(self) -> str: ...

    @property
    def label(self) -> str: ...


class Delivery(msgspec.Struct, frozen=True):
    """One key that was fetched on both sides. Fingerprints are SHA-256 in hexadecimal, never the key."""

    key_id: str
    listener: str
    fingerprint_alice: str
    fingerprint_bob: str

    @property
    def equal(self) -> bool:
        return self.fingerprint_alice == self.fingerprint_bob


def summarize(
    blocks: Sequence[Block], deliveries: Sequence[Delivery], chsh_s: float | None, seconds_to_first_key: float | None
) -> Figures:
    """Figures of a run from what the nodes and the applications showed."""
    accepted = [b for b in blocks if b.accepted]
    codes = Counter(b.code or "unknown" for b in blocks if not b.accepted)
    weighed = [(b.sifted_bits, b.qber) for b in blocks if b.qber is not None and b.sifted_bits > 0]
    weight = sum(bits for bits, _ in weighed)
    acquisition = sum(b.acquisition_s for b in accepted)
    secret = sum(b.secret_bits for b in accepted)
    reason = max(sorted(codes), key=lambda code: codes[code]) if codes else None
    texts = [b.reason for b in blocks if not b.accepted and b.code == reason and b.reason]
    return Figures(
        qber=sum(bits * qber for bits, qber in weighed) / weight if weight else None,
        chsh_s=chsh_s,
        sifted_bits=sum(b.sifted_bits for b in blocks),
        secret_bits=secret,
        secret_bits_per_s=secret / acquisition if acquisition > 0 else 0.0,
        blocks_accepted=len(accepted),
        blocks_refused=len(blocks) - len(accepted),
        keys_delivered=len(deliveries),
        keys_equal=bool(deliveries) and all(d.equal for d in deliveries),
        reason=reason,
        reason_text=texts[-1] if texts else None,
        seconds_to_first_key=seconds_to_first_key,
    )


def with_outlook(figures: Figures, outlook: Foreseen, decoy: Decoy | None) -> Figures:
    """`figures` beside what the closed forms say."""
    return msgspec.structs.replace(
        figures,
        proof=outlook.proof,
        label=outlook.label,
        expected_qber=outlook.qber,
        expected_secret_bits_per_s=outlook.secret_bits_per_s,
        decoy=decoy,
    )


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the figures, self-contained."""
    (reference,), components = msgspec.json.schema_components([Figures], ref_template="#/$defs/{name}")
    body = components.pop(reference["$ref"].rsplit("/", 1)[1])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "$defs": components}
