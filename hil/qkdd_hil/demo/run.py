"""The order of events of a demonstration, and what it amounts to."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from qkdd_hil.demo.applications import DeliveryFailed, Pair, pairs
from qkdd_hil.demo.children import ChildEnded, Children
from qkdd_hil.demo.display import Display
from qkdd_hil.demo.figures import Cable, Delivery, Figures, summarize, with_outlook
from qkdd_hil.demo.intensities import IntensityWatch
from qkdd_hil.demo.layout import SIDES, Layout
from qkdd_hil.demo.options import FIRST_KEY_DEADLINE, REFUSALS_THAT_END, Options
from qkdd_hil.demo.variants import Outlook, choose
from qkdd_hil.demo.watch import NodeWatch, finished_blocks

BENCH_READY = 15.0  # s
KEY_PERIOD = 1.0  # s between two keys that the applications ask for with --seconds and --hold
TICK = 0.25  # s


class DemoFailed(Exception):
    """What was promised did not come; the text says what and where to look."""


class Demo:
    """One run."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._nodes: list[NodeWatch] = []
        self._deliveries: list[Delivery] = []
        self._first_key: float | None = None
        self._started = 0.0
        self._variant = choose(options)
        self._outlook = self._variant.outlook()
        self._intensities = IntensityWatch("")
        self._forbidden, self._promised = self._outlook.forbidden, self._outlook.promised

    async def run(self) -> Figures:
        """Everything from the PKI to the last process's end. Raises DemoFailed or ChildEnded.

        SIGINT and SIGTERM end the run in order: early if what was promised has been shown, else as a failure.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, asyncio.current_task())
        layout = await asyncio.to_thread(Layout.make, self._options)
        complete = False
        try:
            self._intensities = IntensityWatch(f"http://127.0.0.1:{layout.ports['metrics-alice']}/metrics")
            self._nodes = [NodeWatch(side, layout.control_socket(side), self._event) for side in SIDES]
            self._display = Display(self._nodes, live=self._options.live, rows=self._rows)
            try:
                with self._display:
                    self._display.say(f"run folder {layout.folder}, logs in {layout.logs}")
                    async with Children(layout.logs) as children:
                        await self._start(children, layout)
                        await self._watched(children, self._go_on(layout))
            finally:
                figures = self._write_figures()
            self._judge(figures, layout)
            complete = True
            return figures
        finally:
            layout.remove(keep_logs=not complete)

    def _rows(self) -> list[tuple[str, str]]:
        """Gain and error of each intensity, as far as blocks were counted."""
        decoy = self._variant.decoy(self._outlook, self._intensities.samples[-1:])
        return [
            (f"mu {one.mu:g}", f"gain {one.gain:.3e}, error in X {one.qber_x:.2%}")
            for one in (decoy.intensities if decoy else ())
            if one.gain is not None and one.qber_x is not None
        ]

    def _interrupt(self, task: asyncio.Task[Any] | None) -> None:
        if self._started and self._settled():
            self._stop.set()
        elif task is not None:
            task.cancel()

    def _event(self, node: str, event: dict[str, Any]) -> None:
        self._display.event(node, event)

    async def _start(self, children: Children, layout: Layout) -> None:
        options = self._options
        say = self._display.say
        bench_file = layout.write_bench(options)
        bench = await children.start(
            "bench", [sys.executable, "-m", "qkdd_hil.bench", "--config", bench_file], piped=True
        )
        if bench.process.stdout is None:
            raise DemoFailed("the bench has no output")
        try:
            line = await asyncio.wait_for(bench.process.stdout.readline(), BENCH_READY)
            addresses = json.loads(line)
        except (TimeoutError, ValueError):
            raise DemoFailed(f"the bench did not start; {bench.log} ends:\n{bench.tail()}") from None
        say(_expectation(self._outlook))
        say("bench: " + ", ".join(_where(s, k, a) for s in SIDES for k, a in addresses.get(s, {}).items()))
        for side in SIDES:
            await children.start(f"kms-{side}", [_script("qkdd-kms"), "run", layout.write_kms(side, options)])
        self._started = time.monotonic()
        for side in SIDES:
            file = layout.write_node(side, addresses[side], options)
            await children.start(side, [_script("qkdd"), "run", file])

    async def _watched(self, children: Children, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` while the nodes are followed, until it is done, a child ends, or we are asked to stop."""
        job = asyncio.create_task(work)
        ended = asyncio.create_task(children.any_ended())
        helpers = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._draw())]
        helpers += [asyncio.create_task(node.follow()) for node in self._nodes]
        if self._options.protocol == "decoy_bb84":
            helpers.append(asyncio.create_task(self._intensities.follow()))
        tasks: list[asyncio.Task[Any]] = [job, ended, *helpers]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not job.done():
                raise ended.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self) -> None:
        while True:
            self._display.refresh()
            await asyncio.sleep(TICK)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _settled(self) -> bool:
        """Whether what was promised has been shown."""
        return bool(self._deliveries) or not self._promised

    async def _go_on(self, layout: Layout) -> None:
        """Fetch keys until the run is over."""
        both = pairs(layout.ports, layout.pki.classical, layout.pki.post_quantum)
        first_round = list(both)
        next_key = 0.0
        while not self._over(first_round):
            await asyncio.sleep(TICK)
            if self._elapsed() < next_key:
                continue
            pair = first_round[0] if first_round else both[len(self._deliveries) % len(both)]
            if await self._fetch(pair):
                if pair in first_round:
                    first_round.remove(pair)
                if not first_round:
                    next_key = self._elapsed() + KEY_PERIOD
                    if len(self._deliveries) == len(both):
                        self._say_hold(both)

    def _over(self, first_round: list[Pair]) -> bool:
        options = self._options
        if options.seconds is not None and self._elapsed() >= options.seconds:
            return True
        if options.hold and not self._forbidden:
            return self._late()
        if self._forbidden:
            return self._refused() >= REFUSALS_THAT_END or self._late()
        if options.seconds is not None:
            return False
        if not self._promised and self._refused() >= REFUSALS_THAT_END:
            return True
        enough = self._accepted() >= self._outlook.blocks or self._elapsed() > FIRST_KEY_DEADLINE
        return (not first_round and enough) or self._late()

    def _late(self) -> bool:
        waited = self._options.seconds is None and self._elapsed() > FIRST_KEY_DEADLINE
        return waited and not self._deliveries

    def _refused(self) -> int:
        return sum(not block.accepted for block in finished_blocks(*self._nodes))

    def _accepted(self) -> int:
        return sum(block.accepted for block in finished_blocks(*self._nodes))

    async def _fetch(self, pair: Pair) -> bool:
        try:
            delivery = await pair.fetch()
        except (aiohttp.ClientConnectionError, TimeoutError):
            return False  # the KMS is not up yet, or just restarting; `any_ended` sees the one that is gone
        except DeliveryFailed as error:
            raise DemoFailed(str(error)) from None
        if delivery is None:
            return False
        self._deliveries.append(delivery)
        self._display.delivered(delivery)
        if not delivery.equal:
            raise DemoFailed(f"key {delivery.key_id} differs: {delivery.fingerprint_alice} {delivery.fingerprint_bob}")
        if self._first_key is None:
            self._first_key = self._elapsed()
        if len(self._deliveries) <= 2:
            self._display.say(f"alice's application, {pair.listener} TLS: SHA-256 {delivery.fingerprint_alice}")
            self._display.say(f"bob's application,   {pair.listener} TLS: SHA-256 {delivery.fingerprint_bob}")
        return True

    def _say_hold(self, both: tuple[Pair, ...]) -> None:
        if not self._options.hold:
            return
        for pair in both:
            for mine, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
                self._display.say(
                    f"{pair.listener:<12} {mine.sae_id}: {mine.base_url}  certificate {mine.credential.certificate}"
                )
                if mine.classical:
                    self._display.say(f"             {mine.curl(other.sae_id)}")
        self._display.say("holding; Ctrl-C ends")

    def _write_figures(self) -> Figures:
        chsh = next((n.link["chsh_s_inferred"] for n in self._nodes if n.link.get("chsh_s_inferred") is not None), None)
        blocks = finished_blocks(*self._nodes)
        figures = summarize(blocks, self._deliveries, chsh, self._first_key)
        decoy = self._variant.decoy(self._outlook, self._intensities.samples)
        if decoy is not None:
            seen = self._intensities.cable
            cable = Cable(
                symbols=self._options.symbols,
                asked=seen.asked,
                lost=seen.lost,
                bytes_to_board=seen.sent,
                bytes_from_board=seen.received,
                margin_s=seen.margin,
            )
            decoy = msgspec.structs.replace(decoy, cable=cable)
        figures = with_outlook(figures, self._outlook, decoy)
        if self._options.json is not None:
            self._options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
        return figures

    def _judge(self, figures: Figures, layout: Layout) -> None:
        """Refuse to call a run good that was not."""
        where = f"logs in {layout.logs}"
        if self._forbidden:
            if figures.keys_delivered or figures.blocks_accepted:
                raise DemoFailed(f"key was accepted on a line where none may be ({figures}); {where}")
            if not figures.blocks_refused:
                raise DemoFailed(f"no block was finished, so nothing was refused; {where}")
        elif self._promised and not (figures.keys_delivered and figures.keys_equal):
            missing = f"no key within {self._elapsed():.0f} s"
            state = ", ".join(
                f"{n.name} {n.status.get('state', 'not up')}/{n.link.get('state', '-')}" for n in self._nodes
            )
            raise DemoFailed(
                f"{missing}: {figures.blocks_accepted} blocks accepted, {figures.blocks_refused} refused"
                f" ({figures.reason or 'no code'}); {state}; {where}"
            )


def _expectation(outlook: Outlook) -> str:
    """What the closed forms say, for the terminal."""
    if outlook.words:
        return f"expected: {outlook.words}"
    parts = [f"expected: error rate {outlook.qber:.2%}"]
    if outlook.forbidden:
        parts.append("no key may come")
    elif outlook.secret_bits_per_s is not None:
        label = f" ({outlook.label})" if outlook.label else ""
        parts.append(f"{outlook.secret_bits_per_s:,.0f} secret bit/s by {outlook.proof}{label}")
    return ", ".join(parts)


def _where(side: str, kind: str, address: dict[str, Any]) -> str:
    place = address.get("port") or f"{address['host']}:{'/'.join(map(str, address['tcp_ports']))}"
    return f"{side} {kind} {place}"


def _script(name: str) -> Path:
    """A console script of this installation."""
    return Path(sys.executable).parent / name


async def guarded(work: Awaitable[Figures]) -> tuple[int, Figures | None, str]:
    """(exit status, figures, what went wrong)."""
    try:
        return 0, await work, ""
    except (DemoFailed, ChildEnded, FileExistsError) as error:
        return 1, None, str(error)
    except asyncio.CancelledError:
        return 130, None, "interrupted before a key was there"
