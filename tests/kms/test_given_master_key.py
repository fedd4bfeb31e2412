"""A master key that systemd gives to the service: in a folder that the service cannot write to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from qkdd.core.errors import SealError
from qkdd.core.sealing import Sealer, create_master_key, load_master_key
from qkdd.kms.rotation import NoEarlierKey, Rotation, siblings

from .local import World


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The master key's path, in a folder that counts as not writable. The next and the earlier one are not set."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    true_access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder and true_access(path, mode))
    for path in siblings(folder / "master-key"):
        path.write_text("none")
    return folder / "master-key"


def test_it_is_changed_by_the_operator_and_sealed_anew_by_us(credentials: Path, tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path / "world")
        old, new = tmp_path / "old", tmp_path / "new"
        for path in (old, new):
            create_master_key(path)

        async def start(earlier: Path | None, now: Path) -> Rotation:
            for path, source in ((siblings(credentials)[1], earlier), (credentials, now)):
                path.unlink(missing_ok=True)
                path.write_bytes(source.read_bytes() if source else b"none")
                path.chmod(0o600)
            service = await world.start("alice")
            service.site.sealer = Sealer(load_master_key(credentials), "kms")
            made = Rotation(credentials, service.database, service.sealer, world.audits["alice"])
            assert made.given
            assert not made.resume()
            await made.check()
            return made

        await world.start("bob")
        first = await start(None, old)
        await world.feed(0)
        await world.feed(2)
        await world.sync()
        keys = await world.draw("alice", 2)
        with pytest.raises(NoEarlierKey):
            first.begin()
        await world.stop("alice")
        second = await start(old, new)
        keys |= await world.draw("alice", 1)  # opens what the old one sealed
        second.begin()
        await second.run()
        assert (second.progress.state, second.progress.done) == ("done", 2)
        assert "master-key.old" in second.progress.then
        assert siblings(credentials)[1].read_bytes() == old.read_bytes()  # not ours to erase
        await world.stop("alice")
        await start(None, new)
        keys |= await world.draw("alice", 2)
        assert await world.fetch("bob", list(keys)) == keys
        await world.stop("alice")
        with pytest.raises(SealError, match="none of 2 records"):
            await start(None, old)
        for site in ("alice", "bob"):
            await world.stop(site)

    asyncio.run(main())
