"""What ETSI GS QKD 004 V2.1.1 says: QoS, statuses, and our JSON binding of its three calls. Sans-I/O.

The standard fixes calls and parameters but no wire format. Ours: one POST a call, members named as the standard names the
parameters, HTTP 200 with `status` for everything that the standard has a status for.
"""

from __future__ import annotations

import uuid
from enum import IntEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

UINT32 = (1 << 32) - 1
MIME = "application/json"
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=UINT32)]
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Ksid = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]


class Status(IntEnum):
    """Of V2.1.1; V1.1.1 had others."""

    OK = 0
    PEER_NOT_CONNECTED_YET = 1  # OPEN_CONNECT: open, the other end has not called yet
    INSUFFICIENT_KEY = 2
    PEER_NOT_CONNECTED = 3  # GET_KEY: the other end has not called yet, or has closed
    NO_QKD_CONNECTION = 4
    KSID_IN_USE = 5
    TIMEOUT = 6
    QOS_NOT_MET = 7  # the answer's QoS is the counter-proposal
    METADATA_TOO_SMALL = 8


class Qos(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Key_chunk_size in bytes, rates in bits a second (0: as it comes), Timeout in ms, TTL in s."""

    Key_chunk_size: Uint32 = 32
    Max_bps: Uint32 = 0
    Min_bps: Uint32 = 0
    Jitter: Uint32 = 0
    Priority: Uint32 = 0
    Timeout: Uint32 = 0
    TTL: Uint32 = 3600
    Metadata_mimetype: Annotated[str, msgspec.Meta(max_length=256)] = MIME

    def met(self, offered: Qos) -> bool:
        """Whether a stream of `offered` is what this asks for: its chunks, its metadata, and rates within the limits."""
        return (
            self.Key_chunk_size == offered.Key_chunk_size
            and self.Metadata_mimetype == offered.Metadata_mimetype
            and self.TTL <= offered.TTL
            and self.Timeout <= offered.Timeout
            and (
                not self.Max_bps
                or (offered.Max_bps and offered.Max_bps <= self.Max_bps)
                or self.Max_bps == offered.Max_bps
            )
            and (not offered.Max_bps or self.Min_bps <= offered.Max_bps)
        )


class OpenConnect(msgspec.Struct, frozen=True):
    """OPEN_CONNECT. No Key_stream_ID: a new stream; else the one that the other end was given, or that both agreed on."""

    source: Uri
    destination: Uri
    QoS: Qos = Qos()
    Key_stream_ID: Ksid | None = None


class Opened(msgspec.Struct, frozen=True):
    status: int
    QoS: Qos
    Key_stream_ID: str | None = None


class GetKey(msgspec.Struct, frozen=True):
    """GET_KEY. No index: the next that this end has not got. Metadata_size: how much room the caller has for metadata."""

    Key_stream_ID: Ksid
    index: Uint32 | None = None
    Metadata_size: Uint32 | None = None


class Close(msgspec.Struct, frozen=True):
    Key_stream_ID: Ksid


class Metadata(msgspec.Struct, frozen=True):
    Metadata_size: int
    Metadata_buffer: str = ""


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """GET_KEY's answer. Key_buffer: base64. Never in a log. extension: as `key_extension` of ETSI GS QKD 014."""

    status: int
    index: int | None = None
    Key_buffer: str | None = None
    Metadata: Metadata | None = None
    extension: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Chunk(status={self.status}, index={self.index})"


class Closed(msgspec.Struct, frozen=True):
    status: int


def sae_of(uri: str) -> str:
    """The SAE ID that a source or destination names: as it is, or as the authority of a URI ("qkd://sae-alice/…")."""
    return urlsplit(uri).netloc if "://" in uri else uri


def ksid(text: str) -> str:
    """Lower case. Raises ValueError."""
    return str(uuid.UUID(text))


# between the two KMSs of a stream


class StreamOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream-open`: an application of mine opened this stream; the other end is yours. I cut its keys."""

    ksid: Ksid
    initiator: Uri
    other: Uri
    qos: Qos


class StreamOpened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`known`: noted. Else `taken` (somebody's), or `join`: yours has opened it with us already, with this QoS."""

    result: str
    qos: Qos


class StreamEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream-end`: my application's end is "open" or "closed" now."""

    ksid: Ksid
    sae: Uri
    state: str


class StreamEndNoted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the stream is known here."""

    known: bool


class StreamKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream-key`: which key is this chunk? Cut it if it is none yet."""

    ksid: Ksid
    index: Uint32


class StreamKeyIs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`status` 0 with the key's id, or why there is none."""

    status: int
    key_id: str = ""
