"""Errors of the link room. Those that end one block are `BlockRefused`; the rest end the link's run."""

from __future__ import annotations

from qkdd.core.errors import ConfigError, Kind, QkddError
from qkdd.distill.errors import BlockRefused


class LinkError(QkddError):
    """Anything that is wrong with the quantum link as a whole."""


class LinkConfigError(LinkError, ConfigError):
    code = "QKD-LNK-CONFIG"
    meaning = "The link's settings do not fit the time tagger that it was given."
    default_remedy = "Change the named key of [link] or [link.shared]; the tagger's facts stand in `qkdctl devices`."


class AlignmentFailed(LinkError):
    code = "QKD-LNK-ALIGN-FAILED"
    kind = Kind.TRANSIENT
    meaning = "No common arrival-time peak stood out of the two nodes' clicks; the clocks are not aligned."
    default_remedy = (
        "Nothing at once: the link tries again. If it goes on, check that the source is on, that both fibres are "
        "connected, and that both hosts' taggers run."
    )


class OpenStretchRefused(LinkError):
    code = "QKD-LNK-OPEN-REFUSED"
    kind = Kind.TRANSIENT
    meaning = "The two nodes could not agree on the sacrificed stretch of an alignment; it is thrown away."
    default_remedy = "Nothing: the next alignment takes a new stretch."


class LockLost(BlockRefused):
    code = "QKD-LNK-LOCK-LOST"
    meaning = "The coincidence peak of the two clocks was not found in this block; after three such blocks the link aligns anew."
    default_remedy = (
        "Check the source and the fibres; a tagger that lost a rollover heals by itself with the next alignment."
    )


class SlotSlip(BlockRefused):
    code = "QKD-LNK-SLOT-SLIP"
    meaning = (
        "Slots were counted wrongly in this block: the pulses' phase jumped, or the detections do not fit what was sent; "
        "the link aligns anew."
    )
    default_remedy = (
        "Nothing at once: the next alignment counts the slots anew. If it goes on, check the tagger's reference clock and "
        "whether its stream slips."
    )


class SymbolsMissing(BlockRefused):
    code = "QKD-LNK-SYMBOLS-LOST"
    meaning = (
        "The transmitter's symbols of this block are not complete: lost on the cable, or written over in its memory before "
        "they were asked for; the block is discarded."
    )
    default_remedy = (
        "Check the transmitter's cable and the load of the host. With symbols = \"on_demand\" the board's memory must reach "
        "back further than the clicks need to arrive; lower the pulse rate or take a board with a larger window."
    )


class DetectionsRefused(BlockRefused):
    code = "QKD-LNK-DETECTIONS"
    meaning = (
        "The detections that the other node announced cannot be: repeated, out of order, outside the block, or more than "
        "the dead time allows."
    )
    default_remedy = (
        "Compare both nodes' versions and shared settings; if they are equal, suspect the classical channel."
    )


class TagsLost(BlockRefused):
    code = "QKD-BLK-TAGS-LOST"
    meaning = (
        "The time tagger lost clicks, its stream slipped, or a buffer was full in this block; the block is discarded."
    )
    default_remedy = "Lower the count rate or the load of the host; check the tagger's cable when it happens often."


class BasisImbalance(BlockRefused):
    code = "QKD-BLK-BASIS-IMBALANCE"
    meaning = "The two bases are not equally likely within the agreed bound; the proof assumes that they are."
    default_remedy = "Check the beam splitter and the four detectors' efficiencies, and balance the two bases."


class RegisterTimeout(BlockRefused):
    code = "QKD-BLK-REGISTER"
    meaning = "The tagger's stream did not reach the end of the block in time."
    default_remedy = "Check the tagger and the load of the host; the block is discarded and the acquisition goes on."


class ClockRejected(BlockRefused):
    code = "QKD-BLK-INTERVAL"
    meaning = "The other node proposed a block that overlaps one it already used, or that is not of the agreed length."
    default_remedy = "Compare both nodes' versions and settings; the block is discarded."
