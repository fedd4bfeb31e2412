"""What two KMSs say to each other (JSON over the KMS plane, POST /kms/v1/NAME) and how this side calls the other."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Annotated, TypeVar

import aiohttp
import msgspec

from qkdd.core.clock import Clock
from qkdd.kms.classes import KeyClass
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.exchange import Offer

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Holds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`chunks`: I hold these (id, bytes)."""

    chunks: Annotated[list[tuple[Text, Count]], msgspec.Meta(max_length=1024)]


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of those that you named I hold these."""

    chunks: Annotated[list[Text], msgspec.Meta(max_length=1024)]


class Announce(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`allocations`: I am about to give these bytes to one of my masters; remember them for your slaves.

    A class with a post-quantum share brings its offer and a confirmation; a `pqc-only` draw has no pieces.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]
    master: Text
    slaves: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=256)]
    key_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    amount: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    pieces: Annotated[list[tuple[Text, Count, Count]], msgspec.Meta(max_length=65536)]
    key_class: KeyClass = KeyClass.ITS
    offer: Offer | None = None
    confirmation: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Written down durably, or not: `conflict` with the chunk and this side's cursor.

    `configured` is false when the two configurations differ: then nothing is wrong with the range. `stale`: the offer's
    bundle is gone, or it does not open: nothing is wrong with the range either, the draw needs a new offer.
    """

    recorded: bool
    configured: bool = True
    conflict: str = ""
    chunk_id: str = ""
    cursor: Count = 0
    stale: bool = False


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`exchange`: give me public keys (a Bundle) for draws with a post-quantum share."""


class Void(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`void`: I gave this draw up, none of its keys went to anyone; forget it."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]
    pieces: Annotated[list[tuple[Text, Count, Count]], msgspec.Meta(max_length=65536)]


class Rest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`rest`: of this draw I gave nobody the keys from number `kept` on, which are these pieces; forget them."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]
    kept: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    pieces: Annotated[list[tuple[Text, Count, Count]], msgspec.Meta(min_length=1, max_length=65536)]


class Voided(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forgotten, durably. `reusable`: and its bytes may be drawn again."""

    reusable: bool


class Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`revoke`: my operator revoked these draws, these single keys, and what was not drawn of this link."""

    draws: Annotated[list[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]], msgspec.Meta(max_length=65536)]
    keys: Annotated[list[Text], msgspec.Meta(max_length=4096)] = []
    undrawn_of: Text | None = None


class RevokedThere(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Done, durably. How many draws, keys and bytes there were here to revoke."""

    draws: Count
    keys: Count
    undrawn: Count


class Borrow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`ownership`: my chunks are used up, let me draw from untouched ones of yours, about `bytes`.

    0 bytes: nothing new, only say again what you granted before. sources, max_epsilon: only such chunks are of use.
    """

    bytes: Count
    sources: Annotated[list[Text], msgspec.Meta(max_length=64)] = []
    max_epsilon: float | None = None


class Lent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(id, epoch) of untouched chunks that are the asker's from now on."""

    chunks: Annotated[list[tuple[Text, Count]], msgspec.Meta(max_length=1024)]


class PulledChunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """refs: by what the other maker's KMS of your site finds the same bytes."""

    id: Text
    index: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    bytes: Count
    refs: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=256)]
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=256)] | None = None


class Pulled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pulled`: I hold new key of this source; get the same from yours. join: and I opened this there; be its other end."""

    source: Text
    link: Text
    chunks: Annotated[list[PulledChunk], msgspec.Meta(max_length=64)]
    join: Text | None = None


class Gotten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`held`: I hold these too, durably; `missing`: my KMS says that it does not have them. Ask again for the others."""

    held: Annotated[list[Text], msgspec.Meta(max_length=64)]
    missing: Annotated[list[Text], msgspec.Meta(max_length=64)]


A = TypeVar("A")
_ANSWER_LIMIT = 1 << 20


class PeerKms:
    """Client of one other KMS. After a failure further calls fail at once for a second, so that a dead line costs little."""

    def __init__(self, name: str, urls: Sequence[str], context: ssl.SSLContext, clock: Clock, deadline: float) -> None:
        """urls: of its processes (replicas); the one that answered last is asked first."""
        self.name = name
        self._urls = [url.rstrip("/") for url in urls]
        self._context, self._clock, self._deadline = context, clock, deadline
        self._client: aiohttp.ClientSession | None = None
        self._down_until = float("-inf")

    @property
    def up(self) -> bool:
        return self._clock.monotonic() >= self._down_until

    async def call(self, name: str, message: msgspec.Struct, answer: type[A]) -> A:
        """One call. Raises PeerKmsDown: nothing is known about what the other side did."""
        if not self.up:
            raise PeerKmsDown(f"{self.name} did not answer a moment ago")
        if self._client is None:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=32)
            self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        data = msgspec.json.encode(message)
        for left in range(
            len(self._urls) - 1, -1, -1
        ):  # every call may be repeated: the other side knows it by its ids
            url = self._urls[0]
            try:
                return await self._call(self._client, f"{url}/kms/v1/{name}", data, answer)
            except PeerKmsDown:
                if not left:
                    raise
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
                if not left:
                    self._down_until = self._clock.monotonic() + 1.0
                    raise PeerKmsDown(f"{self.name}: {name}: {type(error).__name__}: {error}") from None
            if self._urls[0] == url:  # no other call has found out before
                self._urls.append(self._urls.pop(0))
        raise AssertionError("a peer without an address")

    async def _call(self, client: aiohttp.ClientSession, url: str, data: bytes, answer: type[A]) -> A:
        async with (
            self._clock.deadline(self._deadline),
            client.post(url, data=data, headers={"Content-Type": "application/json"}) as response,
        ):
            body = await response.content.read(_ANSWER_LIMIT)
            if response.status != 200:
                raise PeerKmsDown(f"{self.name}: {url} answered {response.status}", status=response.status)
            return msgspec.json.decode(body, type=answer)

    async def close(self) -> None:
        """Drop the connections; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
