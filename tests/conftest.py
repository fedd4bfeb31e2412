"""For all rooms: nothing of a test's verdict hangs on how busy the machine is."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

# Hypothesis fails an example that takes more than 200 ms, or whose data are slow to make: on a busy machine any one does.
settings.register_profile("qkdd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qkdd")


def pytest_collection_finish() -> None:
    """`no_leaks` collects garbage four times a test; over the modules and 4,000 items that is most of a second each time.

    What is alive now (modules, items) lives until the end. Whatever a test makes is found as before.
    """
    gc.collect()
    gc.freeze()
