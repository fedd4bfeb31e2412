"""The administration socket: what it shows, revocation on both sites, rotation, backup and restore, zeroise."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from qkdd.control.qkdctl import app
from qkdd.core import units
from qkdd.core.errors import ConfigError, CredentialError, SealError
from qkdd.core.sealing import Sealer, load_master_key
from qkdd.core.zeroise import EXIT_ZEROISED, MARK, Zeroised, clear
from qkdd.kms.admin import backup
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import KeysNotFound, NotEnoughKey
from qkdd.kms.restore import restored
from qkdd.kms.rotation import Rotation, siblings
from qkdd.kms.schema import MATERIAL
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import DemoPki, demo_pki
from qkdd.testing.patience import PATIENCE_S, Stopwatch

from .local import World, world
from .sites import SITES, Sites, kms_tree


def in_world(root: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world(root) as made:
            await made.feed(0)
            await made.sync()
            await scenario(made)

    asyncio.run(main())


# revocation


def test_single_keys_are_revoked_on_both_sites(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await made.draw("alice", 3)
        first, second, third = keys
        done = await made.services["alice"].revoke(keys=[first])
        assert done["told"] == {"kms-bob": True}
        with pytest.raises(KeysNotFound):
            await made.fetch("bob", [first])
        assert await made.fetch("bob", [second, third]) == {k: keys[k] for k in (second, third)}
        again = await made.services["bob"].revoke(keys=[first])
        assert again["here"]["keys"] == again["there"]["keys"] == 0

    in_world(tmp_path, scenario)


@pytest.mark.parametrize("by", ["sae", "link", "span"])
def test_draws_are_revoked_on_both_sites(tmp_path: Path, by: str) -> None:
    async def scenario(made: World) -> None:
        keys = await made.draw("alice", 2)
        wall = made.clock.wall()
        order: dict[str, Any] = {"sae": "sae-bob"} if by == "sae" else {"link": "a-b"}
        if by == "span":
            order = {"span": (wall - 5, wall + 5)}
            await made.clock.advance(60)
        kept = await made.draw("alice", 1)
        if by != "span":
            await made.fetch("bob", list(kept))
        await made.services["bob"].revoke(keys=[], **order)
        with pytest.raises(KeysNotFound):
            await made.fetch("bob", list(keys))
        if by == "span":
            assert await made.fetch("bob", list(kept)) == kept

    in_world(tmp_path, scenario)


def test_undrawn_key_is_revoked_even_while_the_line_is_cut(tmp_path: Path) -> None:
    """The other site is not told, draws, and is refused: nothing revoked is given out."""

    async def scenario(made: World) -> None:
        await made.draw("alice", 1)
        made.lines["bob"].up = False
        done = await made.services["bob"].revoke(keys=[], link="a-b", undrawn=True)
        assert (done["here"]["undrawn"], done["told"]) == (320 - 32, {"kms-alice": False})
        with pytest.raises(NotEnoughKey):
            await made.draw("alice", 1)
        made.lines["bob"].up = True
        await made.feed(2)
        await made.sync()
        keys = await made.draw("alice", 1)
        assert await made.fetch("bob", list(keys)) == keys

    in_world(tmp_path, scenario)


def test_returned_ranges_are_revoked_too(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        made.lines["alice"].script = ["before"]
        with pytest.raises(Exception, match="lost"):
            await made.draw("alice", 2)
        await made.clock.advance(20)
        await made.sync()
        assert await made.agree() == 320
        await made.services["alice"].revoke(keys=[], link="a-b", undrawn=True)
        assert await made.agree() == 0
        assert await made.databases["alice"].run(lambda c: c.execute(MATERIAL.select()).all()) == []

    in_world(tmp_path, scenario)


# rotation


def test_rotation_seals_everything_anew_and_ends_a_crash_left(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        path = tmp_path / "master.key"
        path.write_text("00" * 32)
        path.chmod(0o600)
        service = made.services["alice"]
        keys = await made.draw("alice", 2)
        rotation = Rotation(path, service.database, service.sealer, made.audits["alice"])
        assert not rotation.resume()
        rotation.begin()
        before = path.read_text()
        # a crash: another process finds both keys
        fresh = Rotation(path, service.database, Sealer(load_master_key(path), "kms"), made.audits["alice"])
        assert fresh.resume()
        await rotation.run()
        assert (rotation.progress.state, rotation.progress.done) == ("done", rotation.progress.total)
        assert path.read_text() != before
        assert not any(p.exists() for p in siblings(path))
        sealed = (await service.database.run(lambda c: c.execute(MATERIAL.select()).all()))[0].sealed
        [chunk] = made.chunks
        assert bytes(Sealer(load_master_key(path), "kms").open(sealed, f"chunk/{chunk}").reveal()) == made.chunks[chunk]
        path.write_text(before)
        with pytest.raises(SealError):
            Sealer(load_master_key(path), "kms").open(sealed, f"chunk/{chunk}")
        assert await made.fetch("bob", list(keys)) == keys
        assert await made.draw("alice", 2)

    in_world(tmp_path, scenario)


@pytest.mark.parametrize("point", ["linked", "renamed"])
def test_rotation_ends_after_a_crash_in_its_last_step(tmp_path: Path, point: str) -> None:
    async def scenario(made: World) -> None:
        path = tmp_path / "master.key"
        path.write_text("00" * 32)
        path.chmod(0o600)
        service, old = made.services["alice"], tmp_path / "master.key.old"
        rotation = Rotation(path, service.database, service.sealer, made.audits["alice"])
        rotation.begin()
        following = siblings(path)[0].read_text()
        os.link(path, old)
        if point == "renamed":
            siblings(path)[0].rename(path)
        again = Rotation(path, service.database, Sealer(load_master_key(path), "kms"), made.audits["alice"])
        assert again.resume() is (point == "linked")
        if point == "linked":
            await again.run()
        assert path.read_text() == following
        assert not any(p.exists() for p in siblings(path))

    in_world(tmp_path, scenario)


# over the socket


def admin_config(pki: DemoPki, site: str, sites: Sites, root: Path) -> KmsConfig:
    tree = kms_tree(pki, site, root / site, sites.ports)
    tree["admin"] = {"socket": str(root / f"{site}.sock")}
    tree["zeroise"] = {"tamper_file": str(root / f"{site}.gpio")}
    return msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook)


def with_sites(root: Path, scenario: Callable[[Sites, list[int], asyncio.Event], Awaitable[None]]) -> None:
    """With a PKI of its own: its keys may be destroyed."""

    async def main() -> None:
        pki = demo_pki(root / "pki")
        sites, ended, gone = Sites(pki, root), list[int](), asyncio.Event()

        def end(code: int) -> None:
            ended.append(code)
            gone.set()

        try:
            for site in SITES:
                (root / f"{site}.gpio").write_text("0\n")
                sites.servers[site] = KmsServer(admin_config(pki, site, sites, root), end=end)
                await sites.servers[site].start()
            await scenario(sites, ended, gone)
        finally:
            await sites.close()

    asyncio.run(main())


async def qkdctl(root: Path, *words: str, typed: str | None = None, code: int = 0) -> str:
    arguments = ["kms", "--socket", str(root / "alice.sock"), *words]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, typed)
    assert result.exit_code == code, result.output
    return result.output


def test_what_an_administrator_sees_and_does(tmp_path: Path) -> None:
    async def scenario(sites: Sites, _ended: list[int], _gone: asyncio.Event) -> None:
        await sites.feed(0)
        status = json.loads(await qkdctl(tmp_path, "status", "--json"))
        assert (status["kms"], status["rotation"], status["fallback_pairs"]) == ("kms-alice", "idle", 0)
        assert status["pools"] == [{"peer": "kms-bob", "owner": "kms-alice", "bits": 8000, "up": True}]
        assert "sae-alice" in await qkdctl(tmp_path, "saes")
        [pair, *_] = json.loads(await qkdctl(tmp_path, "pairs", "--json"))
        assert (pair["classes"], pair["sources"], pair["max_epsilon"]) == (["its"], ["any"], None)
        [own] = json.loads(await qkdctl(tmp_path, "sources", "--json"))
        assert (own["source"], own["kind"], own["link"], own["waiting_bits"]) == ("own", "nodes", "a-b", 0)
        assert json.loads(await qkdctl(tmp_path, "streams", "--json")) == []
        assert "8000" in await qkdctl(tmp_path, "pools")
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys?number=2")
        ids = [key["key_ID"] for key in answer["keys"]]
        assert "there: 0 draws, 1 single" in await qkdctl(tmp_path, "revoke", "--key", ids[0])
        status_code, _, _ = await sites.sae("bob", "GET", f"sae-alice/dec_keys?key_ID={ids[0]}")
        assert status_code == 400
        await qkdctl(tmp_path, "revoke", "--key", "no uuid", code=1)
        await qkdctl(tmp_path, "revoke", code=1)
        await qkdctl(tmp_path, "revoke", "--undrawn", code=1)
        assert json.loads((await qkdctl(tmp_path, "rotate-master-key", "--json")).splitlines()[-1])["state"] == "done"
        status_code, _, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status_code == 200
        copy = tmp_path / "copy.db"
        assert "sealed" in await qkdctl(tmp_path, "backup", str(copy))
        assert copy.stat().st_mode & 0o777 == 0o600
        await qkdctl(tmp_path, "backup", str(copy), code=1)
        # the key drawn before the backup can still be fetched after a restore, and nothing undrawn comes back
        config = sites.servers["bob"].config
        bob_copy = tmp_path / "bob.db"
        result = await asyncio.to_thread(
            CliRunner().invoke, app, ["kms", "--socket", str(tmp_path / "bob.sock"), "backup", str(bob_copy)]
        )
        assert result.exit_code == 0, result.output
        await sites.stop("bob")
        with pytest.raises(ConfigError):
            await restored(config, bob_copy)
        shutil.rmtree(tmp_path / "bob")
        assert await restored(config, bob_copy) == 1000 - 3 * 32
        sites.servers["bob"] = KmsServer(config)
        await sites.servers["bob"].start()
        status_code, same, _ = await sites.sae("bob", "GET", f"sae-alice/dec_keys?key_ID={ids[1]}")
        assert (status_code, same["keys"][0]) == (200, answer["keys"][1])
        status_code, _, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status_code == 503

    with_sites(tmp_path, scenario)


def scan(root: Path, kept: Path, secrets: dict[str, bytes]) -> None:
    """No file but bob's holds a secret, and the erased files' content is gone with their names."""
    for path in root.rglob("*"):
        if path.is_file() and "bob" not in path.name and "bob" not in str(path.parent):
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets.values()), path
            # the index of SQLite's log is removed and not cut: page numbers, and mapped by whoever has the store open
            assert data == b"" or path.parent != kept or path.name.endswith("-shm"), path


@pytest.mark.parametrize("how", ["typed", "tamper"])
def test_zeroise_leaves_nothing_within_a_second(tmp_path: Path, how: str) -> None:
    async def scenario(sites: Sites, ended: list[int], gone: asyncio.Event) -> None:
        await sites.feed(0, 100_000)
        server = sites.servers["alice"]
        config = server.config
        # second names show what is left of the files' content after they are gone
        kept = tmp_path / "kept"
        kept.mkdir()
        held = [p for p in [*config.key_files(), *config.store_files()] if p.exists()]
        secrets = {p.name: p.read_bytes() for p in config.key_files()}
        assert len(held) >= 5
        for path in dict.fromkeys(held):
            os.link(path, kept / f"{uuid.uuid4()}-{path.name}")
        if how == "typed":
            await qkdctl(tmp_path, "zeroise", typed="kms-bob\n", code=1)
            assert all(path.exists() for path in held)
        watch = Stopwatch()
        if how == "typed":
            assert "NOT ERASED" not in await qkdctl(tmp_path, "zeroise", typed="kms-alice\n")
        else:
            (tmp_path / "alice.gpio").write_text("1\n")
        while not await asyncio.to_thread((Path(config.kms.state_directory) / MARK).exists):
            assert watch.seconds < 1.0
        assert json.loads((Path(config.kms.state_directory) / MARK).read_text())["failed"] == []
        assert not any(path.exists() for path in held)
        scan(tmp_path, kept, secrets)
        status_code, _, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status_code == 503
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
        assert ended == [EXIT_ZEROISED]
        await sites.stop("alice")
        events = (Path(config.kms.state_directory) / "audit.log").read_text()
        assert '"zeroised"' in events
        with pytest.raises(Zeroised):
            await KmsServer(config).start()
        clear(Path(config.kms.state_directory), config.store_files())
        with pytest.raises(CredentialError):  # and new keys are needed
            await KmsServer(config).start()

    with_sites(tmp_path, scenario)


def test_a_store_that_came_back_is_no_rebootstrap(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("{}")
    store = tmp_path / "kms.db"
    store.write_bytes(b"")
    with pytest.raises(Zeroised):
        clear(tmp_path, [store])
    store.unlink()
    clear(tmp_path, [store])
    with pytest.raises(Zeroised):
        clear(tmp_path, [store])


def test_a_backup_under_another_master_key_is_refused(tmp_path: Path, pki: DemoPki) -> None:
    async def main() -> None:
        async with world(tmp_path / "w") as made:
            await made.feed(0)
            copy = tmp_path / "copy.db"
            backup(made.store("alice"), copy)
        sites = Sites(pki, tmp_path)
        config = admin_config(pki, "alice", sites, tmp_path)
        with pytest.raises(SealError):
            await restored(config, copy)

    asyncio.run(main())
    assert not (tmp_path / "alice" / "kms.db").exists()
