"""Post-quantum pre-shared keys of IKEv2 (RFC 8784) in strongSwan's charon, over vici.

A PPK has an ID on the wire, so several can be loaded: each end loads a key before the other one may use it, and keeps the one
before. What an IKE_SA uses is fixed when it is made; so the agent loads the connection with the new `ppk_id` and, at the end
that has `renew`, makes a new IKE_SA before it ends the old one.
"""

from __future__ import annotations

from qkdd.core.clock import Clock
from qkdd.psk.config import StrongswanConfig
from qkdd.psk.errors import TargetFailed
from qkdd.psk.keys import AgreedKey
from qkdd.psk.vici import Vici

_MAKE = 15.0  # seconds for a new IKE_SA


class StrongswanTarget:
    """One connection of one charon; implements `qkdd.psk.agent.Target`."""

    purpose = "strongswan"
    exclusive = False

    def __init__(self, config: StrongswanConfig, clock: Clock) -> None:
        self._config = config
        self._vici = Vici(config.socket, clock)
        self._prefix = f"qkd-psk/{config.name}/"
        self._in_use = ""

    async def prepare(self, key: AgreedKey) -> None:
        loaded = {"id": self._prefix + key.key_id, "type": "ppk", "data": key.psk, "owners": [key.key_id]}
        await self._vici.order("load-shared", loaded)

    async def use(self, key: AgreedKey, previous: AgreedKey | None) -> None:
        kept = {self._prefix + one.key_id for one in (key, previous) if one is not None}
        there = await self._ours()
        for one in (key, previous):
            if one is not None and self._prefix + one.key_id not in there:
                await self.prepare(one)
        if self._config.connection is not None:
            with_key = {**self._config.connection, "ppk_id": key.key_id, "ppk_required": True}
            await self._vici.order("load-conn", {self._config.name: with_key})
            if self._config.renew and self._in_use != key.key_id:
                await self._renew()
        self._in_use = key.key_id
        for gone in there - kept:
            await self._vici.order("unload-shared", {"id": gone})

    async def holds(self, key: AgreedKey) -> bool:
        if self._prefix + key.key_id not in await self._ours():
            return False
        if self._config.connection is None:
            return True
        names = (await self._vici.ask("get-conns", {})).get("conns", [])
        return self._config.name in names

    async def block(self) -> None:
        """No key: with `ppk_required` no new IKE_SA can be made; those that stand are ended."""
        for one in await self._ours():
            await self._vici.order("unload-shared", {"id": one})
        for number in await self._established():
            await self._end(number)
        self._in_use = ""

    async def blocked(self) -> bool:
        return not await self._ours() and not await self._established()

    async def last_handshake(self) -> int:
        """Not needed: both keys are loaded while an end is in doubt."""
        return 0

    async def close(self) -> None:
        """Nothing is open; charon keeps its keys."""

    async def _ours(self) -> set[str]:
        keys = (await self._vici.ask("get-shared", {})).get("keys", [])
        return {str(one) for one in keys if str(one).startswith(self._prefix)}

    async def _established(self) -> list[str]:
        """Unique numbers of this connection's IKE_SAs."""
        events = await self._vici.stream("list-sas", {"ike": self._config.name}, "list-sa")
        return [str(sa["uniqueid"]) for event in events for sa in event.values() if isinstance(sa, dict)]

    async def _renew(self) -> None:
        """A new IKE_SA and its CHILD_SAs under the new key; then the ones that were there before end."""
        before = await self._established()
        children = (self._config.connection or {}).get("children") or {}
        if not before or not children:
            return  # made when it is needed
        for child in children:
            order = {"child": child, "ike": self._config.name, "timeout": round(1000 * _MAKE)}
            await self._vici.order("initiate", order, _MAKE + 1.0)
        if set(await self._established()) <= set(before):
            raise TargetFailed(f"{self._config.name}: no new IKE_SA was made")
        for number in before:
            await self._end(number)

    async def _end(self, number: str) -> None:
        order = {"ike-id": number, "timeout": 2000}
        answer = await self._vici.ask("terminate", order, 5.0)
        if answer.get("success") != "yes":  # the other end does not answer: it is gone or was started anew
            answer = await self._vici.ask("terminate", {**order, "force": True}, 5.0)
        if answer.get("success") != "yes" and number in await self._established():
            raise TargetFailed(f"{self._config.name}: IKE_SA {number} does not end: {answer.get('errmsg', '')}")
