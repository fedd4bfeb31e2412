"""Order of events: start, feed, draw and break, mend, fetch the rest, compare the books."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from qkdd_hil.campaign.draws import Book, Pair
from qkdd_hil.campaign.faults import Faults, check
from qkdd_hil.campaign.sites import SITES, CampaignFailed, Options, Sites
from qkdd_hil.campaign.source import KEY_BYTES, Source

START = 60.0  # s until the first key
STALL = 90.0  # s without any key, faults or not
SETTLE = 120.0  # s after the last fault until all slaves have all keys, and then until both stores tell the same
_LOOK = 0.25
_AHEAD = 60_000  # keys that wait for masters
_FIRST_FEED = 20_000
_AHEAD_OF = 4  # the embedded store draws at most one key ahead for so many that were given out
_DRY = 10.0  # s without a key after which there may be none left in the pools


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a campaign; `good` says whether every promise was kept."""

    keys_drawn: int
    keys_fetched: int
    duplicates: int
    mismatches: int
    lost: int
    strangers: int
    refused: dict[str, int]
    disagreements: list[str]
    keys_made: int
    keys_unanswered: int  # given out in an answer that never came: gone, as the standard has it
    keys_left: int
    pairs: int
    replicas: int
    store: str
    seed: int
    faults: dict[str, int]
    starts: dict[str, int]
    ended_by_itself: dict[str, int]
    answers: dict[str, int]
    seconds: float
    keys_per_s: float

    @property
    def good(self) -> bool:
        broken = self.duplicates or self.mismatches or self.lost or self.strangers or self.refused
        return not broken and not self.disagreements and self.keys_drawn > 0

    @property
    def verdict(self) -> str:
        return (
            f"{self.keys_drawn:,} keys drawn, {self.duplicates} duplicates, {self.mismatches} mismatches, "
            f"{self.lost} lost after acknowledgement, {sum(self.faults.values())} faults: "
            f"{'good' if self.good else 'FAILED'}"
        )


Progress = Callable[[int, int, int], None]  # keys drawn, keys fetched, faults


def _silent(_drawn: int, _fetched: int, _faults: int) -> None:
    """Nobody looks."""


class Campaign:
    """`await run()`. Raises CampaignFailed when something does not start, stalls or does not heal; then the logs stay."""

    def __init__(self, options: Options, progress: Progress = _silent, *, faults: bool = True) -> None:
        self._options, self._progress, self._with_faults = options, progress, faults
        self._folder = Path()

    async def run(self) -> Report:
        options = self._options
        if options.directory is not None:
            self._folder = options.directory.resolve()
            self._folder.mkdir(parents=True)
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="qkdd-once-"))
        keep = True
        try:
            report = await self._in_folder()
            keep = not report.good
            return report
        except CampaignFailed as error:
            raise CampaignFailed(f"{error}; logs in {self._folder}/logs") from error
        finally:
            if not keep and options.directory is None:
                await asyncio.to_thread(shutil.rmtree, self._folder)

    async def _in_folder(self) -> Report:
        options = self._options
        async with Sites(options, self._folder) as sites:
            source = Source(sites, self._folder / "nodes", options.seed)
            await source.open()
            faults = Faults(sites, options.seed)
            book = Book(source)
            pairs = [Pair(sites, book, ends, options.keys, options.seed + n) for n, ends in enumerate(sites.pairs)]
            tasks: list[asyncio.Task[None]] = []
            try:
                await source.feed(min(_FIRST_FEED, options.keys))
                tasks = [asyncio.create_task(pair.run()) for pair in pairs]
                await self._watch(lambda: book.drawn > 0, START, book, source, faults, tasks)
                began = time.monotonic()
                breaking = asyncio.create_task(faults.run()) if self._with_faults else None
                await self._watch(lambda: book.drawn >= options.keys, STALL, book, source, faults, tasks)
                seconds = time.monotonic() - began
                if breaking is not None:
                    breaking.cancel()
                await faults.end()
                await asyncio.wait_for(asyncio.gather(*tasks), SETTLE)
                disagreements = await self._settled(sites, source)
            except TimeoutError:
                waiting = sum(len(ids) for pair in pairs for ids in pair.outstanding)
                raise CampaignFailed(f"after {SETTLE:.0f} s slaves still wait for {waiting} keys") from None
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await source.close()
            left = sum(_pools(sites, "alice").values()) // KEY_BYTES
            self._progress(book.drawn, book.fetched, sum(faults.counts.values()))
            return Report(
                keys_drawn=book.drawn,
                keys_fetched=book.fetched,
                duplicates=book.duplicates,
                mismatches=book.mismatches,
                lost=book.lost,
                strangers=book.strangers,
                refused=dict(book.refused),
                disagreements=[*disagreements, *_unexplained(source.made, book, left, options.store)],
                keys_made=source.made,
                keys_unanswered=source.made - left - book.drawn,
                keys_left=left,
                pairs=options.pairs,
                replicas=options.replicas,
                store=options.store,
                seed=options.seed,
                faults=dict(sorted(faults.counts.items())),
                starts={r.name: r.starts for r in sites.replicas.values()},
                ended_by_itself=dict(
                    Counter(line.splitlines()[-1] for r in sites.replicas.values() for line in r.ended)
                ),
                answers=dict(sorted(book.answers.items())),
                seconds=round(seconds, 1),
                keys_per_s=round(book.drawn / seconds, 1),
            )

    async def _watch(
        self,
        done: Callable[[], bool],
        patience: float,
        book: Book,
        source: Source,
        faults: Faults,
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """Feed what is needed until `done`. Raises CampaignFailed after `patience` without a key."""
        before, since = (book.drawn, book.fetched), time.monotonic()
        while not done():
            await asyncio.sleep(_LOOK)
            check(source.failure(), faults.failure(), *(t.exception() for t in tasks if t.done()))
            self._progress(book.drawn, book.fetched, sum(faults.counts.values()))
            now = (book.drawn, book.fetched)
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                raise CampaignFailed(f"no key for {patience:.0f} s")
            gone = min(book.maybe, book.drawn // 4)  # most requests that get no answer never drew anything
            missing = min(_AHEAD, self._options.keys) - (source.made - book.drawn - gone)
            if time.monotonic() - since > _DRY:
                missing = _FIRST_FEED
            if missing > 0:
                await source.feed(missing)

    async def _settled(self, sites: Sites, source: Source) -> list[str]:
        """Once everything is handed over and every abandoned draw is voided both stores must count alike; what differs."""
        end = time.monotonic() + SETTLE
        while True:
            found = [] if await source.handed_over() else ["key is still with the nodes"]
            found += await asyncio.to_thread(_compare, sites)
            if not found or time.monotonic() > end:
                return found
            await asyncio.sleep(1.0)


def _query(sites: Sites, site: str, query: str) -> list[tuple[str, int]]:
    return [(str(name), int(number)) for name, number in sites.query(site, query)]


def _pools(sites: Sites, site: str) -> dict[str, int]:
    return dict(_query(sites, site, "SELECT owner, bytes FROM pools"))


def _owners(sites: Sites, site: str) -> list[tuple[str, str]]:
    rows = sites.query(site, "SELECT chunk_id, owner FROM chunks WHERE state = 'live'")
    return [(str(chunk), str(owner)) for chunk, owner in rows]


def _compare(sites: Sites) -> list[str]:
    """What the two sites' databases tell differently, and what is still under way in one of them."""
    found = []
    chunks = "SELECT chunk_id, bytes FROM chunks"
    alice, bob = ({*_query(sites, site, chunks)} for site in SITES)
    if alice != bob:
        found.append(f"{len(alice ^ bob)} chunks are not at both sites")
    pools = [_pools(sites, site) for site in SITES]
    if pools[0] != pools[1]:  # a grant that was not heard is nobody's until it is asked for again
        found.append(f"pools: alice counts {pools[0]}, bob {pools[1]}")
    owners = [dict(_owners(sites, site)) for site in SITES]
    both = [c for c in owners[0] if owners[0][c] == "kms-alice" and owners[1].get(c) == "kms-bob"]
    if both:
        found.append(f"{len(both)} chunks that both sites draw from")
    for site in SITES:
        open_ = "SELECT state, count(*) FROM allocations WHERE state IN ('reserved', 'voiding') GROUP BY state"
        found += [f"{site}: {count} draws {state}" for state, count in _query(sites, site, open_)]
        waiting = "SELECT state, count(*) FROM chunks WHERE state = 'waiting' GROUP BY state"
        found += [f"{site}: {count} chunks {state}" for state, count in _query(sites, site, waiting)]
    return found


def _unexplained(made: int, book: Book, left: int, store: str) -> list[str]:
    """Key that is neither in the pools nor with an application nor in an answer that was lost, nor drawn ahead for nobody."""
    gone = made - left - book.drawn
    most = book.maybe + (book.drawn // _AHEAD_OF if store == "sqlite" else 0)
    if not 0 <= gone <= most:
        return [f"{gone} keys are nowhere; at most {most} can be in answers that never came or drawn ahead for nobody"]
    return []
