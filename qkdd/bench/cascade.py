"""Cascade over a long line: `qkdd bench cascade [--rtt MS]`. Both roles on one core, many lanes of frames at once.

A lane is one `kernels.CascadeBlock` of each node, as `qkdd.distill.cascade` uses it; when its block is finished the next begins.
Both nodes send their parities of a round at the same time, so a round costs half a round trip: a lane's next step may not begin
before that. While one lane's messages are on their way the others are worked on. The figure is taken while all lanes are busy:
parities a second over the parities that a bit takes. Sockets, TLS and seals are in `qkdd bench pipeline --rtt`.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Iterator

import numpy as np

from qkdd import kernels
from qkdd.bench.rows import Row, row, show
from qkdd.distill.cascade import FRAME_BITS, IN_FLIGHT_MOST, LANES_MOST

_RAMP = 0.4  # share of the time that is not counted, while the lanes come out of step


class Lane:
    """Two nodes that correct block after block."""

    def __init__(self, number: int, frames: int, in_flight: int, error: float) -> None:
        self.n, self.error, self.in_flight = frames * FRAME_BITS, error, in_flight
        rng = np.random.default_rng(number)
        key = np.frombuffer(rng.bytes(self.n // 8), np.uint8)
        noise = np.packbits(rng.random(self.n, dtype=np.float32) < error)
        self._keys = key.tobytes(), (key ^ noise).tobytes()
        self.blocks = self.parities = self.rounds = self.most_rounds = 0
        self._said: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        self._ends = [
            kernels.CascadeBlock(
                packed,
                self.n,
                self.blocks.to_bytes(32, "big"),
                error_rate=self.error,
                frame_bits=FRAME_BITS,
                in_flight=self.in_flight,
                correct=index == 1,
            )
            for index, packed in enumerate(self._keys)
        ]
        self._said = [b"", b""]
        self.rounds = 0

    def step(self) -> int:
        """One round of both nodes, and the next block after the last round; how many parities alice said."""
        self._said = [end.step(heard) for end, heard in zip(self._ends, reversed(self._said), strict=True)]
        asked = self._ends[0].asked
        self.rounds += 1
        if asked:
            return asked
        if bytes(self._ends[1].close()[0]) != self._keys[0]:
            raise RuntimeError("a block was left with an error")
        self._ends[0].wipe()
        self.blocks += 1
        self.most_rounds = max(self.most_rounds, self.rounds)
        self._begin()
        return self.step()


def throughput(lanes: list[Lane], seconds: float, way: float) -> float:
    """Mbit/s of key, both roles on this core; `way` seconds pass between a round and the next of its lane."""
    start = time.monotonic()
    begin, end = start + _RAMP * seconds, start + seconds
    due = [(start, index) for index in range(len(lanes))]
    inside = everything = 0
    while (now := time.monotonic()) < end:
        moment, index = due[0]
        if moment > now:
            time.sleep(moment - now)
            continue
        asked = lanes[index].step()
        everything += asked
        if begin < now:
            inside += asked
        heapq.heapreplace(due, (time.monotonic() + way, index))
    done = sum(lane.blocks for lane in lanes) * lanes[0].n
    if not done:
        raise RuntimeError("no block was finished; give the run more --seconds or fewer --frames")
    share = _parities_a_bit(lanes[0])
    return inside / share / (end - begin) / 1e6


def _parities_a_bit(lane: Lane) -> float:
    """Of one more block, from its first round to its last."""
    asked = lane.step()
    while lane.rounds > 1:  # up to the first round of a block
        asked = lane.step()
    total, blocks = 0, lane.blocks
    while lane.blocks == blocks:
        total += asked
        asked = lane.step()
    return total / lane.n


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    lanes, flight, error = arguments.lanes, arguments.in_flight, arguments.error
    label = f"Cascade, {error:.1%}, {lanes} lanes of {flight} frames in flight"
    made = [Lane(i, arguments.frames, flight, error) for i in range(lanes)]
    near = throughput(made, arguments.seconds, 0.0)
    yield row(f"{label}, no round trip, both roles on one core", near, "Mbit/s", 100.0 if error == 0.02 else None)
    if arguments.rtt:
        far = throughput(made, arguments.seconds, arguments.rtt / 2e3)
        way = f"{arguments.rtt:g} ms round trip"
        yield row(f"{label}, {way}, both roles on one core", far, "Mbit/s", reference=near)
        yield row(f"{label}, {way} / none", far / near, "times", 0.9)
    yield row(f"{label}: rounds of a block at most", max(lane.most_rounds for lane in made), "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="qkdd bench cascade", description="Cascade over a long line.")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--rtt", type=float, default=10.0, metavar="MS", help="round trip (default 10)")
    flight = IN_FLIGHT_MOST // LANES_MOST
    parser.add_argument(
        "--lanes",
        type=int,
        default=LANES_MOST,
        help=f"at the same time (default {LANES_MOST}, as a node on a long line)",
    )
    parser.add_argument("--in-flight", type=int, default=flight, help=f"frames in flight of each (default {flight})")
    parser.add_argument("--frames", type=int, default=768, help="frames of 102,400 bits a block (default 768)")
    parser.add_argument("--error", type=float, default=0.02, help="error rate (default 0.02)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run (default 15)")
    arguments = parser.parse_args()
    show(rows(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
