"""The exactly-once campaign in short, and what its book and its lines are worth."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from qkdd_hil.campaign.draws import Book, _Key
from qkdd_hil.campaign.lines import Cut, Line
from qkdd_hil.campaign.run import Campaign
from qkdd_hil.campaign.sites import Options
from qkdd_hil.postgres import NoServer, programs


class Made:
    """A source of which a key is its own place."""

    def place(self, key: bytes) -> int | None:
        return int.from_bytes(key, "big") if len(key) == 32 and key[0] == 0 else None


def key(number: int, place: int) -> _Key:
    text = hashlib.sha256(b"%d" % number).hexdigest()[:32]
    return _Key(
        f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}",
        base64.b64encode(place.to_bytes(32, "big")).decode(),
    )


def test_the_book_sees_every_kind_of_error() -> None:
    book = Book(Made())  # type: ignore[arg-type]
    ids = book.draw([key(1, 10), key(2, 11), key(3, 12)])
    book.fetch(ids[:2], [key(1, 10), key(2, 11)])
    assert (book.drawn, book.fetched, book.lost) == (3, 2, 1)
    assert (book.duplicates, book.mismatches, book.strangers) == (0, 0, 0)
    book.draw([key(4, 11)])  # bits that another id has
    assert book.duplicates == 1
    book.draw([key(1, 13)])  # an id again
    assert book.duplicates == 2
    book.fetch(ids[2:], [key(3, 14)])  # another key than the master's
    assert book.mismatches == 1
    book.fetch(ids[2:], [key(2, 12)])  # another id than was asked for
    assert book.mismatches == 2
    book.draw([_Key(key(9, 0).key_ID, base64.b64encode(b"\x01" * 32).decode())])
    assert book.strangers == 1
    assert book.lost > 0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray) -> None:
    while data := await reader.read(100):
        heard.extend(data)
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("how", list(Cut))
def test_a_cut_line_does_what_its_name_says(how: Cut, unix: bool, tmp_path: Path) -> None:
    async def main() -> None:
        heard = bytearray()
        server = await asyncio.start_server(lambda r, w: _echo(r, w, heard), "127.0.0.1", 0)
        line = await Line([server.sockets[0].getsockname()], 1, tmp_path / "s" if unix else None).open()

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await (
                asyncio.open_unix_connection(tmp_path / "s") if unix else asyncio.open_connection(*line.address)
            )

        async def ask(reader: Any, writer: Any, data: bytes) -> bytes:
            writer.write(data)
            return await reader.readexactly(len(data))

        try:
            reader, writer = await connect()
            assert await ask(reader, writer, b"one") == b"one"
            cut = asyncio.create_task(line.cut(how, 0.3))
            await asyncio.sleep(0)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):  # at once, or when the cut is over
                await ask(reader, writer, b"two")
            await cut
            assert (b"two" in heard) == (how is Cut.ANSWERS_LOST)
            writer.close()
            reader, writer = await connect()
            assert await ask(reader, writer, b"three") == b"three"
            writer.close()
        finally:
            await line.close()
            server.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize(
    "options",
    [
        Options(keys=60_000, pairs=64, replicas=1, batch=128),
        Options(keys=40_000, pairs=8, replicas=1, batch=64, store="sqlite"),  # busy pairs: drawn ahead
    ],
    ids=["postgresql", "sqlite"],
)
def test_every_key_exactly_once_while_everything_breaks(options: Options) -> None:
    """Some ten thousand keys; the long form is `make campaign`."""
    if options.store == "postgresql":
        try:
            programs()
        except NoServer as error:
            pytest.skip(str(error))
    report = asyncio.run(Campaign(options).run())
    assert report.good, report
    assert sum(report.faults.values()) > 0, "nothing broke"
