"""Scratch memory that is kept: the next call of about the same size gets it again."""

from __future__ import annotations

from qkdd_native.arrays import Workspaces


def test_a_little_more_than_last_time_is_the_same_memory() -> None:
    kept = Workspaces()
    first = kept.take(100_000)
    kept.keep(first)
    assert kept.take(101_000) is first


def test_the_smallest_that_fits_is_taken_and_the_two_largest_stay() -> None:
    kept = Workspaces(most=4000)
    sizes = {words: kept.take(words) for words in (500, 3000, 1000, 8000)}
    for workspace in sizes.values():
        kept.keep(workspace)
    assert kept.take(900) is sizes[1000]
    assert kept.take(900) is sizes[3000]
    assert len(kept.take(900)) >= 900
