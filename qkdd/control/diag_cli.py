"""`qkdctl diag`: one archive for support. No key material is in it, and no content of a key file."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from qkdd import __version__
from qkdd.control.client import DEFAULT_SOCKET, ControlClient
from qkdd.control.errors import NoDaemon
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_NO, EXIT_NO_DAEMON = 1, 3
_READ = "/v1/diagnostics"
_PLAIN = ("status", "devices", "link", "link/security", "keys", "errors", "overview", "align")
_SUSPECT = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# Begins only where a run of characters begins: a log line of a megabyte is read once, not once for each of its characters.
_BEFORE_HOST = re.compile(rb"""(?<![^\s"'/@,])[^\s"'/@,]+@(?=[\w\[])""")

app = typer.Typer()
_complaints = console.complaints()


def collect(client: ControlClient) -> dict[str, bytes]:
    """File names in the archive and what is in them. What could not be had is in `missing.json`. Raises NoDaemon."""
    files: dict[str, bytes] = {}
    missing: dict[str, str] = {}

    def take(name: str, ask: Callable[[], Any]) -> Any:
        try:
            body = ask()
        except NoDaemon:
            raise
        except QkddError as error:
            missing[name] = str(error)
            return None
        files[f"{name}.json"] = _json(body)
        return body

    for route in _PLAIN:
        take(route.replace("/", "-"), lambda route=route: client.get(f"/v1/{route}"))  # type: ignore[misc]
    take("blocks", lambda: client.get("/v1/blocks", limit=1000))
    for device in json.loads(files.get("devices.json", b"[]")):
        name = device["name"]
        take(f"device-{name}", lambda name=name: client.get(f"/v1/devices/{name}/fields"))  # type: ignore[misc]
    told = take("diagnostics", lambda: client.get(_READ))
    if told is not None:
        del files["diagnostics.json"]
        files["versions.json"] = _json(told["versions"] | {"qkdctl": __version__, "client system": platform.platform()})
        files["configuration.json"] = _json(told["configuration"])
        files["self-test.json"] = _json(told["self_test"])
        files["metrics.prom"] = told["metrics"].encode()
        files["log.jsonl"] = "\n".join(told["log"]).encode() + b"\n"
    if missing:
        files["missing.json"] = _json(missing)
    return {name: scrubbed(body) for name, body in files.items()}


def scrubbed(body: bytes) -> bytes:
    """Without private keys and without credentials of addresses, wherever a message or a log line repeats them."""

    def without(match: re.Match[bytes]) -> bytes:
        return b"(removed)@" if b":" in match[0] else match[0]

    return _BEFORE_HOST.sub(without, _SUSPECT.sub(b"(private key removed)", body))


def _json(body: Any) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


def archive(files: dict[str, bytes], folder: str, now: float) -> bytes:
    """A tar.gz with everything in one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(body), int(now), 0o600
            tar.addfile(entry, io.BytesIO(body))
    return buffer.getvalue()


@app.command(epilog="Example: sudo qkdctl diag --output support.tar.gz")
def diag(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: qkdd-diag-TIME.tar.gz here.")
    ] = None,
    socket: Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")] = None,
) -> None:
    """One archive for support: versions, configuration without secrets, log, metrics, devices, blocks, errors, self-test."""
    client = ControlClient(socket or context.obj or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)
    now = time.time()
    folder = "qkdd-diag-" + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = output or Path(f"{folder}.tar.gz")
    try:
        files = collect(client)
    except QkddError as error:
        _complaints.print(str(error), style="red", markup=False)
        _complaints.print("  → without the daemon: `journalctl -u qkdd`, `qkdd check-config FILE`", markup=False)
        raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO) from None
    try:
        with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(archive(files, folder, now))
    except OSError as error:
        _complaints.print(f"{target}: {error.strerror}", style="red", markup=False)
        raise typer.Exit(EXIT_NO) from None
    failed = [check["name"] for check in json.loads(files.get("self-test.json", b"[]")) if not check["ok"]]
    typer.echo(f"{target}: {len(files)} files; self-test: " + (f"not good: {', '.join(failed)}" if failed else "good"))
    if "missing.json" in files:
        typer.echo("not everything could be had (a tagger that streams answers no questions); missing.json says what")
