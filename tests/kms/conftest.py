from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkdd.peer.pki_demo import DemoPki, demo_pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
def play(pki: DemoPki, tmp_path: Path) -> Callable[..., None]:
    """Run a scenario over two fresh sites: `play(scenario, max_sae_id_count=1)`."""
    from .sites import two_sites

    counter = itertools.count()

    def run(scenario: Any, **limits: Any) -> None:
        async def main() -> None:
            async with two_sites(pki, tmp_path / str(next(counter)), **limits) as sites:
                await scenario(sites)

        asyncio.run(main())

    return run
