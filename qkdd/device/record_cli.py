"""`qkdd record`: the tags of a configured tagger into a file of our own format (`qkdd.device.recording`)."""

from __future__ import annotations

import asyncio
import signal
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import typer

from qkdd.core.clock import Clock, SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.device import DeviceConfig, Driver, TimeTagger, build
from qkdd.device.config import resolved
from qkdd.device.errors import DeviceConfigError, RecordingEnded
from qkdd.device.recording import RecordingWriter

EXIT_REFUSED = 1

app = typer.Typer(add_completion=False)


@app.command()
def record(
    config: Annotated[Path, typer.Argument(help="A node's TOML file, or one with the device's section only.")],
    target: Annotated[Path, typer.Argument(help="File to write (.qkdt); it must not be there yet.")],
    device: Annotated[str, typer.Option(help="Which device.")] = "tagger",
    seconds: Annotated[float, typer.Option(min=0.0, help="How long; 0: until Ctrl-C.")] = 0.0,
) -> None:
    """Record the tags of a time tagger; the daemon must not hold it meanwhile. `replay` plays the file again."""
    try:
        if target.exists():
            raise DeviceConfigError(f"{target} is there already", remedy="Name another file, or remove this one.")
        driver = build(device, read_device(config, device), SystemClock(), RecordingMeter())
        clicks, lost = asyncio.run(_record(driver, target, seconds, SystemClock()))
    except QkddError as error:
        print(error, file=sys.stderr)
        if error.remedy:
            print(f"  → {error.remedy}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None
    except OSError as error:
        print(f"{target} cannot be written: {error.strerror}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None
    typer.echo(f"{target}: {clicks} clicks" + (f", {lost} known to be lost" if lost else ""))


def read_device(path: Path, name: str) -> DeviceConfig:
    """One `[devices.NAME]` section of a TOML file, whatever else is in it. Raises DeviceConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("devices", {}).get(name)
        if table is None:
            raise DeviceConfigError(f"{path} has no [devices.{name}]")
        section = msgspec.convert(table, DeviceConfig)
    except OSError as error:
        raise DeviceConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DeviceConfigError(f"{path}: {error}") from None
    for key, problem, _ in section.check():
        raise DeviceConfigError(f"devices.{name}.{key}: {problem}")
    return resolved(section, path.resolve().parent)


async def _record(driver: Driver, target: Path, seconds: float, clock: Clock) -> tuple[int, int]:
    if not isinstance(driver, TimeTagger):
        raise DeviceConfigError(f"{driver.name} is no time tagger")
    tagger = cast(TimeTagger, driver)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    lost = 0
    async with driver:
        start = await tagger.start()
        about: dict[str, Any] = {
            "device": driver.name,
            "instrument": f"{driver.identity.vendor} {driver.identity.model} {driver.identity.serial}".strip(),
            "resolution_ps": tagger.resolution_ps,
            "inputs": tagger.inputs,
            "start_wall": start.wall,
        }
        with RecordingWriter(target, about) as writer:
            end = clock.monotonic() + seconds if seconds else float("inf")
            while clock.monotonic() < end and not stop.is_set():
                try:
                    block = await tagger.read()
                except RecordingEnded:
                    break
                writer.write(block)
                lost += block.lost
            await tagger.stop()
            return writer.clicks, lost
