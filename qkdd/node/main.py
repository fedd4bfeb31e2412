"""The process around the daemon: configuration, hardening, signals, exit code."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused
from qkdd.core.errors import QkddError
from qkdd.core.memory import keep_large_buffers
from qkdd.node.config import NodeConfig, load_node
from qkdd.node.daemon import Daemon
from qkdd.node.process import forbid_dumps, lock_memory

EXIT_OK, EXIT_REFUSED = 0, 1
_log = log.get("node")


def run_file(file: Path, *, log_level: str | None, human: bool) -> int:
    """Run a node from its file until SIGTERM or SIGINT; returns the exit code. Nothing starts from a refused file."""
    log.configure(log_level or "info", human=human)
    try:
        config = load_node(file)
    except ConfigRefused as refusal:
        for finding in refusal.findings:
            _log.error(
                "configuration refused",
                code=refusal.code,
                file=str(file),
                line=finding.line,
                key=finding.key,
                error=finding.problem,
                remedy=finding.remedy,
            )
        return EXIT_REFUSED
    log.configure(log_level or config.node.log_level, human=human)
    forbid_dumps()
    locked = lock_memory()
    keep_large_buffers()
    return asyncio.run(_serve(config, file, memory_locked=locked, human=human))


async def _serve(config: NodeConfig, file: Path, *, memory_locked: bool, human: bool) -> int:
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    daemon = Daemon(config, SystemClock(), source=file, memory_locked=memory_locked, human=human)
    try:
        await daemon.start()
    except QkddError as error:
        _log.error("daemon refused to start", **log.error_fields(error))
        return EXIT_REFUSED
    reloader = asyncio.create_task(_reload_on(reload, daemon))
    await stop.wait()
    reloader.cancel()
    await asyncio.gather(reloader, return_exceptions=True)
    await daemon.stop()
    return EXIT_OK


async def _reload_on(wanted: asyncio.Event, daemon: Daemon) -> None:
    """SIGHUP: as `qkdctl reload`; a refusal is logged and the node goes on as it was."""
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await daemon.reload()
        except QkddError as error:
            daemon.supervisor.note("reload", error)
            _log.error("reload refused", **log.error_fields(error))
