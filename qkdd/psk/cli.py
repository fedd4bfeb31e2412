"""`qkd-psk wireguard FILE | strongswan FILE | run FILE | check-config FILE | status FILE`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qkdd.core import config as config_files
from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.core.errors import ConfigError, QkddError
from qkdd.core.notify import sd_notify
from qkdd.psk.agent import Status
from qkdd.psk.config import PskConfig
from qkdd.psk.service import STATUS_EVERY, PskService, status_file

app = typer.Typer(
    help="Keys of a KMS (ETSI GS QKD 014) as pre-shared keys of WireGuard and strongSwan, at both ends alike.",
    no_args_is_help=True,
)
File = Annotated[Path, typer.Argument(help="Configuration (TOML).", show_default=False)]
Once = Annotated[bool, typer.Option("--once", help="End after one change of the key.")]
Wait = Annotated[float, typer.Option(help="With --once: seconds to wait for it.", min=1.0)]
Level = Annotated[str, typer.Option(help="debug, info, warning, error")]

GOOD, NOT_ROTATED, BAD_CONFIG, TORN_DOWN, UNSETTLED, NOT_RUNNING = range(6)
_STALE = 5 * STATUS_EVERY


def _fail(error: QkddError) -> typer.Exit:
    typer.echo(str(error), err=True)
    if error.remedy:
        typer.echo(f"  remedy: {error.remedy}", err=True)
    return typer.Exit(BAD_CONFIG)


def _load(file: Path, section: str) -> PskConfig:
    config = config_files.load(file, PskConfig)
    if section and getattr(config, section) is None:
        raise ConfigError(f"{file}: there is no [{section}]", remedy="use the sub-command of the section that is there")
    return config


def _run(file: Path, section: str, once: bool, wait: float, level: str) -> None:
    log.configure(level, human=sys.stderr.isatty())
    try:
        code = asyncio.run(_serve(_load(file, section), wait if once else None))
    except QkddError as error:
        raise _fail(error) from None
    raise typer.Exit(code)


async def _serve(config: PskConfig, once: float | None) -> int:
    service = PskService(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    try:
        await service.start()
        where = f"{service.address[0]}:{service.address[1]}" if service.address is not None else config.partner.connect
        log.get("psk").info("ready", purpose=service.agent.status().purpose, role=service.agent.role, line=where)
        sd_notify("READY=1")
        work = asyncio.create_task(service.run())
        waits = [asyncio.create_task(stop.wait())]
        if once is not None:
            waits.append(asyncio.create_task(service.agent.rotated.wait()))
        try:
            await asyncio.wait([work, *waits], timeout=once, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work  # a defect
        finally:
            for task in (work, *waits):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(work, *waits)
    finally:
        sd_notify("STOPPING=1")
        await service.stop()
    if once is None or service.agent.rotated.is_set():
        return GOOD
    return TORN_DOWN if service.agent.status().torn_down else NOT_ROTATED


@app.command(epilog="Example: qkd-psk wireguard /etc/qkd-psk/wg0.toml")
def wireguard(file: File, once: Once = False, wait: Wait = 60.0, level: Level = "info") -> None:
    """Set and rotate the pre-shared key of one WireGuard peer; the same runs at the other end.

    With --once: exit code 0 the key changed, 1 it did not (the old one stays), 3 the tunnel is torn down.
    """
    _run(file, "wireguard", once, wait, level)


@app.command(epilog="Example: qkd-psk strongswan /etc/qkd-psk/site-b.toml")
def strongswan(file: File, once: Once = False, wait: Wait = 60.0, level: Level = "info") -> None:
    """Load and rotate post-quantum pre-shared keys (RFC 8784) of one connection over vici; the same runs at the other end.

    With --once: exit code 0 the key changed, 1 it did not (the old one stays), 3 the connection is torn down.
    """
    _run(file, "strongswan", once, wait, level)


@app.command(epilog="Example: qkd-psk run /etc/qkd-psk/wg0.toml")
def run(file: File, level: Level = "info") -> None:
    """Run whichever of [wireguard] and [strongswan] the file has, until SIGTERM or SIGINT."""
    _run(file, "", False, 0.0, level)


@app.command("check-config")
def check_config(file: File) -> None:
    """Check the file, every credential that it names and the state; starts nothing."""
    try:
        PskService(_load(file, "")).check()
    except QkddError as error:
        raise _fail(error) from None
    typer.echo(f"{file}: good")


@app.command()
def status(file: File, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What the running agent says.

    Exit code 0: both ends use the same fresh key; 1: the key is too old and kept; 3: torn down; 4: not agreed, or in doubt;
    5: no agent runs.
    """
    try:
        found = msgspec.json.decode(status_file(_load(file, "")).read_bytes(), type=Status)
    except QkddError as error:
        raise _fail(error) from None
    except (OSError, msgspec.MsgspecError) as error:
        typer.echo(f"no agent has run: {error}", err=True)
        raise typer.Exit(NOT_RUNNING) from None
    age = SystemClock().wall() - found.written
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        for name, value in msgspec.structs.asdict(found).items():
            shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value)) if name == "written" else value
            typer.echo(f"{name.replace('_', ' '):14} {shown}")
    if age > _STALE:
        typer.echo(f"no agent runs: this was written {age:.0f} s ago", err=True)
        code = NOT_RUNNING
    elif found.torn_down:
        code = TORN_DOWN
    elif found.old_key:
        code = NOT_ROTATED
    else:
        code = GOOD if found.agreed and not found.in_doubt else UNSETTLED
    raise typer.Exit(code)


def main() -> None:
    """Entry point of `qkd-psk`."""
    app()
