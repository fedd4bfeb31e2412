"""Options that the commands of `qkdd-sim` share."""

from __future__ import annotations

from typing import Annotated

import typer

Pty = Annotated[str | None, typer.Option("--pty", help="Make this symbolic link to a new pseudo terminal.")]
Listen = Annotated[str | None, typer.Option("--listen", help="HOST:PORT to serve by TCP; port 0 chooses a free one.")]
Over = Annotated[
    str, typer.Option("--over", help="socket, or usbtmc (USB/IP), hislip, vxi11: how it is reached as a VISA resource.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Rate = Annotated[float, typer.Option(min=0.0, help="Clicks or counts a second, all inputs together.")]
Fault = Annotated[
    list[str] | None,
    typer.Option(
        "--fault", help="NAME[:ARGUMENT=NUMBER]@SECONDS after the start, for example slip:bytes=2@10; repeatable."
    ),
]
Generate = Annotated[
    int, typer.Option(min=0, help="Make so many clicks a second in C instead of --rate (a speed test); 0: do not.")
]


def place(listen: str | None) -> tuple[str, int] | None:
    """HOST:PORT taken apart. Raises BadParameter."""
    if listen is None:
        return None
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    return host.strip("[]") or "127.0.0.1", int(port)
