"""`qkdd pki`: make and renew what the post-quantum channel needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from qkdd.core import passphrase
from qkdd.core.errors import QkddError
from qkdd.core.sealing import create_master_key
from qkdd.core.secret import Secret
from qkdd.peer import certificates, pki
from qkdd.peer.errors import PkiRefused

app = typer.Typer(name="pki", help="Certificates and keys: make, renew, revoke, look at, check.", no_args_is_help=True)
_out = Console()
_err = Console(stderr=True)
P = ParamSpec("P")

Ca = Annotated[Path, typer.Option("--ca", help="Directory of the authority.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _told(command: Callable[P, None]) -> Callable[P, None]:
    """Print one of our errors with its code and remedy, and exit 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except QkddError as error:
            _err.print(f"{error}", style="red", highlight=False, markup=False, soft_wrap=True)
            _err.print(f"  {error.remedy}", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(1) from None

    return run


def _algorithm(name: str) -> pki.Algorithm:
    for known in pki.ALGORITHMS:
        if name == known:
            return known
    raise PkiRefused(f"algorithm {name!r} is unknown; there are {', '.join(pki.ALGORITHMS)}")


def _role(name: str) -> pki.CertificateRole:
    match name:
        case "node" | "kms" | "sae" | "agent":
            return name
    raise PkiRefused(f"role {name!r} is unknown; there are node, kms, sae, agent")


def _say(text: str) -> None:
    _out.print(text, highlight=False, markup=False, soft_wrap=True)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _say(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    for row in rows:
        table = Table(show_header=False, box=None)
        for key, value in row.items():
            table.add_row(key, str(value if value is not None else "-"))
        _out.print(table)


@app.command()
@_told
def init(
    directory: Annotated[Path, typer.Argument(help="New directory for the authority.")],
    algorithm: Annotated[str, typer.Option(help="ml-dsa-65, ml-dsa-87, ecdsa-p256 or ecdsa-p384.")] = "ml-dsa-87",
    name: Annotated[str, typer.Option(help="Name that stands in its certificates.")] = "qkdd",
    intermediate: Annotated[
        bool, typer.Option(help="Sign with an intermediate; the root's key can go off-line.")
    ] = False,
) -> None:
    """Make a certificate authority."""
    authority = pki.Authority.create(directory, _algorithm(algorithm), name, intermediate=intermediate)
    _say(f"authority in {directory}; give {authority.trust_file} and {authority.crl_file} to every node")
    if intermediate:
        _say(
            f"move {directory / 'root.key'} to a safe place; it is needed again only to renew the root's revocation list"
        )


@app.command()
@_told
def issue(
    role: Annotated[str, typer.Argument(help="node, kms, sae or agent (of qkd-psk).")],
    name: Annotated[str, typer.Argument(help="Identity, for example alice.")],
    certificate: Annotated[Path, typer.Argument(help="File to write the certificate to.")],
    key: Annotated[Path, typer.Argument(help="File to write the private key to (mode 0600).")],
    ca: Ca,
    algorithm: Annotated[str | None, typer.Option(help="Default: the authority's.")] = None,
    dns: Annotated[list[str] | None, typer.Option(help="Host name besides the identity; may be repeated.")] = None,
    address: Annotated[list[str] | None, typer.Option(help="IP address besides the identity; may be repeated.")] = None,
    days: Annotated[float, typer.Option(help="Validity.")] = 90,
) -> None:
    """Issue a certificate with a new private key."""
    for path in (certificate, key):
        if path.exists():
            raise PkiRefused(f"{path} exists; `qkdd pki renew` replaces a certificate")
    credential = pki.Authority(ca).issue(
        _role(role),
        name,
        algorithm=_algorithm(algorithm) if algorithm else None,
        dns=tuple(dns or ()),
        addresses=tuple(address or ()),
        days=days,
    )
    credential.write(certificate, key)
    _say(f"{certificate}: {certificates.describe(credential.leaf)}")


@app.command()
@_told
def renew(
    certificate: Annotated[Path, typer.Argument(help="Certificate to replace.")],
    key: Annotated[Path, typer.Argument(help="Its private key, replaced too.")],
    ca: Ca,
    days: Annotated[float, typer.Option(help="Validity.")] = 90,
) -> None:
    """Replace a certificate: the same identity with a new key. A running daemon takes it up on reload."""
    credential = pki.Authority(ca).renew(certificates.load_certificates(certificate)[0], days=days)
    credential.write(certificate, key)
    _say(f"{certificate}: {certificates.describe(credential.leaf)}")


@app.command()
@_told
def revoke(
    certificate: Annotated[str, typer.Argument(help="Certificate file, or its serial number in hexadecimal.")],
    ca: Ca,
    reason: Annotated[
        str, typer.Option(help="For example keyCompromise, superseded, cessationOfOperation.")
    ] = "unspecified",
) -> None:
    """Revoke a certificate and write a fresh revocation list."""
    path = Path(certificate)
    try:
        serial = certificates.load_certificates(path)[0].serial_number if path.exists() else int(certificate, 16)
    except ValueError:
        raise PkiRefused(f"{certificate} is neither a file nor a serial number") from None
    authority = pki.Authority(ca)
    entry = authority.revoke(serial, reason)
    _say(f"revoked {entry.role} {entry.name} ({entry.serial}); distribute {authority.crl_file} and reload every node")


@app.command()
@_told
def crl(ca: Ca, days: Annotated[float, typer.Option(help="Until when the next one is due.")] = 30) -> None:
    """Write a fresh revocation list."""
    authority = pki.Authority(ca)
    authority.publish_crl(days=days)
    _say(f"{authority.crl_file}: valid for {days:g} days")


@app.command()
@_told
def show(
    path: Annotated[Path, typer.Argument(help="PEM file of certificates, or an authority's directory.")],
    json: AsJson = False,
) -> None:
    """Show certificates, or what an authority has issued."""
    if path.is_dir():
        _print([msgspec.to_builtins(entry) for entry in pki.Authority(path).issued], json)
    else:
        _print(list(pki.show(path)), json)


@app.command()
@_told
def check(
    certificate: Annotated[Path, typer.Argument(help="Certificate with its intermediates.")],
    trust: Annotated[Path, typer.Option(help="Trust file (root certificates).")],
    crl: Annotated[Path | None, typer.Option(help="Revocation lists.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key that should belong to it.")] = None,
    json: AsJson = False,
) -> None:
    """Say what is wrong with a chain; exit 1 if a connection with it would be refused."""
    found = pki.check(certificate, trust, crl, key)
    if json:
        _say(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        for item in found:
            _say(f"{item.code or 'note'}: {item.problem}\n  {item.remedy}")
        if not found:
            _say(f"{certificate}: all is well")
    if any(item.code for item in found):
        raise typer.Exit(1)


@app.command("master-key")
@_told
def master_key(
    path: Annotated[Path, typer.Argument(help="New file for the key that seals the store.")],
    under_passphrase: Annotated[
        bool, typer.Option("--passphrase", help="The file opens with a passphrase only; asked for twice.")
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="The same, the passphrase from a file (mode 0600).", dir_okay=False)
    ] = None,
) -> None:
    """Make a master key (32 random bytes, mode 0600); an existing file is never overwritten."""
    under = passphrase.read(passphrase_file) if passphrase_file is not None else None
    if under is None and under_passphrase:
        under = Secret(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode())
    try:
        create_master_key(path, under)
    except FileExistsError:
        raise PkiRefused(
            f"{path} exists; a master key is never overwritten, all sealed records would be lost"
        ) from None
    _say(f"{path}: made; keep a copy in a safe place")


@app.command()
@_told
def demo(directory: Annotated[Path, typer.Argument(help="New directory.")]) -> None:
    """Make the PKI of the demonstration: two authorities, nodes, KMSs, SAEs, master keys."""
    made = pki.demo_pki(directory)
    _say(f"{made.directory}: {len(made.post_quantum)} post-quantum and {len(made.classical)} classical certificates")
