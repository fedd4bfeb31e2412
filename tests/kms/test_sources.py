"""Watched folders: key of other makers comes in, is erased where it lay, and says in every key where it came from."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.secret import Secret
from qkdd.keys import KeysConfig
from qkdd.keys.sinks.config import FileSink
from qkdd.keys.sinks.contract import Item
from qkdd.keys.sinks.factory import make_sink
from qkdd.kms.source_config import SourceConfig
from qkdd.kms.sources import WatchedFolder

from .local import SITES, World, world

GOOD: dict[str, Any] = {"format": "qkdd key file 1", "link": "a-b", "index": 0, "class": "its", "epsilon": 1e-10}


def write(folder: Path, text: bytes | dict[str, Any], name: str = "k.json", mode: int = 0o600) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    path.chmod(mode)
    return path


def watched(made: World, site: str, folder: Path) -> WatchedFolder:
    config = SourceConfig(directory=str(folder), link="a-b")
    return WatchedFolder("other-maker", config, made.services[site], made.clock, made.meters[site])


def test_key_of_another_maker_reaches_both_applications(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path / "w") as made:
            key = os.urandom(320)
            document = GOOD | {"id": str(uuid.uuid4()), "value": base64.b64encode(key).decode(), "vendor": "ignored"}
            for site in SITES:
                path = write(tmp_path / site, document)
                os.link(path, tmp_path / f"kept-{site}")
                write(tmp_path / site, b"half a fi", ".hidden.json")
                assert await watched(made, site, tmp_path / site).look() == 1
                assert [p.name for p in (tmp_path / site).iterdir()] == [".hidden.json"]
                assert (tmp_path / f"kept-{site}").read_bytes() == b""
            await made.sync()
            [drawn] = await made.services["alice"].draw("sae-alice", ("sae-bob",), 1, 32)
            [same] = await made.services["bob"].fetch("sae-bob", "sae-alice", [drawn.key_id])
            assert drawn.key == same.key == key[:32]
            assert drawn.origin == same.origin
            assert (drawn.origin.links, drawn.origin.sources, drawn.origin.epsilon) == (
                ("a-b",),
                ("other-maker",),
                1e-10,
            )

    asyncio.run(main())


def test_what_a_file_sink_wrote_is_taken_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path / "w") as made:
            sink = make_sink(KeysConfig(file=FileSink(directory=str(tmp_path / "keys"))), SystemClock())
            assert sink is not None
            about = {"link": "a-b", "index": 3, "class": "its", "auth": "its", "proof": "bbm92", "epsilon": 1e-12}
            await sink.store([Item(str(uuid.uuid4()), Secret(os.urandom(64)), about)])
            assert await watched(made, "alice", tmp_path / "keys").look() == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another"},
        {"id": "no uuid"},
        {"link": "c-d"},
        {"index": -1},
        {"index": "1"},
        {"class": "pqc"},
        {"value": "!!"},
        {"value": ""},
        {"epsilon": 2},
        b"no json",
        b"[]",
        b"",
        "open",
        "link",
    ],
)
def test_a_file_that_is_refused_stays_for_a_person(tmp_path: Path, changes: Any) -> None:
    async def main() -> None:
        async with world(tmp_path / "w") as made:
            document: Any = GOOD | {"id": str(uuid.uuid4()), "value": base64.b64encode(bytes(32)).decode()}
            if isinstance(changes, dict):
                document |= changes
            elif isinstance(changes, bytes):
                document = changes
            folder = tmp_path / "in"
            path = write(folder, document, mode=0o644 if changes == "open" else 0o600)
            if changes == "link":
                path.rename(folder / "elsewhere")
                path.symlink_to(folder / "elsewhere")
            watch = watched(made, "alice", folder)
            assert await watch.look() == 0
            assert (await made.pools())["alice"] == {}
            assert {p.name for p in folder.iterdir()} - {"elsewhere"} == {"k.json.refused"}
            assert await watch.look() == 0
            assert made.meters["alice"].total("qkdd_kms_source_files_total", result="refused") == 1

    asyncio.run(main())


def test_a_full_pool_keeps_the_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path / "w", pool_bytes=100) as made:
            await made.feed(0, 96)
            await made.sync()
            write(tmp_path / "in", GOOD | {"id": str(uuid.uuid4()), "value": base64.b64encode(bytes(64)).decode()})
            watch = watched(made, "alice", tmp_path / "in")
            assert await watch.look() == 0
            assert [p.name for p in (tmp_path / "in").iterdir()] == ["k.json"]
            await made.draw("alice", 3)
            assert await watch.look() == 1

    asyncio.run(main())


def test_the_same_id_with_other_facts_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path / "w") as made:
            document = GOOD | {"id": str(uuid.uuid4()), "value": base64.b64encode(bytes(64)).decode()}
            watch = watched(made, "alice", tmp_path / "in")
            write(tmp_path / "in", document)
            assert await watch.look() == 1
            write(tmp_path / "in", document)
            assert await watch.look() == 1  # once more, after a crash before the erasure
            write(tmp_path / "in", document | {"index": 7})
            assert await watch.look() == 0

    asyncio.run(main())
