"""The two applications: clients of ETSI GS QKD 014 at their own site's KMS, over mutual TLS.

The classical pair uses the standard library's TLS, as any foreign program would; the post-quantum pair uses qkdd's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp

from qkdd.peer.pki import CredentialPaths
from qkdd.peer.tls import TlsProfile, client_context
from qkdd_hil.demo.figures import Delivery

RETRY = 0.5  # s
PATIENCE = 10.0  # s that a slave waits for a key that its master holds
UNAVAILABLE = 503


class DeliveryFailed(Exception):
    """A KMS answered what it must not answer to this application."""


@dataclass(frozen=True, slots=True)
class Application:
    """One SAE at its KMS. `base_url` ends in /api/v1/keys."""

    sae_id: str
    base_url: str
    credential: CredentialPaths
    classical: bool

    def session(self) -> aiohttp.ClientSession:
        """An HTTP session with this application's certificate."""
        connector = aiohttp.TCPConnector(ssl=self._tls())
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15.0))

    def _tls(self) -> ssl.SSLContext:
        paths = self.credential
        if self.classical:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(paths.trust))
            context.minimum_version = ssl.TLSVersion.TLSv1_2  # the least that 014 asks for, clause 5.1
            context.load_cert_chain(paths.certificate, paths.key)
            return context
        profile = TlsProfile(
            certificate=paths.certificate,
            key=paths.key,
            trust=paths.trust,
            crl=paths.crl,
            roles=("kms",),
            name=self.sae_id,
        )
        return client_context(profile)

    def curl(self, peer: str) -> str:
        """A line that does the same by hand."""
        paths = self.credential
        return (
            f"curl --cert {paths.certificate} --key {paths.key} --cacert {paths.trust} {self.base_url}/{peer}/enc_keys"
        )


class Pair:
    """Alice's application asks for a key and tells Bob's its id, which fetches the same key at its own site."""

    def __init__(self, listener: str, alice: Application, bob: Application) -> None:
        self.listener = listener
        self.alice, self.bob = alice, bob

    async def fetch(self) -> Delivery | None:
        """One key on both sides; None when the KMS has none yet. Raises DeliveryFailed, or a client error when it is down."""
        async with self.alice.session() as alice, self.bob.session() as bob:
            status, body = await _get(alice, f"{self.alice.base_url}/{self.bob.sae_id}/enc_keys")
            if status == UNAVAILABLE:
                return None
            key_id, mine = _one_key(status, body, self.alice)
            theirs_id, theirs = await self._fetch_slave(bob, key_id)
        if theirs_id.lower() != key_id.lower():
            raise DeliveryFailed(f"{self.bob.sae_id} asked for {key_id} and got {theirs_id}")
        return Delivery(key_id, self.listener, mine, theirs)

    async def _fetch_slave(self, session: aiohttp.ClientSession, key_id: str) -> tuple[str, str]:
        url = f"{self.bob.base_url}/{self.alice.sae_id}/dec_keys?key_ID={key_id}"
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            status, body = await _get(session, url)
            if status != UNAVAILABLE or asyncio.get_running_loop().time() > deadline:
                return _one_key(status, body, self.bob)
            await asyncio.sleep(RETRY)


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as answer:
        return answer.status, await answer.json(content_type=None)


def _one_key(status: int, body: Any, application: Application) -> tuple[str, str]:
    """(key id, SHA-256 of the key). The key itself goes no further than this function."""
    if status != 200:
        raise DeliveryFailed(f"{application.base_url} answered {application.sae_id} with {status}: {body}")
    (key,) = body["keys"]
    return key["key_ID"], hashlib.sha256(base64.b64decode(key["key"], validate=True)).hexdigest()


def pairs(
    ports: dict[str, int], classical: dict[str, CredentialPaths], post_quantum: dict[str, CredentialPaths]
) -> tuple[Pair, Pair]:
    """The classical and the post-quantum pair. ports: "classical-alice", "classical-bob", "pq-alice", "pq-bob"."""

    def application(side: str, kind: str, credentials: dict[str, CredentialPaths]) -> Application:
        base = f"https://127.0.0.1:{ports[f'{kind}-{side}']}/api/v1/keys"
        return Application(f"sae-{side}", base, credentials[f"sae-{side}"], kind == "classical")

    return (
        Pair("classical", application("alice", "classical", classical), application("bob", "classical", classical)),
        Pair("post-quantum", application("alice", "pq", post_quantum), application("bob", "pq", post_quantum)),
    )
