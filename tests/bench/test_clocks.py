"""The split of a node's CPU time that `qkdd bench pipeline` prints."""

from __future__ import annotations

import pytest

from qkdd.bench.clocks import Spent, Split, TimedLibrary


class Library:
    SIZE = 7

    def work(self, count: int) -> int:
        return sum(range(count))

    def other(self) -> str:
        return "other"


def test_shares_sum_to_one_and_nothing_is_counted_twice() -> None:
    split = Split(cpu=10.0, system=3.0, kernel=5.0, kernel_system=0.5, tls=1.0, random=1.0, faults=0)
    assert split.shares() == pytest.approx({"kernel": 0.5, "tls": 0.1, "system": 0.25, "python": 0.15})
    more = Split(cpu=1.0, system=0.9, kernel=0.6, kernel_system=0.0, tls=0.0, random=0.0, faults=0)
    assert sum(more.shares().values()) == pytest.approx(1.0)  # sampled times may overlap


def test_functions_are_timed_by_name_and_constants_pass() -> None:
    spent = Spent()
    library = TimedLibrary(Library(), spent, ("work",))
    assert (library.SIZE, library.other(), library.work(200_000)) == (7, "other", 19999900000)
    assert set(spent.cpu) == {"work"}
    assert spent.cpu["work"] > 0
    spent.clear()
    assert (spent.cpu, spent.calls) == ({"work": 0.0}, {"work": 0})
    library.work(10)
    assert spent.cpu["work"] > 0
    assert spent.calls["work"] == 1


def test_what_the_clocks_take_themselves_grows_with_the_calls() -> None:
    """By how much is the machine's; that an empty function is nothing but the cost of timing it is not."""
    spent = Spent()
    timed = spent.timed("nothing", lambda: None)
    assert spent.cost() == (0.0, 0.0, 0.0)
    for _ in range(20_000):
        timed()
    cost = spent.cost()
    assert cost.whole > cost.within > 0
    assert cost.system > 0
