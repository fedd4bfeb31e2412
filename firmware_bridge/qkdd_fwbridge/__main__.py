"""`python -m qkdd_fwbridge`: for who makes firmware: a signing key, a signed image, a look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdd.core.errors import QkddError
from qkdd_fwbridge import image as images
from qkdd_fwbridge import keys, versions

app = typer.Typer(name="qkdd_fwbridge", no_args_is_help=True, help="Sign and look at firmware images of qkdd boards.")


@app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="Private key, PEM, mode 0600.")],
    public: Annotated[Path, typer.Argument(help="Public key, PEM.")],
) -> None:
    """Make an ML-DSA-87 key pair. Keep the private half off every node."""
    typer.echo(f"key {images.key_id(keys.create(private, public).public_key()).hex()}")


@app.command()
def sign(
    payload: Annotated[Path, typer.Argument(help="The firmware itself.")],
    output: Annotated[Path, typer.Argument(help="The image.")],
    key: Annotated[Path, typer.Option(help="Private key.")],
    model: Annotated[str, typer.Option(help="Board model, for example QKDD-TX1.")],
    version: Annotated[str, typer.Option(help="For example 2.1.0.")],
    counter: Annotated[
        int, typer.Option(min=0, help="Anti-rollback counter: raise it when older firmware must not return.")
    ],
    hardware: Annotated[tuple[int, int], typer.Option(help="First and last hardware revision.")] = (1, 1),
    protocol: Annotated[tuple[int, int], typer.Option(help="First and last protocol version.")] = (1, 2),
) -> None:
    """Make a signed image."""
    manifest = images.Manifest(model, versions.parse(version), counter, hardware, protocol)
    output.write_bytes(images.sign(manifest, payload.read_bytes(), keys.load_private(key)))


@app.command()
def verify(
    image: Annotated[Path, typer.Argument(help="The image.")],
    key: Annotated[list[Path], typer.Option(help="Trusted public key; repeatable.")],
) -> None:
    """Check an image against trusted keys and say what it is for."""
    found = images.verify(image.read_bytes(), [keys.load_public(path) for path in key])
    m = found.manifest
    typer.echo(f"{m.model} {m.version_text}, counter {m.counter}, {len(found.payload)} bytes, key {found.signer.hex()}")


def main() -> None:
    """Entry point."""
    try:
        app()
    except (QkddError, ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
