"""Another vendor's KMS over ETSI GS QKD 020 V1.1.1: keys of a fixed size, both modes, acknowledgement and void.

Only 400 and 401 to the first call that names a key prove that it was not stored; after anything else it is maybe stored, and
the same call is repeated, or the key is voided. A key counts as handed over when the KMS says `relayed`.
"""

from __future__ import annotations

import asyncio
import base64
import io
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.errors import CredentialError
from qkdd.core.etsi020 import BASE, CLAIM, AckStatus, ExtKey, ExtKeys, VoidKeys, read_acks
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import Etsi020Sink
from qkdd.keys.sinks.contract import Item, KeyItem, key_ids_of, keys_of
from qkdd.peer.tls import TlsProfile, client_context, server_context

_LOG = log.get("keys")
_ANSWER = 4 << 20
_CLAIMED = ("link", "class", "auth", "proof", "epsilon")
_FINAL = (AckStatus.RELAYED, AckStatus.VOIDED)


class Etsi020Target:
    """One KMS. In asynchronous mode it calls back at an HTTPS address of our own, and nobody else can."""

    def __init__(self, config: Etsi020Sink, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self.void_after = float(config.void_after)
        self._client: aiohttp.ClientSession | None = None
        self._callbacks: web.AppRunner | None = None
        self.callback_address: tuple[str, int] | None = None
        self._heard: dict[str, str] = {}  # key id → status, of the chunk under way: an answer that comes late counts
        self._open: set[str] = set()  # ids of that chunk whose status is not final
        self._called = False  # a call for that chunk may have been heard
        self._news = asyncio.Event()

    def _profile(self) -> TlsProfile:
        config = self._config
        return TlsProfile(
            certificate=Path(config.certificate),
            key=Path(config.key),
            trust=Path(config.trust),
            crl=Path(config.crl) if config.crl is not None else None,
            suite=config.suite,
            groups=config.groups,
            identity=config.kms_id,
            name="keys.etsi020",
        )

    async def store(self, items: list[Item]) -> set[str]:
        done = set()
        for item in items:
            keys = list(keys_of(item, self._config.key_size // 8))
            self._turn_to({key.key_id for key in keys})
            missing = iter([key for key in keys if key.key_id in self._open])
            while batch := list(islice(missing, self._config.keys_per_call)):
                await self._store(item, batch)
            lost = sum(self._heard[key.key_id] == AckStatus.VOIDED for key in keys)
            if lost:
                _LOG.warning("keys were voided at the KMS before", chunk=item.chunk_id, keys=lost)
            done.add(item.chunk_id)
        return done

    def _turn_to(self, ids: set[str]) -> None:
        """Another chunk is under way than in the call before: forget what was heard of that one."""
        if not ids & self._heard.keys() and not ids & self._open:
            self._heard.clear()
            self._called = False
        self._open = {key_id for key_id in ids if self._heard.get(key_id) not in _FINAL}

    async def _store(self, item: Item, batch: list[KeyItem]) -> None:
        ids = [key.key_id for key in batch]
        body = ExtKeys(
            [ExtKey(k.key_id, base64.b64encode(k.key.reveal()).decode("ascii")) for k in batch],
            self._config.initiator_sae_id,
            list(self._config.target_sae_ids),
            self._callback_url(),
            extension_optional={CLAIM: {name: item.about.get(name) for name in _CLAIMED}},
        )
        try:
            statuses = await self._call("", body, ids, item.offered_before)
        finally:
            for key in batch:
                key.key.wipe()
        bad = {status for status in statuses.values() if status not in _FINAL}
        if bad:
            raise HandOverFailed(f"{self._config.url}: keys were not relayed: {', '.join(sorted(bad))[:200]}")

    async def void(self, chunk_id: str, size: int) -> int:
        """Void every key of a chunk of `size` bytes; how many the KMS has given away already. Raises HandOverFailed."""
        ids = list(key_ids_of(chunk_id, size, self._config.key_size // 8))
        self._heard.clear()
        self._open = set(ids)
        kept = 0
        for start in range(0, len(ids), self._config.keys_per_call):
            part = ids[start : start + self._config.keys_per_call]
            targets = list(self._config.target_sae_ids)
            body = VoidKeys(part, self._config.initiator_sae_id, targets, self._callback_url())
            statuses = await self._call("/void", body, part, True)
            kept += sum(status == AckStatus.FAILED_TO_VOID for status in statuses.values())
            known = (AckStatus.VOIDED, AckStatus.NOT_PRESENT, AckStatus.FAILED_TO_VOID)
            if any(status not in known for status in statuses.values()):
                raise HandOverFailed(f"{self._config.url}: the KMS did not say what became of voided keys")
        return kept

    def _callback_url(self) -> str | None:
        return self._config.callback_url if self._config.mode == "asynchronous" else None

    async def _call(self, path: str, body: msgspec.Struct, ids: list[str], maybe_stored: bool) -> dict[str, str]:
        """What the KMS says of each of `ids`, at once or by calling back."""
        if self._config.mode == "asynchronous":
            await self._listen()
        for key_id in ids:
            self._heard.pop(key_id, None)
        status, answer = await self._post(BASE + path, msgspec.json.encode(body))
        if status in (400, 401):
            # what an earlier call stored stays stored, whatever this one is told
            kind = HandOverFailed if maybe_stored or self._called else HandOverRefused
            raise kind(f"{self._config.url}: {status} {_problem(answer)}", status=status)
        self._called = True
        if status == 200:
            self._hear(answer)
        elif status != 202 or self._config.mode != "asynchronous":
            raise HandOverFailed(f"{self._config.url}: {status} {_problem(answer)}", status=status)
        else:
            await self._wait(ids)
        silent = [key_id for key_id in ids if key_id not in self._heard]
        if silent:
            raise HandOverFailed(f"{self._config.url}: says nothing of {len(silent)} of {len(ids)} keys: maybe stored")
        return {key_id: self._heard[key_id] for key_id in ids}

    async def _wait(self, ids: list[str]) -> None:
        try:
            async with self._clock.deadline(self._config.ack_deadline):
                while any(key_id not in self._heard for key_id in ids):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    def _hear(self, body: bytes) -> None:
        try:
            found = read_acks(body)
        except ValueError as error:
            raise HandOverFailed(f"{self._config.url}: no acknowledgement of ETSI GS QKD 020: {error}") from None
        self._heard.update({key_id: status for key_id, status in found.items() if key_id in self._open})

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._client is None:
            connector = aiohttp.TCPConnector(ssl=client_context(self._profile(), self._clock), limit=1)
            self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        headers = {"Content-Type": "application/json"}
        url = self._config.url.rstrip("/") + path
        try:
            async with (
                self._clock.deadline(self._config.deadline),
                self._client.post(url, data=io.BytesIO(body), headers=headers, allow_redirects=False) as response,
            ):
                return response.status, await response.content.read(_ANSWER)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            client, self._client = self._client, None
            await client.close()
            self._called = True
            raise HandOverFailed(f"{url}: {type(error).__name__}: {error}") from None

    async def _listen(self) -> None:
        if self._callbacks is not None:
            return
        app = web.Application(client_max_size=_ANSWER)
        app.router.add_post("/{path:.*}", self._called_back)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, _, port = self._config.callback_listen.rpartition(":")
        context = server_context(self._profile(), self._clock)  # speaks to `kms_id` and to nobody else
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            raise CredentialError(
                f"keys.etsi020.callback_listen: cannot listen on {self._config.callback_listen}: {error.strerror}",
                remedy="name an address of this machine and a free port",
            ) from None
        self._callbacks, self.callback_address = runner, runner.addresses[0][:2]

    async def _called_back(self, request: web.Request) -> web.Response:
        try:
            self._hear(await request.read())
        except HandOverFailed as error:
            _LOG.warning("an acknowledgement cannot be read", **log.error_fields(error))
            return web.json_response({"type": "about:blank", "status": 400, "title": error.message}, status=400)
        self._news.set()
        return web.json_response({})

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        runner, self._callbacks = self._callbacks, None
        if runner is not None:
            await runner.cleanup()


def _problem(answer: bytes) -> str:
    """The KMS's own words from an RFC 9457 body; never more than 200 characters of it."""
    try:
        problem: Any = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return ""
    if not isinstance(problem, dict):
        return ""
    return " ".join(str(problem.get(name, "")) for name in ("title", "detail"))[:200].strip()


__all__ = ["Etsi020Target"]
