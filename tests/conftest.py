"""For all rooms: what collecting the tests left in memory is not looked at again by every collection of garbage."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """`no_leaks` collects garbage four times a test; over the modules and 4,000 items that is most of a second each time.

    What is alive now (modules, items) lives until the end. Whatever a test makes is found as before.
    """
    gc.collect()
    gc.freeze()
