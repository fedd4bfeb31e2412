"""The whole pipeline: sifted bits in, committed key out; alice and bob as two processes over loopback TLS.

`qkdd bench pipeline [--json] [--seconds N] [--links N] [--rtt MS] [--one-node ROLE] [--unpinned]`. Real
certificates and TLS profile, real seals, two-phase commits to the spool (SQLite, synchronous), epsilon ledger. What is not in
it: detectors, clocks and sifting before, the hand-over to the KMS behind. Key is counted once, and at most half of the sifted
bits of a block, so that figures of different leaks compare (secret fraction 0.5); what the plan really gives stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qkdd.bench.node import Result, Task
from qkdd.bench.rows import Row, row, show
from qkdd.peer.pki_demo import DemoPki, demo_pki

ROLES = ("alice", "bob")
MUST, MUST_ONE_NODE, PYTHON_MUST = 45.0, 90.0, 0.05
QBER = 0.015


def run_pair(task: Task, pki: DemoPki, directory: Path, cores: dict[str, list[int]]) -> dict[str, Result]:
    """Both nodes' results. Raises RuntimeError with a node's last words if it fails."""
    children: dict[str, subprocess.Popen[str]] = {}
    try:
        opened = None
        for role in ROLES:
            paths = pki.post_quantum[role]
            state = directory / role
            state.mkdir()
            files = {name: str(getattr(paths, name)) for name in ("certificate", "key", "trust", "crl")}
            files |= {"master": str(pki.master_keys[role]), "state": str(state)}
            child = subprocess.Popen(
                [sys.executable, "-m", "qkdd.bench.node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            children[role] = child
            own = msgspec.structs.replace(task, role=role, files=files, cores=cores.get(role, []))
            _tell(child, msgspec.json.encode(own).decode())
            if opened is None:
                opened = _hear(role, child)
            else:
                _tell(child, opened)
        return {role: msgspec.json.decode(_hear(role, child), type=Result) for role, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()  # reaps it and closes the pipes


def _tell(child: subprocess.Popen[str], line: str) -> None:
    if child.stdin is not None:
        child.stdin.write(line.rstrip("\n") + "\n")
        child.stdin.flush()


def _hear(role: str, child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        raise RuntimeError(f"{role} ended without a result; what it said stands above")
    return line


def rows(results: dict[str, Result], task: Task, one_node: str | None) -> Iterator[Row]:
    links = results["alice"].links
    wall = max(result.wall for result in results.values())
    secret, counted, sifted = (sum(getattr(link, name) for link in links) for name in ("secret", "counted", "sifted"))
    blocks = sum(link.blocks for link in links)
    method = links[0].method or task.reconciler
    label = (
        f"pipeline, {method}, {task.links} link(s), blocks of {task.block} bits, {1e3 * 2 * task.delay:g} ms round trip"
    )
    must = MUST if one_node is None and task.links <= 2 and not task.delay else None
    yield row(f"{label}: secret, at fraction 0.5", counted / wall / 1e6, "Mbit/s", must)
    yield row(f"{label}: secret, by plan", secret / wall / 1e6, "Mbit/s")
    yield row(f"{label}: sifted", sifted / wall / 1e6, "Mbit/s")
    if one_node is not None:
        stub = results["bob" if one_node == "alice" else "alice"]
        cores = os.cpu_count() or 1
        own = wall - (stub.split.cpu + stub.split.measuring) / cores
        yield row(
            f"{label}: {one_node} alone on {cores} cores, without the stub's {stub.split.cpu:.2f} s CPU",
            counted / own / 1e6,
            "Mbit/s",
            MUST_ONE_NODE,
        )
    for role, result in results.items():
        split = result.split
        yield row(f"{label}: {role} CPU time / wall time", (split.cpu + split.measuring) / result.wall, "cores")
        yield row(f"{label}: {role} measuring, over the CPU time of all else", split.measuring / split.cpu, "")
        yield row(f"{label}: {role} secret per CPU second", counted / split.cpu / 1e6, "Mbit/s")
        yield row(
            f"{label}: {role} 1 - kernel time / CPU time", 1 - split.kernel / split.cpu, "", PYTHON_MUST, below=True
        )
        for name, share in split.shares().items():
            yield row(f"{label}: {role} share of CPU time, {name}", share, "")
        yield row(f"{label}: {role} random numbers, part of the system's share", split.random / split.cpu, "")
        yield row(f"{label}: {role} page faults a block", split.faults / max(1, blocks), "")
        yield row(f"{label}: {role} memory at most", result.memory / 1e3, "MB")
        for name, spent in sorted(result.kernels.items(), key=lambda item: -item[1]):
            if spent > 0.005 * split.cpu:
                yield row(f"{label}: {role} {name}", 1e9 * spent / sifted, "ns a sifted bit")


def main() -> None:
    parser = argparse.ArgumentParser(prog="qkdd bench pipeline", description="Sifted bits in, committed key out.")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time (default 10)")
    parser.add_argument("--links", type=int, default=1, help="links of the two nodes at once (default 1)")
    parser.add_argument("--rtt", type=float, default=0.0, metavar="MS", help="round trip that is simulated (default 0)")
    parser.add_argument("--block", type=int, default=1 << 26, help="sifted bits of a block (default 2^26)")
    parser.add_argument("--reconciler", choices=("auto", "ldpc", "cascade"), default="auto", help="default: auto")
    parser.add_argument("--unpinned", action="store_true", help="both nodes run on any core (default: a core each)")
    parser.add_argument("--one-node", choices=ROLES, help="count only this node; the other one is a stub")
    parser.add_argument("--directory", help="where the stores are made (default: the system's temporary folder)")
    arguments = parser.parse_args()
    task = Task(
        role="",
        files={},
        links=arguments.links,
        block=arguments.block,
        seconds=arguments.seconds,
        qber=QBER,
        delay=arguments.rtt / 2e3,
        reconciler=arguments.reconciler,
        cores=[],
    )
    cores: dict[str, list[int]] = {}
    if arguments.one_node is None and not arguments.unpinned and len(os.sched_getaffinity(0)) >= 2:
        first, second, *_ = sorted(os.sched_getaffinity(0))
        cores = {"alice": [first], "bob": [second]}
    with tempfile.TemporaryDirectory(prefix="qkdd-bench-", dir=arguments.directory) as name:
        directory = Path(name)
        pki = demo_pki(directory / "pki")
        results = run_pair(task, pki, directory, cores)
    show(rows(results, task, arguments.one_node), as_json=arguments.json)
    if not arguments.json:
        print(json.dumps([msgspec.to_builtins(link) for link in results["bob"].links]))


if __name__ == "__main__":
    main()
