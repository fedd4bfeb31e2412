"""`qkdd-kms run FILE | check-config FILE | status FILE`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import sqlalchemy as sa
import typer
from msgspec.structs import replace

from qkdd.core import config as config_files
from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.core.errors import InternalError, QkddError
from qkdd.core.notify import sd_notify, watchdog_interval
from qkdd.core.sealing import load_master_key
from qkdd.core.syslog import SyslogSink
from qkdd.kms.bench import run as draw_bench
from qkdd.kms.config import KmsConfig
from qkdd.kms.dev_pair import DevPair
from qkdd.kms.gate import small_tls_buffers
from qkdd.kms.load.run import Load, lines
from qkdd.kms.restore import restored
from qkdd.kms.schema import ALLOCATIONS, CHUNKS, POOLS
from qkdd.kms.server import KmsServer
from qkdd.peer.tls import client_context, self_test

_CREDENTIALS = "${CREDENTIALS_DIRECTORY}/"  # systemd.exec(5), LoadCredential=
_LAST_LINES_S = 2.0  # for the last lines to the syslog collector
app = typer.Typer(
    help="Key management service: keys of quantum links to applications (ETSI GS QKD 014).", no_args_is_help=True
)
File = Annotated[Path, typer.Argument(help="Configuration (TOML).", show_default=False)]


def _fail(error: QkddError) -> typer.Exit:
    typer.echo(str(error), err=True)
    if error.remedy:
        typer.echo(f"  remedy: {error.remedy}", err=True)
    return typer.Exit(2)


def _load(file: Path, environment: Mapping[str, str] = os.environ) -> KmsConfig:
    """The checked configuration; a master key that systemd passes (LoadCredential=) is found in its folder."""
    config = config_files.load(file, KmsConfig)
    key = config.kms.master_key
    if key.startswith(_CREDENTIALS) and "CREDENTIALS_DIRECTORY" in environment:
        key = f"{environment['CREDENTIALS_DIRECTORY']}/{key.removeprefix(_CREDENTIALS)}"
    return replace(config, kms=replace(config.kms, master_key=key))


@app.command()
def run(file: File, level: str = "info") -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the certificates again."""
    log.configure(level, human=sys.stderr.isatty())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one per connection
    small_tls_buffers()
    try:
        config = _load(file)
        asyncio.run(_run(config))
    except QkddError as error:
        raise _fail(error) from None


async def _run(config: KmsConfig) -> None:
    server = KmsServer(config)
    if config.syslog is None:
        await _serve(config, server)
        return
    clock = SystemClock()
    sink = SyslogSink(config.syslog, clock, server.meter, "qkdd-kms")
    sink.open()
    keeping = asyncio.create_task(sink.keep())
    try:
        await _serve(config, server)
        await sink.flushed(_LAST_LINES_S)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        sink.close()


async def _serve(config: KmsConfig, server: KmsServer) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    await server.start()
    gc.collect()
    gc.freeze()  # what stays as long as the process: thousands of applications need not be looked through again and again
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, server.reload)
        listening = {name: f"{host}:{port}" for name, (host, port) in server.addresses.items()}
        log.get("kms").info("ready", kms=config.kms.id, **{k.replace(".", "_"): v for k, v in listening.items()})
        sd_notify("READY=1", f"STATUS={config.kms.id} serves keys")
        interval = watchdog_interval()
        while not stop.is_set():
            if server.failed.is_set():
                raise InternalError("the KMS's background work ended")
            try:
                await asyncio.wait_for(stop.wait(), interval or 5.0)
            except TimeoutError:
                sd_notify("WATCHDOG=1")
    finally:
        sd_notify("STOPPING=1")
        await server.stop()


@app.command("dev-pair")
def dev_pair(
    directory: Annotated[Path, typer.Argument(help="New directory for certificates, examples and stores.")] = Path(
        "qkdd-dev-pair"
    ),
    port: Annotated[int, typer.Option(help="First of ten TCP ports on 127.0.0.1; 0 takes free ones.")] = 0,
    level: str = "warning",
) -> None:
    """INSECURE, for developers of applications: two linked KMSs with synthetic keys, certificates and examples."""
    log.configure(level, human=sys.stderr.isatty())
    try:
        asyncio.run(_dev_pair(DevPair(directory, port)))
    except QkddError as error:
        raise _fail(error) from None


async def _dev_pair(pair: DevPair) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await pair.start()
        typer.echo(json.dumps(pair.facts(), indent=2))
        await stop.wait()
    finally:
        await pair.stop()


@app.command("check-config")
def check_config(file: File) -> None:
    """Check the file and every credential that it names; starts nothing."""
    try:
        config = _load(file)
        load_master_key(Path(config.kms.master_key))
        self_test(config.kms_plane.profile("kms_plane", "post-quantum"))
        self_test(config.node_plane.profile("node_plane", "post-quantum"))
        for name, listener in config.sae.items():
            self_test(listener.profile(f"sae.{name}", "classical" if name == "classical" else "post-quantum"))
        for name, source in config.sources.items():
            if source.etsi020 is not None:
                self_test(source.etsi020.profile(f"sources.{name}.etsi020", source.etsi020.suite))
            pulled = source.etsi014 or source.etsi004
            if pulled is not None:
                client_context(pulled.profile(f"sources.{name}.{source.kind}"))
    except QkddError as error:
        raise _fail(error) from None
    typer.echo(f"{file}: good")


@app.command()
def status(file: File) -> None:
    """Chunks and pools of the store as JSON, read from the store itself; the service may run or not."""
    try:
        config = _load(file)
        place = config.store_place()
    except QkddError as error:
        raise _fail(error) from None
    engine = sa.create_engine(place.reading(), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            chunks = connection.execute(sa.select(CHUNKS.c.state, sa.func.count()).group_by(CHUNKS.c.state)).all()
            pools = connection.execute(sa.select(POOLS).order_by(POOLS.c.peer, POOLS.c.owner)).all()
            pending = connection.execute(sa.select(sa.func.count()).select_from(ALLOCATIONS)).scalar_one()
    except sa.exc.DBAPIError as error:
        raise _fail(place.error(error)) from None
    finally:
        engine.dispose()
    answer = {
        "kms": config.kms.id,
        "chunks": {state: count for state, count in chunks},
        "pools": [{"peer": row.peer, "owner": row.owner, "bits": 8 * row.bytes} for row in pools],
        "draws_open": pending,
    }
    typer.echo(json.dumps(answer, indent=2))


@app.command(epilog="Example: qkdd-kms restore kms.toml /var/backups/kms.db")
def restore(
    file: File,
    backup: Annotated[Path, typer.Argument(help="What `qkdctl kms backup` wrote.", exists=True, dir_okay=False)],
) -> None:
    """Take a backup back; the KMS must be stopped and have no store. Keys drawn before it can still be fetched.

    Key that was not drawn when the backup was made is used up: it may have been drawn since.
    """
    try:
        config = _load(file)
        size = asyncio.run(restored(config, backup))
    except QkddError as error:
        raise _fail(error) from None
    typer.echo(f"{file}: store restored; {size} bytes of key that was not drawn are used up, nodes bring new key")


@app.command(epilog="Example: qkdd-kms bench --json")
def bench(
    batches: Annotated[int, typer.Option(help="Draws in each of five runs.", min=1)] = 512,
    amount: Annotated[int, typer.Option(help="Keys of 256 bits in a draw.", min=1, max=4096)] = 1000,
    concurrency: Annotated[int, typer.Option(help="Draws under way at once.", min=1, max=256)] = 16,
    largest: Annotated[int, typer.Option(help="Keys in the largest pool that is tried.", min=1000)] = 1_000_000,
    store: Annotated[
        str | None, typer.Option(help="URL of an empty PostgreSQL database to use instead of a file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure draws without HTTP: the key service with a durable store, the other site a stub in the same process."""
    with tempfile.TemporaryDirectory(prefix="qkdd-kms-bench-") as folder:
        try:
            result = asyncio.run(draw_bench(Path(folder), store, batches, amount, concurrency, largest))
        except QkddError as error:
            raise _fail(error) from None
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{result['keys_per_s']:,} keys/s in batches of {amount}, {concurrency} draws at once")
    typer.echo(f"{result['keys_per_cpu_s']:,} keys per CPU second, {result['cpu_ms_per_batch']} ms CPU a batch")
    for row in result["pool_sizes"]:
        typer.echo(
            f"{row['pool_keys']:>12,} keys in the pool: {row['cpu_us_per_draw']:>8} us CPU for a draw of one key"
        )


@app.command(epilog="Example: qkdd-kms load --json")
def load(
    seconds: Annotated[float, typer.Option(help="Of each run.", min=0.1)] = 2.0,
    runs: Annotated[int, typer.Option(help="Of each request against each server, in turns.", min=1)] = 3,
    concurrency: Annotated[int, typer.Option(help="Connections that ask at once.", min=1, max=1000)] = 32,
    saes: Annotated[int, typer.Option(help="Registered applications.", min=4, max=100_000)] = 10_000,
    connections: Annotated[int, typer.Option(help="Open connections for the figure of memory.", min=1)] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure two running KMSs over TLS beside a bare handler that returns a constant body of the same size."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    work = Load(
        seconds=seconds,
        runs=runs,
        concurrency=concurrency,
        saes=saes,
        connections=connections,
        say=lambda line: typer.echo(line, err=True),
    )
    try:
        report = asyncio.run(work.run())
    except QkddError as error:
        raise _fail(error) from None
    typer.echo(msgspec.json.encode(report).decode() if as_json else "\n".join(lines(report)))


def main() -> None:
    """Entry point of `qkdd-kms`."""
    app()
