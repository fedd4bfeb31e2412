"""How much of a key epoch's security budget is spent: pure arithmetic over a store that makes it durable.

Sums are exact integers of 2^-200 with every charge rounded up, so no order of blocks and no number of them loses a part
of an epsilon. A block is charged before it starts, whether it is accepted later or not (S7.5).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import msgspec

from qkdd.security.entropy import check_epsilon
from qkdd.security.errors import EpsilonSpent, ProofInputError

UNIT_BITS = 200
EPOCH_BUDGET = 1e-6
BLOCK_BUDGET = 1e-12
ALERT_FRACTION = 0.8


class LedgerState(msgspec.Struct, frozen=True):
    """What the store keeps. Amounts in units of 2^-200. `began` and `updated` in seconds since the Unix epoch."""

    epoch: int
    budget: int
    spent: int
    blocks: int
    began: float
    updated: float


class LedgerStore(Protocol):
    """Where the ledger lives; implemented by `qkdd.keys`."""

    def load(self) -> LedgerState | None:
        """The state saved last; None if nothing was ever saved. Raises if what is there cannot be trusted."""

    def save(self, state: LedgerState) -> None:
        """Make `state` durable before returning."""


class LedgerView(msgspec.Struct, frozen=True):
    """The ledger for people: fractions as floats. days_left is None until the rate of charging is known."""

    epoch: int
    budget: float
    spent: float
    fraction: float
    blocks: int
    blocks_left: int
    days_left: float | None
    alert: bool


def _units_up(eps: float) -> int:
    return math.ceil(Fraction(eps) * (1 << UNIT_BITS))


def _units_down(eps: float) -> int:
    return math.floor(Fraction(eps) * (1 << UNIT_BITS))


class EpsilonLedger:
    """The ledger of one peer's key epochs. `now` is seconds since the Unix epoch, given by the caller."""

    def __init__(
        self, store: LedgerStore, *, now: float, budget: float = EPOCH_BUDGET, eps_initial: float = 0.0
    ) -> None:
        """eps_initial: what the bootstrap itself costs (an imperfect pre-shared key), charged to each new epoch."""
        check_epsilon("budget", budget)
        if not 0.0 <= eps_initial < budget:
            raise ProofInputError(f"eps_initial = {eps_initial} leaves nothing of {budget}", name="eps_initial")
        self._store, self._budget, self._initial = store, budget, eps_initial
        state = store.load()
        if state is None:
            state = LedgerState(1, _units_down(budget), _units_up(eps_initial), 0, now, now)
            store.save(state)
        if state.spent < 0 or state.budget < 0 or state.blocks < 0:
            raise ProofInputError("the stored epsilon ledger has a negative amount", name="ledger")
        self._state = state

    @property
    def epoch(self) -> int:
        return self._state.epoch

    def charge(self, eps: float, *, now: float) -> None:
        """Take one block's epsilon, durably, before the block starts. Raises EpsilonSpent; nothing is taken then."""
        amount = _units_up(check_epsilon("eps", eps))
        state = self._state
        if state.spent + amount > min(state.budget, _units_down(self._budget)):  # a lowered budget holds at once
            raise EpsilonSpent(
                f"key epoch {state.epoch}: {self._float(state.spent):.3g} of {self._float(state.budget):.3g} is spent "
                f"after {state.blocks} blocks",
                epoch=state.epoch,
                blocks=state.blocks,
            )
        new = msgspec.structs.replace(state, spent=state.spent + amount, blocks=state.blocks + 1, updated=now)
        self._store.save(new)
        self._state = new

    def new_epoch(self, *, now: float) -> None:
        """Begin a new key epoch. Only after a re-bootstrap of authentication by the operator."""
        new = LedgerState(self._state.epoch + 1, _units_down(self._budget), _units_up(self._initial), 0, now, now)
        self._store.save(new)
        self._state = new

    def view(self, *, now: float, eps_block: float = BLOCK_BUDGET) -> LedgerView:
        """What is spent and how long the rest lasts at the mean rate since the epoch began."""
        state, per_block = self._state, _units_up(check_epsilon("eps_block", eps_block))
        budget = min(state.budget, _units_down(self._budget))
        left = max(0, budget - state.spent)
        elapsed = now - state.began
        days = None
        if state.blocks and elapsed > 0:
            days = (left // per_block) * (elapsed / state.blocks) / 86_400.0
        fraction = state.spent / budget if budget else 1.0
        return LedgerView(
            epoch=state.epoch,
            budget=self._float(budget),
            spent=self._float(state.spent),
            fraction=fraction,
            blocks=state.blocks,
            blocks_left=left // per_block,
            days_left=days,
            alert=fraction >= ALERT_FRACTION,
        )

    @staticmethod
    def _float(units: int) -> float:
        return float(Fraction(units, 2**UNIT_BITS))
