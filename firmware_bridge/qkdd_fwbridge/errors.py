"""What can go wrong between host and board."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class BridgeError(QkddError):
    """Base of this room's errors."""


class Malformed(BridgeError):
    code = "QKD-FWB-FORMAT"
    kind = Kind.TRANSIENT
    meaning = "A frame that arrived undamaged has a content that the board's protocol does not allow."
    default_remedy = "Compare firmware and daemon versions; report it if both are on the list of supported pairs."


class FirmwareUnsupported(BridgeError):
    """`details` has both versions: `daemon` and `firmware`."""

    code = "QKD-FWB-VERSION"
    meaning = "This daemon and this firmware do not work together: the firmware is unknown or too old."
    default_remedy = (
        "Update the board (`qkdctl firmware update`) or the daemon; docs/rooms/firmware_bridge.md has the table."
    )


class BoardSaidNo(BridgeError):
    """A request was refused by the board; `reason` is the number of `messages.Reason`."""

    code = "QKD-FWB-REFUSED"
    meaning = "The board refused a request, in the words of its protocol."
    default_remedy = "See the board's own words."

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text, reason=reason)
        self.reason = reason


class SymbolsLost(BridgeError):
    """Also the code in `SymbolBlock.faults`."""

    code = "QKD-FWB-SYMBOLS-LOST"
    kind = Kind.KEY_MATERIAL
    meaning = "Prepared symbols were lost between board and program; the block that they belong to is discarded."
    default_remedy = "Relieve the cable or the machine, or use the on-demand way; check cable and hub."


class SymbolsContradict(BridgeError):
    code = "QKD-FWB-SYMBOLS-ORDER"
    kind = Kind.KEY_MATERIAL
    meaning = "The board's slot numbers or counters go backwards or contradict each other."
    default_remedy = "Restart the stream; if it comes again, update the firmware and report it."


class SourceFailed(BridgeError):
    code = "QKD-FWB-RANDOM"
    kind = Kind.KEY_MATERIAL
    meaning = "A random source failed a continuous health test (SP 800-90B, 4.4); no choice is made from it any more."
    default_remedy = (
        "Take the source out of service; it is used again only after a restart that passes the start-up test."
    )


class ImageRefused(BridgeError):
    code = "QKD-FWB-IMAGE"
    meaning = "A firmware image is damaged, not signed by a trusted key, or not made for this board."
    default_remedy = "Fetch the image again from its maker and check the board's model and the trusted keys."


class Downgrade(ImageRefused):
    code = "QKD-FWB-DOWNGRADE"
    meaning = "A firmware image has a lower anti-rollback counter than the board has already reached."
    default_remedy = "Use a newer image; there is no way back, by design."
