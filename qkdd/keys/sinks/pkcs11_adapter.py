"""The vendor's PKCS#11 library in a process of its own: loaded by `qkdd.device.worker_main`, never by the daemon (decision 0126).

Needs python-pkcs11 and the standard library. Key bytes come in as base64 over a socket pair that only the daemon holds.
"""

from __future__ import annotations

import base64
import importlib
import uuid
from typing import Any


class Adapter:
    """One session with one token. Options: module, token, pin, label."""

    record = burst = 1  # no stream
    lost = 0

    def __init__(self, options: dict[str, Any]) -> None:
        self._api: Any = importlib.import_module("pkcs11")
        try:
            library = self._api.lib(options["module"])
        except RuntimeError as error:
            raise ImportError(f"{options['module']}: {error}") from None
        self._label = options["label"]
        self._session = library.get_token(token_label=options["token"]).open(rw=True, user_pin=options["pin"])

    def do_store(self, keys: list[list[str]]) -> int:
        """Pairs of key ID and key; those that are there already are left alone. Returns how many were new."""
        return sum(self._put(uuid.UUID(key_id), base64.b64decode(key)) for key_id, key in keys)

    def _put(self, key_id: uuid.UUID, key: bytes) -> bool:
        api, attribute = self._api, self._api.Attribute
        kind = {attribute.CLASS: api.ObjectClass.SECRET_KEY, attribute.ID: key_id.bytes}
        if list(self._session.get_objects(kind)):
            return False  # an earlier call whose end was not seen
        self._session.create_object(
            {
                **kind,
                attribute.KEY_TYPE: api.KeyType.GENERIC_SECRET,
                attribute.VALUE: key,
                attribute.LABEL: f"{self._label}/{key_id}",
                attribute.TOKEN: True,
                attribute.PRIVATE: True,
                attribute.SENSITIVE: True,
                attribute.EXTRACTABLE: False,
                attribute.DERIVE: True,
            }
        )
        return True

    def close(self) -> None:
        self._session.close()
