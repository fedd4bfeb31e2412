"""The durable home of the epsilon ledger (`qkdd.security.ledger.LedgerStore`) in the node's key store.

The record is sealed, so an amount that was edited, or a record of another link, does not open.
"""

from __future__ import annotations

import json

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from qkdd.core.database import Database
from qkdd.core.errors import SealError
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.keys.schema import DOCUMENTS
from qkdd.security.ledger import LedgerState


class LedgerFile:
    """One link's ledger. `load` and `save` wait for the disk: call them from a worker thread when time matters."""

    def __init__(self, database: Database, master: Secret, link: str) -> None:
        self._database = database
        self._sealer = Sealer(master, "ledger")
        self._name = f"ledger/{link}"

    def load(self) -> LedgerState | None:
        """The state saved last, None if there is none. Raises SealError when the record cannot be trusted."""
        record = self._database.run_blocking(
            lambda c: c.execute(sa.select(DOCUMENTS.c.content).where(DOCUMENTS.c.name == self._name)).scalar()
        )
        if record is None:
            return None
        opened = self._sealer.open(record, self._name)  # kept: a holder that dies wipes what its views show
        content = bytes(opened.reveal())
        try:
            return msgspec.convert(json.loads(content), LedgerState)
        except (ValueError, msgspec.ValidationError) as error:
            raise SealError(f"{self._name} is no ledger: {error}") from None

    def save(self, state: LedgerState) -> None:
        """Durable and atomic. Raises StorageFull, StorageFailed; the earlier state stands then."""
        # the amounts are integers of up to 200 bits: json keeps them exactly, msgspec's encoder stops at 64 bits
        content = json.dumps({name: getattr(state, name) for name in LedgerState.__struct_fields__}).encode()
        sealed = self._sealer.seal(content, self._name)
        statement = insert(DOCUMENTS).values(name=self._name, content=sealed)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"content": sealed})
        self._database.run_blocking(lambda c: c.execute(statement).rowcount)
