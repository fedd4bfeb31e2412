"""ETSI GS QKD 020 V1.1.1: another maker's KMS of this site hands keys over to us, `[sources.NAME.etsi020]`.

We are the target SAE, so that the keys go to nobody else. Everything is checked before anything is stored: 400 and 401 prove
that nothing was. `relayed` is said of what is stored durably; applications get it once both sites hold it. A key is voided
for good: what was drawn cannot be, and a key that comes after its voiding is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import InternalError, QkddError
from qkdd.core.etsi020 import BASE, CLAIM, VERSIONS, AckStatus, ExtKeys, VoidKeys, acks
from qkdd.core.secret import Secret
from qkdd.kms.errors import ChunkVoided, KmsError, NotEntitled, RequestRefused, TooBusy
from qkdd.kms.http import BodyLate, caller, errors_as, read_body, respond
from qkdd.kms.intake import index_of
from qkdd.kms.key_ids import canonical
from qkdd.kms.planes import UnknownExtension, problem
from qkdd.kms.service import KeyService
from qkdd.kms.source_config import SourceConfig
from qkdd.peer.tls import TlsContext

_BODY = 8 << 20
_VALUE = 1 << 20
_KNOWN = (CLAIM,)
_PENDING = 64  # acknowledgements under way
_TRIES = 8
_LOG = log.get("kms")
_M = TypeVar("_M", ExtKeys, VoidKeys)


class CallLate(RequestRefused):
    code = "QKD-KMS-LATE"
    meaning = "The body of a hand-over did not come in time; nothing was stored."
    default_remedy = "Check the line to the other KMS; it repeats the call by itself."
    status = 408


class _Claim(msgspec.Struct, frozen=True):
    """Extension E0_qkdd_claim; unknown members are ignored."""

    auth: str | None = None
    proof: str | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class _Key:
    said: str
    chunk_id: str
    material: Secret
    extension: dict[str, Any]


class Etsi020:
    """One source's listener. `contexts`: for calling each initiator back, and nobody else at the same address."""

    def __init__(
        self,
        name: str,
        source: SourceConfig,
        service: KeyService,
        contexts: dict[str, TlsContext],
        clock: Clock,
        meter: Meter,
    ) -> None:
        if source.etsi020 is None:
            raise InternalError(f"source {name} is not of ETSI GS QKD 020")
        self._name, self._source, self._config = name, source, source.etsi020
        self._service, self._contexts, self._clock, self._meter = service, contexts, clock, meter
        self._callbacks: set[asyncio.Task[None]] = set()
        self._initiators = self._config.initiator_sae_ids or self._config.initiators

    def application(self) -> web.Application:
        app = web.Application(
            middlewares=[errors_as(problem, f"source.{self._name}", self._meter, "application/problem+json")]
        )
        app.router.add_get(VERSIONS, self._versions, allow_head=False)
        app.router.add_post(BASE, self._ext_keys)
        app.router.add_post(BASE + "/void", self._void)
        return app

    async def close(self) -> None:
        """Acknowledgements that are under way are given up: the other KMS repeats its call and gets them."""
        tasks, self._callbacks = self._callbacks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _versions(self, request: web.Request) -> web.Response:
        self._initiator(request)
        return respond(b'{"versions": ["v1"], "capabilities": ["synchronous_mode"]}')

    def _initiator(self, request: web.Request) -> None:
        name = caller(request).peer
        if name not in self._config.initiators:
            raise NotEntitled(f"{name!r} may not bring keys of source {self._name}")

    async def _read(self, request: web.Request, kind: type[_M]) -> _M:
        self._initiator(request)
        try:
            body = await read_body(request, _BODY, self._clock)
        except BodyLate as error:
            raise CallLate(error.message) from None
        try:
            message = msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise RequestRefused(f"the body is no {request.path.rpartition('/')[2]} request: {error}") from None
        unknown = [name[:64] for name in message.extension_mandatory if name not in _KNOWN]
        if unknown:
            raise UnknownExtension(f"mandatory extension {unknown[0]} is unknown", extension=unknown[0])
        if message.initiator_sae_id not in self._initiators:
            raise NotEntitled("initiator_sae_id is not one that this source may speak for")
        if message.target_sae_ids != [self._config.sae_id]:
            raise RequestRefused(
                f"target_sae_ids shall be [{self._config.sae_id!r}]: keys go to this KMS and to no other"
            )
        self._check_callback(message.ack_callback_url)
        return message

    def _check_callback(self, url: str | None) -> None:
        if url is None:
            return
        if not any(
            url.startswith(allowed.rstrip("/") + "/") or url == allowed for allowed in self._config.callback_urls
        ):
            raise RequestRefused("ack_callback_url is not one that the configuration allows")
        if len(self._callbacks) >= _PENDING:
            raise TooBusy("too many acknowledgements are under way")

    async def _ext_keys(self, request: web.Request) -> web.Response:
        message = await self._read(request, ExtKeys)
        about = self._about(message)
        keys = [_key(key.key_id, key.value, key.extension) for key in message.keys]
        if len({key.chunk_id for key in keys}) != len(keys):
            raise RequestRefused("a key_id is named twice")
        results = await asyncio.gather(*(self._store(key, about) for key in keys), return_exceptions=True)
        statuses: dict[str, str] = {}
        messages: dict[str, str] = {}
        failures = []
        for key, result in zip(keys, results, strict=True):
            if result is None:
                statuses[key.said] = AckStatus.RELAYED
            elif isinstance(result, QkddError):
                failures.append(result)
                statuses[key.said] = AckStatus.VOIDED if isinstance(result, ChunkVoided) else AckStatus.FAILED
                messages[key.said] = str(result)
            else:
                raise result
        if len(failures) == len(keys) and not any(isinstance(f, ChunkVoided) for f in failures):
            raise next((f for f in failures if not isinstance(f, KmsError) or f.status != 400), failures[0])
        return self._answer(request, message, statuses, messages)

    async def _store(self, key: _Key, about: dict[str, object]) -> None:
        try:
            await self._service.ingest(
                self._name,
                key.chunk_id,
                self._source.link,
                index_of(key.chunk_id),
                key.material,
                about | ({"extension": key.extension} if key.extension else {}),
            )
        except QkddError:
            self._meter.add("qkdd_kms_source_keys_total", source=self._name, result="refused")
            raise
        finally:
            key.material.wipe()
        self._meter.add("qkdd_kms_source_keys_total", source=self._name, result="stored")

    def _about(self, message: ExtKeys) -> dict[str, object]:
        """Optional extensions that are not ours are kept unchanged beside the key."""
        claim = _Claim()
        said = message.extension_optional.get(CLAIM, message.extension_mandatory.get(CLAIM))
        if said is not None:
            try:
                claim = msgspec.convert(said, _Claim)
            except msgspec.ValidationError as error:
                raise RequestRefused(f"extension {CLAIM}: {error}") from None
        if claim.epsilon is not None and not (math.isfinite(claim.epsilon) and 0 <= claim.epsilon <= 1):
            raise RequestRefused(f"extension {CLAIM}: epsilon shall lie between 0 and 1")
        others = {name: value for name, value in message.extension_optional.items() if name != CLAIM}
        about: dict[str, object] = {
            "class": "its",
            "auth": claim.auth,
            "proof": claim.proof,
            "epsilon": claim.epsilon if claim.epsilon is not None else self._source.epsilon,
            "source": self._name,
        }
        return about | ({"extension_optional": others} if others else {})

    async def _void(self, request: web.Request) -> web.Response:
        message = await self._read(request, VoidKeys)
        if not message.key_ids and not message.all_confirmation:
            raise RequestRefused("key_ids is empty: all keys are voided only with all_confirmation true")
        said = {_canonical(key_id): key_id for key_id in message.key_ids}
        if len(said) != len(message.key_ids):
            raise RequestRefused("a key_id is named twice")
        found = await self._service.void_chunks(self._name, self._source.link, list(said) or None)
        for status in found.values():
            self._meter.add("qkdd_kms_source_keys_total", source=self._name, result=status.replace(" ", "_"))
        return self._answer(
            request, message, {said.get(key_id, key_id): status for key_id, status in found.items()}, {}
        )

    def _answer(
        self, request: web.Request, message: ExtKeys | VoidKeys, statuses: dict[str, str], messages: dict[str, str]
    ) -> web.Response:
        body = acks(statuses, message.initiator_sae_id, message.target_sae_ids, messages)
        if message.ack_callback_url is None:
            return respond(body)
        context = self._contexts[caller(request).peer]
        task = asyncio.create_task(self._call_back(context, message.ack_callback_url, body))
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)
        return respond(b"{}", 202)

    async def _call_back(self, context: TlsContext, url: str, body: bytes) -> None:
        connector = aiohttp.TCPConnector(ssl=context, limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as client:
            for attempt in range(_TRIES):
                try:
                    async with self._clock.deadline(self._service.config.limits.peer_deadline):
                        status = await self._post(client, url, body)
                except (aiohttp.ClientError, OSError, TimeoutError, QkddError) as error:
                    status, reason = 0, f"{type(error).__name__}: {error}"
                else:
                    reason = str(status)
                if status in (200, 202, 204, 400):
                    break
                await self._clock.sleep(min(2.0**attempt, 60.0))
            else:
                _LOG.warning("an acknowledgement was not taken; the call comes again", source=self._name, reason=reason)

    async def _post(self, client: aiohttp.ClientSession, url: str, body: bytes) -> int:
        headers = {"Content-Type": "application/json"}
        async with client.post(url, data=io.BytesIO(body), headers=headers) as response:
            return response.status


def _canonical(key_id: str) -> str:
    try:
        return canonical(key_id)
    except ValueError:
        raise RequestRefused("a key_id is no UUID") from None


def _key(said: str, value: str, extension: dict[str, msgspec.Raw]) -> _Key:
    try:
        material = Secret(base64.b64decode(value, validate=True))
    except (ValueError, binascii.Error):
        raise RequestRefused("a value is no base64") from None
    if not 0 < len(material) <= _VALUE:
        raise RequestRefused(f"a value is empty or has more than {_VALUE} bytes")
    return _Key(said, _canonical(said), material, {n: msgspec.json.decode(v) for n, v in extension.items()})
