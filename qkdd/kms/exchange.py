"""The post-quantum share of a key: ML-KEM-1024 (FIPS 203), optionally with X25519 (RFC 7748) or P-384 (SP 800-186). Sans-I/O.

The site that records hands out a `Bundle` of public keys; the site that draws answers each draw with an `Offer` (ciphertext and
its curve's public key). Both secrets one behind the other, and the bytes of the quantum link in front of them, go through
HKDF-SHA-512 (RFC 5869), whose salt is the hash of everything that both sites said about the draw (the transcript) and whose
info names class and key ID. A confirmation under the same secret shows the recording site, before anything is written down,
that both hold the same secret and the same transcript: ML-KEM itself answers a damaged ciphertext with another secret (implicit
rejection, FIPS 203 section 6.3) and not with an error.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qkdd.core.secret import Secret
from qkdd.kms.errors import ExchangeRefused

CURVES = ("", "X25519", "P-384")
MAX_DERIVED = 255 * 64  # bytes that one HKDF-SHA-512 gives (RFC 5869, 2.3)
_SEED_BYTES = 64  # d and z of FIPS 203
_LABEL = "qkdd kms draw 1"

Hex16 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Public keys of the recording site. `curve`: one of CURVES."""

    id: Hex16
    kem: bytes
    curve: str = ""
    curve_public: bytes = b""

    def digest(self) -> str:
        """Hexadecimal SHA-512 over all of it."""
        return hashlib.sha512(msgspec.json.encode(["qkdd kms bundle 1", *msgspec.structs.astuple(self)])).hexdigest()


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The drawing site's half for one draw, under the bundle with this id and digest."""

    bundle: Hex16
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=1568, max_length=1568)]
    curve: str = ""
    curve_public: Annotated[bytes, msgspec.Meta(max_length=97)] = b""


def new_bundle(bundle_id: str, curve: str) -> tuple[Secret, Bundle]:
    """Fresh private keys (ML-KEM seed, then the curve's) and their bundle."""
    kem = mlkem.MLKEM1024PrivateKey.generate()
    private, public = kem.private_bytes_raw(), b""
    if curve == "X25519":
        own = x25519.X25519PrivateKey.generate()
        private, public = private + own.private_bytes_raw(), own.public_key().public_bytes_raw()
    elif curve == "P-384":
        point = ec.generate_private_key(ec.SECP384R1())
        private += point.private_numbers().private_value.to_bytes(48, "big")
        public = _point(point.public_key())
    return Secret(private), Bundle(bundle_id, kem.public_key().public_bytes_raw(), curve, public)


def encapsulate(bundle: Bundle, curve: str) -> tuple[Offer, Secret]:
    """A fresh secret for the holder of `bundle`. Raises ExchangeRefused for a bundle that is malformed or of another curve."""
    if bundle.curve != curve:
        raise ExchangeRefused(f"the other KMS exchanges with curve {bundle.curve!r}, this one with {curve!r}")
    try:
        shared, ciphertext = mlkem.MLKEM1024PublicKey.from_public_bytes(bundle.kem).encapsulate()
        public = b""
        if curve == "X25519":
            own = x25519.X25519PrivateKey.generate()
            shared += own.exchange(x25519.X25519PublicKey.from_public_bytes(bundle.curve_public))
            public = own.public_key().public_bytes_raw()
        elif curve == "P-384":
            point = ec.generate_private_key(ec.SECP384R1())
            other = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), bundle.curve_public)
            shared += point.exchange(ec.ECDH(), other)
            public = _point(point.public_key())
    except ValueError as error:
        raise ExchangeRefused(f"the other KMS's public keys are malformed: {error}") from None
    return Offer(bundle.id, bundle.digest(), ciphertext, curve, public), Secret(shared)


def decapsulate(private: Secret, bundle: Bundle, offer: Offer) -> Secret:
    """The offer's secret. Raises ExchangeRefused for an offer under another bundle, or a malformed one."""
    if offer.digest != bundle.digest() or offer.curve != bundle.curve:
        raise ExchangeRefused("the offer was made for other public keys")
    raw = bytes(private.reveal())
    try:
        shared = mlkem.MLKEM1024PrivateKey.from_seed_bytes(raw[:_SEED_BYTES]).decapsulate(offer.ciphertext)
        if offer.curve == "X25519":
            own = x25519.X25519PrivateKey.from_private_bytes(raw[_SEED_BYTES:])
            shared += own.exchange(x25519.X25519PublicKey.from_public_bytes(offer.curve_public))
        elif offer.curve == "P-384":
            point = ec.derive_private_key(int.from_bytes(raw[_SEED_BYTES:], "big"), ec.SECP384R1())
            other = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), offer.curve_public)
            shared += point.exchange(ec.ECDH(), other)
    except ValueError as error:
        raise ExchangeRefused(f"the offer is malformed: {error}") from None
    return Secret(shared)


def transcript(drawing: str, recording: str, said: list[object], offer: Offer) -> bytes:
    """SHA-512 over both KMS ids, `said` (class, draw id, applications, sizes, pieces) and the offer with its bundle's digest."""
    return hashlib.sha512(
        msgspec.json.encode([_LABEL, drawing, recording, said, *msgspec.structs.astuple(offer)])
    ).digest()


def confirmation(shared: Secret, salt: bytes) -> bytes:
    """64 bytes that only a holder of the secret can make for this transcript."""
    key = HKDF(hashes.SHA512(), 64, salt=salt, info=b"qkdd kms confirmation 1").derive(bytes(shared.reveal()))
    return hmac.digest(key, salt, "sha512")


def derive(quantum: bytes, length: int, shared: Secret, salt: bytes, key_class: str, key_id: str) -> Secret:
    """One key of `length` bytes. quantum: its bytes of the quantum link; none for `pqc-only`. salt: the transcript."""
    source = len(quantum).to_bytes(4, "big") + quantum + bytes(shared.reveal())
    info = b"qkdd kms key 1|" + key_class.encode() + b"|" + key_id.encode()
    return Secret(HKDF(hashes.SHA512(), length, salt=salt, info=info).derive(source))


def _point(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
