"""An HSM over PKCS#11 (Cryptoki 2.40): one sensitive, not extractable generic secret for each key, found again by CKA_ID.

The vendor's library lives in a child process (`pkcs11_adapter`, decision 0126): when it crashes or hangs, the process is lost
and nothing else; the keys of that call may be stored, and the same ones come again. Needs `pip install 'qkdd[pkcs11]'`.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from qkdd.core.clock import Clock
from qkdd.core.errors import ConfigError
from qkdd.device.transport import FrameError, LinkFailure, Refused, Stranger, Unusable
from qkdd.device.worker_link import WorkerClient, WorkerLink
from qkdd.keys.errors import HandOverFailed
from qkdd.keys.sinks.config import Pkcs11Sink
from qkdd.keys.sinks.contract import Item, keys_of
from qkdd.keys.sinks.credentials import read_word

_ADAPTER = Path(__file__).with_name("pkcs11_adapter.py")
_RING = 4096  # there is no stream
_KEYS_A_CALL = 16


class Pkcs11Target:
    """One token. Raises ConfigError when python-pkcs11 is not installed."""

    def __init__(self, config: Pkcs11Sink, clock: Clock) -> None:
        self._config = config
        if importlib.util.find_spec("pkcs11") is None:
            raise ConfigError("keys.pkcs11: python-pkcs11 is missing", remedy="pip install 'qkdd[pkcs11]'")
        self._link = WorkerLink(f"pkcs11 {config.token}", _ADAPTER, ring_bytes=_RING)
        self._client = WorkerClient(clock)
        self._open = False
        self._thread = ThreadPoolExecutor(1, "pkcs11")

    async def store(self, items: list[Item]) -> set[str]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._store, items)

    def _store(self, items: list[Item]) -> set[str]:
        try:
            self._begin()
            for item in items:
                keys = keys_of(item, self._config.key_size // 8)
                while batch := [
                    (key.key_id, base64.b64encode(key.key.reveal()).decode("ascii"))
                    for key in islice(keys, _KEYS_A_CALL)
                ]:
                    self._client.ask(self._link, "store", self._config.deadline, keys=batch)
        except Unusable as error:
            self._drop()
            raise ConfigError(f"keys.pkcs11: {error}", remedy="check `module`") from None
        except (LinkFailure, FrameError, Refused, Stranger) as error:
            self._drop()
            # nothing of PKCS#11 proves that an object was not created before the failure
            raise HandOverFailed(f"{self._config.token}: {error}") from None
        return {item.chunk_id for item in items}

    def _begin(self) -> None:
        if self._open:
            return
        pin = read_word(Path(self._config.pin_file))
        self._client.forget()
        self._link.open(self._config.deadline)
        self._open = True
        options = {"module": self._config.module, "token": self._config.token, "label": self._config.label, "pin": pin}
        self._client.ask(self._link, "open", self._config.deadline, **options)

    def _drop(self) -> None:
        if self._open:
            self._open = False
            self._link.close()

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
