"""Runs inside the machine, apart from the package under test: the virtual bench, the configurations of two nodes and two KMSs,
and applications that draw keys in both directions until they are told to stop. `python rig.py FOLDER`.

FOLDER gets `ready` when the configurations are written, `progress.json` all the time; `stop` in it ends the drawing, and
`report.json` follows when every key that a master was given has reached its slave.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from qkdd_hil.crash.draws import Direction, Ledger
from qkdd_hil.demo import toml
from qkdd_hil.demo.applications import pairs
from qkdd_hil.demo.layout import SIDES, Layout
from qkdd_hil.demo.options import Options

HELD_BACK = 3  # keys that are drawn early and fetched in the end


def own(path: Path, user: str) -> None:
    shutil.chown(path, user, user)


def place(layout: Layout, addresses: dict[str, Any], options: Options) -> None:
    """The demonstration's configurations, with the paths of the packaged units."""
    for side in SIDES:
        node = tomllib.loads(layout.write_node(side, addresses[side], options).read_text())
        node["node"]["state_directory"] = f"/var/lib/qkdd/{side}"
        node["node"]["master_key"] = "${CREDENTIALS_DIRECTORY}/master-key"
        node["control"] = {"socket": f"/run/qkdd/{side}.sock", "admin_group": "qkd-admin", "view_group": "qkd-view"}
        Path(f"/etc/qkdd/{side}.toml").write_text(toml.dumps(node))
        shutil.copy(layout.pki.master_keys[side], f"/etc/qkdd/{side}.master-key")
        kms = tomllib.loads(layout.write_kms(side, options).read_text())
        kms["kms"]["state_directory"] = f"/var/lib/qkdd-kms/{side}"
        kms["kms"]["master_key"] = "${CREDENTIALS_DIRECTORY}/master-key"
        Path(f"/etc/qkdd-kms/{side}.toml").write_text(toml.dumps(kms))
        shutil.copy(layout.pki.master_keys[f"kms-{side}"], f"/etc/qkdd-kms/{side}.master-key")
        own(layout.pki.post_quantum[side].key, "qkd")
        for credentials in (layout.pki.post_quantum, layout.pki.classical):
            own(credentials[f"kms-{side}"].key, "qkd-kms")
    for path in layout.folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
        elif path.suffix != ".key" and "master" not in path.name:
            path.chmod(0o644)
    layout.folder.chmod(0o755)


def say(path: Path, ledger: Ledger, **more: object) -> None:
    fields = {
        "drawn": len(ledger.masters), "delivered": ledger.delivered, "differing": ledger.differing,
        "twice": ledger.twice, "lost": ledger.lost, "refused": dict(ledger.refused), **more,
    }  # fmt: skip
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(fields))
    partial.rename(path)


async def main(folder: Path) -> None:
    options = Options(block="2 s", redelivery_window="120 s", directory=folder / "site", live=False)
    layout = Layout.make(options)
    layout.sockets = folder / "bench"
    layout.sockets.mkdir()
    own(layout.sockets, "qkd")
    file = layout.write_bench(options)
    layout.folder.chmod(0o755)
    file.chmod(0o644)
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qkdd_hil.bench", "--config", str(file), stdout=asyncio.subprocess.PIPE,
        user="qkd", group="qkd",
    )  # fmt: skip
    assert bench.stdout is not None
    place(layout, json.loads(await bench.stdout.readline()), options)
    ledger = Ledger()
    classical, post_quantum = pairs(layout.ports, layout.pki.classical, layout.pki.post_quantum)
    directions = [
        Direction(ledger, classical.alice, classical.bob), Direction(ledger, post_quantum.bob, post_quantum.alice),
    ]  # fmt: skip
    (folder / "ready").write_text("")
    tasks = [asyncio.create_task(direction.run()) for direction in directions]
    back: set[str] = set()
    while not (folder / "stop").exists():
        for task in tasks:
            if task.done():
                task.result()
        if not back and len(directions[0].outstanding) >= HELD_BACK:
            back = set(directions[0].outstanding)
            directions[0].outstanding -= back
        say(folder / "progress.json", ledger, held_back=len(back))
        await asyncio.sleep(0.1)
    for direction in directions:
        direction.drawing = False
    directions[0].outstanding |= back - set(ledger.slaves)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    say(folder / "report.json", ledger, held_back=len(back))
    bench.terminate()
    await bench.wait()


if __name__ == "__main__":
    os.umask(0o022)
    asyncio.run(main(Path(sys.argv[1])))
