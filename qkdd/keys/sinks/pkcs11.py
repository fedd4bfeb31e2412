"""An HSM over PKCS#11 (Cryptoki 2.40): one sensitive, not extractable generic secret for each key, found again by CKA_ID.

The library blocks, so it runs in a thread of its own; one session at a time. Needs `pip install 'qkdd[pkcs11]'`.
"""

from __future__ import annotations

import asyncio
import importlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qkdd.core.errors import ConfigError
from qkdd.keys.errors import HandOverFailed
from qkdd.keys.sinks.config import Pkcs11Sink
from qkdd.keys.sinks.contract import Item, KeyItem, keys_of
from qkdd.keys.sinks.credentials import read_word


class Pkcs11Target:
    """One token. Raises ConfigError when python-pkcs11 is not installed."""

    def __init__(self, config: Pkcs11Sink) -> None:
        self._config = config
        try:
            self._api: Any = importlib.import_module("pkcs11")
        except ImportError:
            raise ConfigError("keys.pkcs11: python-pkcs11 is missing", remedy="pip install 'qkdd[pkcs11]'") from None
        self._session: Any = None
        self._thread = ThreadPoolExecutor(1, "pkcs11")

    async def store(self, items: list[Item]) -> set[str]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._store, items)

    def _store(self, items: list[Item]) -> set[str]:
        try:
            session = self._open()
            for item in items:
                for key in keys_of(item, self._config.key_size // 8):
                    self._put(session, key)
        except self._api.PKCS11Error as error:
            self._drop()
            # nothing of PKCS#11 proves that an object was not created before the failure
            raise HandOverFailed(f"{self._config.token}: {type(error).__name__} {error}") from None
        return {item.chunk_id for item in items}

    def _open(self) -> Any:
        if self._session is None:
            pin = read_word(Path(self._config.pin_file))
            try:
                library = self._api.lib(self._config.module)
            except RuntimeError as error:
                raise ConfigError(f"keys.pkcs11: {self._config.module}: {error}", remedy="check `module`") from None
            self._session = library.get_token(token_label=self._config.token).open(rw=True, user_pin=pin)
        return self._session

    def _put(self, session: Any, key: KeyItem) -> None:
        api, name = self._api, uuid.UUID(key.key_id).bytes
        kind = {api.Attribute.CLASS: api.ObjectClass.SECRET_KEY, api.Attribute.ID: name}
        if list(session.get_objects(kind)):
            return  # an earlier call whose end was not seen
        session.create_object(
            {
                **kind,
                api.Attribute.KEY_TYPE: api.KeyType.GENERIC_SECRET,
                api.Attribute.VALUE: bytes(key.key.reveal()),
                api.Attribute.LABEL: f"{self._config.label}/{key.key_id}",
                api.Attribute.TOKEN: True,
                api.Attribute.PRIVATE: True,
                api.Attribute.SENSITIVE: True,
                api.Attribute.EXTRACTABLE: False,
                api.Attribute.DERIVE: True,
            }
        )

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                session.close()
            except self._api.PKCS11Error:
                return  # the token went away: there is nothing left to close

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
