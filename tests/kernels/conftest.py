"""Every test of the kernels runs on every variant that this processor can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qkdd import kernels


@pytest.fixture(scope="module", autouse=True, params=kernels.available_variants())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.variant()
    kernels.select_variant(request.param)
    yield request.param
    kernels.select_variant(before)
