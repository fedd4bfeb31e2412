"""`qkdctl top` and `qkdctl align`: full-screen views of a running node."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from qkdd.control import live_show
from qkdd.control.client import DEFAULT_SOCKET, ControlClient, Refused
from qkdd.control.errors import NoDaemon
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_NO, EXIT_NO_DAEMON = 1, 3
LEASE_S = 60  # how long the link stays open after a terminal was lost
_RENEW_S = 20.0
_PERIOD_S = 1.0
_END = "\x04"  # end of input: Ctrl-D, or a terminal that was closed

app = typer.Typer()
_console = console.output()
_complaints = console.complaints()

SocketOption = Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the daemon's JSON once.")]
OnceOption = Annotated[
    bool, typer.Option("--once", help="Print one picture and leave; so does any output that is no terminal.")
]

Draw = Callable[[Any, int, str], RenderableType]


def _client(context: typer.Context, socket: str | None) -> ControlClient:
    return ControlClient(socket or context.obj or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)


def _fail(error: QkddError) -> NoReturn:
    _complaints.print(str(error), style="red", markup=False)
    if error.remedy:
        _complaints.print(f"  → {error.remedy}", markup=False)
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


@contextmanager
def single_keys(descriptor: int) -> Iterator[Callable[[float], str]]:
    """Keys without Enter, not shown; a function that waits so many seconds for one. The terminal is as before afterwards."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return ""
        try:
            return os.read(descriptor, 1).decode("ascii", "replace") or _END
        except OSError:  # the terminal is gone
            return _END

    try:
        yield wait
    finally:
        with suppress(termios.error):  # of a terminal that is gone nothing can be restored
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def follow(ask: Callable[[], Any], draw: Draw, screen: Console, wait: Callable[[float], str]) -> None:
    """Draw what `ask` says once a second until q is pressed. A daemon that goes away is said and asked again."""
    body, problem = ask(), ""
    with Live(console=screen, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(draw(body, screen.size.width, problem), refresh=True)
            if wait(_PERIOD_S) in {"q", "Q", "\x03", _END}:
                return
            try:
                body, problem = ask(), ""
            except QkddError as error:
                problem = str(error)


def _view(ask: Callable[[], Any], draw: Draw, *, once: bool) -> None:
    """Follow on a terminal, else print one picture."""
    try:
        if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _console.print(draw(ask(), _console.size.width, ""))
            return
        with single_keys(sys.stdin.fileno()) as wait:
            follow(ask, draw, _console, wait)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except QkddError as error:
        _fail(error)


@app.command(epilog="Example: qkdctl top")
def top(
    context: typer.Context, once: OnceOption = False, as_json: JsonOption = False, socket: SocketOption = None
) -> None:
    """Full-screen view: alarms, link, error and secret rate, detectors, parts. q quits."""
    client = _client(context, socket)
    if as_json:
        try:
            typer.echo(json.dumps(client.get("/v1/overview"), ensure_ascii=False))
        except QkddError as error:
            _fail(error)
        return
    is_live = not once and sys.stdout.isatty()
    _view(
        lambda: client.get("/v1/overview"),
        lambda body, width, problem: live_show.top(body, width, problem=problem, keys=is_live),
        once=once,
    )


@app.command(epilog="Example: qkdctl align; qkdctl align --hold 600; qkdctl align --off")
def align(
    context: typer.Context,
    off: Annotated[bool, typer.Option("--off", help="Let go: the link aligns anew and makes key again.")] = False,
    hold: Annotated[
        int | None, typer.Option(min=1, max=86_400, help="Hold the link open for so many seconds and return at once.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look on while the other node or another terminal holds it.")
    ] = False,
    once: OnceOption = False,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Hold the link open for alignment: both nodes exchange clicks in clear and make no key. q lets go."""
    client = _client(context, socket)
    try:
        if off or hold is not None:
            typer.echo(client.post("/v1/align", {"seconds": 0 if off else hold})["message"])
            return
        if as_json:
            typer.echo(json.dumps(client.get("/v1/align"), ensure_ascii=False))
            return
    except QkddError as error:
        _fail(error)
    is_live = not once and sys.stdin.isatty() and sys.stdout.isatty()

    def draw(body: Any, width: int, problem: str) -> RenderableType:
        return live_show.align(body, width, problem=problem, keys=is_live)

    if watch or not is_live:  # a picture alone opens nothing
        _view(lambda: client.get("/v1/align"), draw, once=once)
        return
    try:
        with holding(client) as ask:
            _view(ask, draw, once=False)
    except Refused as error:
        _fail(error)


@contextmanager
def holding(client: ControlClient, now: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], Any]]:
    """Hold the link open; the function renews that in time and returns the view. Let go at the end, however it comes."""
    client.post("/v1/align", {"seconds": LEASE_S})
    renewed = now()

    def ask() -> Any:
        nonlocal renewed
        if now() - renewed >= _RENEW_S:
            client.post("/v1/align", {"seconds": LEASE_S})
            renewed = now()
        return client.get("/v1/align")

    try:
        yield ask
    finally:
        try:
            client.post("/v1/align", {"seconds": 0})
        except QkddError as error:  # the daemon is gone, or lets go by itself when the lease ends
            _complaints.print(
                f"not let go: {error}; it ends by itself within {LEASE_S} s", style="yellow", markup=False
            )
