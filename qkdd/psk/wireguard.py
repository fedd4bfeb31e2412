"""WireGuard's pre-shared key of one peer, through `wg` or through the UAPI socket of a userspace implementation.

A new key counts from the next handshake on (at most 120 s later under traffic); sessions that stand are not disturbed, so a
rotation loses no packet. The cross-platform interface is described at www.wireguard.com/xplatform.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
from dataclasses import dataclass, field

from qkdd.core.clock import Clock
from qkdd.core.secret import Secret
from qkdd.psk.config import WireguardConfig
from qkdd.psk.errors import TargetFailed
from qkdd.psk.keys import PSK_BYTES, AgreedKey

_DEADLINE = 5.0


@dataclass(slots=True)
class Peer:
    """What the interface says of one peer. `handshake`: seconds and nanoseconds in one number, 0 for never."""

    psk: Secret = field(default_factory=lambda: Secret(bytes(PSK_BYTES)))
    endpoint: str = ""
    allowed: list[str] = field(default_factory=list)
    handshake: int = 0
    keepalive: int = 0


class WireguardTarget:
    """One peer of one interface; implements `qkdd.psk.agent.Target`."""

    purpose = "wireguard"
    exclusive = True

    def __init__(self, config: WireguardConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._blocker: Secret | None = None

    async def prepare(self, key: AgreedKey) -> None:
        await self._peer()  # there is an interface and it has this peer

    async def use(self, key: AgreedKey, previous: AgreedKey | None) -> None:
        await self._set(key.psk)
        self._blocker = None

    async def holds(self, key: AgreedKey) -> bool:
        return (await self._peer()).psk.same_as(key.psk)

    async def block(self) -> None:
        """A random key that nobody else has; the peer is taken out and put back, which ends its sessions at once."""
        peer = await self._peer()
        blocker = Secret(os.urandom(PSK_BYTES))
        await self._set(blocker, anew=peer)
        self._blocker = blocker

    async def blocked(self) -> bool:
        return self._blocker is not None and (await self._peer()).psk.same_as(self._blocker)

    async def last_handshake(self) -> int:
        return (await self._peer()).handshake

    async def close(self) -> None:
        """Nothing is open; the interface keeps its key."""

    async def _peer(self) -> Peer:
        if self._config.uapi is not None:
            found = _from_uapi(await self._uapi(b"get=1\n\n"), base64.b64decode(self._config.peer).hex())
        else:
            found = _from_dump(await self._run("show", self._config.interface, "dump"), self._config.peer)
        if found is None:
            raise TargetFailed(f"{self._config.interface}: has no peer {self._config.peer}")
        return found

    async def _set(self, psk: Secret, anew: Peer | None = None) -> None:
        if self._config.uapi is not None:
            await self._uapi(_uapi_set(base64.b64decode(self._config.peer).hex(), psk, anew))
            return
        interface, peer = self._config.interface, self._config.peer
        more: list[str] = []
        if anew is not None:
            await self._run("set", interface, "peer", peer, "remove")
            more = ["allowed-ips", ",".join(anew.allowed), "persistent-keepalive", str(anew.keepalive)]
            more += ["endpoint", anew.endpoint] if anew.endpoint else []
        text = base64.b64encode(psk.reveal()) + b"\n"  # through a pipe: not in the arguments, which everybody may read
        await self._run("set", interface, "peer", peer, "preshared-key", "/dev/stdin", *more, data=text)

    async def _run(self, *words: str, data: bytes = b"") -> str:
        name = f"{self._config.wg} {' '.join(words[:2])}"
        try:
            process = await asyncio.create_subprocess_exec(
                self._config.wg,
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise TargetFailed(f"{name}: {error.strerror}") from None
        try:
            async with self._clock.deadline(_DEADLINE):
                out, complaint = await process.communicate(data)
        except TimeoutError:
            raise TargetFailed(f"{name}: did not end in time") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise TargetFailed(f"{name}: {complaint.decode('utf-8', 'replace').strip()[:200]}")
        return out.decode("ascii", "replace")

    async def _uapi(self, question: bytes) -> str:
        path = self._config.uapi or ""
        try:
            async with self._clock.deadline(_DEADLINE):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(question)
                    await writer.drain()
                    answer = (await reader.readuntil(b"\n\n")).decode("ascii", "replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise TargetFailed(f"{path}: {type(error).__name__}: {error}") from None
        if "\nerrno=0\n" not in "\n" + answer:
            raise TargetFailed(f"{path}: refused ({answer.strip().splitlines()[-1]})")
        return answer


def _uapi_set(peer: str, psk: Secret, anew: Peer | None) -> bytes:
    lines = ["set=1"]
    if anew is not None:
        lines += [f"public_key={peer}", "remove=true"]
    lines += [f"public_key={peer}", *(["update_only=true"] if anew is None else [])]
    lines.append(f"preshared_key={bytes(psk.reveal()).hex()}")
    if anew is not None:
        lines += [f"endpoint={anew.endpoint}"] if anew.endpoint else []
        lines += [f"persistent_keepalive_interval={anew.keepalive}", "replace_allowed_ips=true"]
        lines += [f"allowed_ip={network}" for network in anew.allowed]
    return "\n".join([*lines, "", ""]).encode("ascii")


def _from_uapi(answer: str, wanted: str) -> Peer | None:
    """The peer with this public key (hexadecimal) in an answer to `get=1`."""
    found: Peer | None = None
    mine = False
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name == "public_key":
            mine = value == wanted
            found = Peer() if mine else found
        elif not mine or found is None:
            continue
        elif name == "preshared_key":
            found.psk = Secret(bytes.fromhex(value))
        elif name == "endpoint":
            found.endpoint = value
        elif name == "allowed_ip":
            found.allowed.append(value)
        elif name == "last_handshake_time_sec":
            found.handshake += int(value) * 1_000_000_000
        elif name == "last_handshake_time_nsec":
            found.handshake += int(value)
        elif name == "persistent_keepalive_interval":
            found.keepalive = int(value)
    return found


def _from_dump(text: str, wanted: str) -> Peer | None:
    """The peer with this public key (base64) in what `wg show INTERFACE dump` prints (wg(8))."""
    for line in text.splitlines()[1:]:
        key, psk, endpoint, allowed, handshake, _, _, keepalive = line.split("\t")
        if hmac.compare_digest(key, wanted):
            return Peer(
                psk=Secret(base64.b64decode(psk) if psk != "(none)" else bytes(PSK_BYTES)),
                endpoint="" if endpoint == "(none)" else endpoint,
                allowed=[] if allowed == "(none)" else allowed.split(","),
                handshake=int(handshake) * 1_000_000_000,
                keepalive=0 if keepalive == "off" else int(keepalive),
            )
    return None
