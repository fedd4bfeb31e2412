"""Signed firmware images: `manifest | payload | signature`. ML-DSA-87 (FIPS 204) over manifest and payload.

 0  4  magic "QKFW"          24  6  version: major, minor, patch (u16 each)
 4  2  format, 1             30  4  anti-rollback counter
 6  2  reserved, 0           34  4  hardware revisions from, to (u16 each)
 8 16  board model, ASCII    38  4  protocol versions from, to (u16 each)
                             42  4  payload bytes
                             46 32  SHA-256 of the payload
                             78 32  SHA-256 of the signer's raw public key
110  n  payload             110+n  4627  signature, context "qkdd firmware image 1"
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey

from qkdd_fwbridge.errors import Downgrade, ImageRefused
from qkdd_fwbridge.versions import Version, text

MAGIC = b"QKFW"
FORMAT = 1
CONTEXT = b"qkdd firmware image 1"
SIGNATURE_BYTES = 4627
MAX_PAYLOAD = 64 << 20
_MANIFEST = struct.Struct("<4sHH16sHHHIHHHHI32s32s")
MANIFEST_BYTES = _MANIFEST.size


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image is for. hardware, protocol: first and last that fit, both included."""

    model: str
    version: Version
    counter: int
    hardware: tuple[int, int]
    protocol: tuple[int, int]

    @property
    def version_text(self) -> str:
        return text(self.version)


@dataclass(frozen=True, slots=True)
class Image:
    """A verified image."""

    manifest: Manifest
    payload: bytes
    signer: bytes  # SHA-256 of the raw public key
    digest: bytes  # SHA-256 of the whole file


def key_id(key: MLDSA87PublicKey) -> bytes:
    """Names a public key: SHA-256 of its 2592 raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).digest()


def sign(manifest: Manifest, payload: bytes, key: MLDSA87PrivateKey) -> bytes:
    """The image file. Raises ValueError when the manifest does not fit its layout."""
    model = manifest.model.encode("ascii")
    if not 0 < len(model) <= 16 or not 0 < len(payload) <= MAX_PAYLOAD:
        raise ValueError("the model has 1 to 16 characters, the payload 1 byte to 64 MiB")
    try:
        head = _MANIFEST.pack(
            MAGIC, FORMAT, 0, model, *manifest.version, manifest.counter, *manifest.hardware, *manifest.protocol,
            len(payload), hashlib.sha256(payload).digest(), key_id(key.public_key()),
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"manifest: {error}") from None
    body = head + payload
    return body + key.sign(body, CONTEXT)


def file_size(start: bytes) -> int:
    """Bytes of the image whose beginning is given, as its (not yet verified) manifest says."""
    return MANIFEST_BYTES + int.from_bytes(start[42:46], "little") + SIGNATURE_BYTES


def verify(data: bytes, trusted: Iterable[MLDSA87PublicKey]) -> Image:
    """Check format, sizes, digest and signature against the trusted keys. Raises ImageRefused."""
    if len(data) < MANIFEST_BYTES + SIGNATURE_BYTES + 1:
        raise ImageRefused(f"{len(data)} bytes are too few for an image")
    magic, form, reserved, model, major, minor, patch, counter, hw0, hw1, p0, p1, size, digest, signer = (
        _MANIFEST.unpack_from(data)
    )
    if magic != MAGIC or form != FORMAT or reserved:
        raise ImageRefused(f"this is no firmware image of format {FORMAT}")
    if len(data) != MANIFEST_BYTES + size + SIGNATURE_BYTES:
        raise ImageRefused(
            f"the image has {len(data)} bytes, its manifest says {MANIFEST_BYTES + size + SIGNATURE_BYTES}"
        )
    key = next((k for k in trusted if key_id(k) == signer), None)
    if key is None:
        raise ImageRefused(f"signed by {signer.hex()[:16]}…, which is not trusted", signer=signer.hex())
    try:
        key.verify(data[-SIGNATURE_BYTES:], data[:-SIGNATURE_BYTES], CONTEXT)
    except InvalidSignature:
        raise ImageRefused("the signature does not fit the image") from None
    payload = data[MANIFEST_BYTES:-SIGNATURE_BYTES]
    if hashlib.sha256(payload).digest() != digest:
        raise ImageRefused("the payload's digest is not the manifest's")
    try:
        name = model.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise ImageRefused("the model in the manifest is not ASCII") from None
    manifest = Manifest(name, (major, minor, patch), counter, (hw0, hw1), (p0, p1))
    return Image(manifest, payload, signer, hashlib.sha256(data).digest())


def check_fits(image: Image, model: str, hardware: int, rollback: int) -> None:
    """Whether a verified image may go on a board. Raises ImageRefused, Downgrade."""
    manifest = image.manifest
    if manifest.model != model:
        raise ImageRefused(f"the image is for {manifest.model}, the board is a {model}")
    if not manifest.hardware[0] <= hardware <= manifest.hardware[1]:
        low, high = manifest.hardware
        raise ImageRefused(f"the image is for hardware {low} to {high}, the board is revision {hardware}")
    if manifest.counter < rollback:
        raise Downgrade(
            f"firmware {manifest.version_text} has counter {manifest.counter}, the board is at {rollback}",
            counter=manifest.counter,
            rollback=rollback,
        )
