"""The places: each a real program started for the measurement, or a reason why it is not there."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qkdd.core.ports import free_port
from qkdd.keys import KeysConfig
from qkdd.keys.sinks.config import ExecSink, FileSink, KmipSink, Pkcs11Sink, VaultSink
from qkdd.peer.pki_demo import DemoPki

NAMES = ("kms", "file", "exec", "vault kv", "vault transit", "pkcs11", "kmip")
_START = 30.0  # s for a server to answer


class NotHere(Exception):
    """The program for a place is not installed; the text says which and how it would be found."""


@contextmanager
def place(name: str, folder: Path, pki: DemoPki) -> Iterator[KeysConfig]:
    """Configuration of a node that hands over to this place, while it runs. Raises NotHere."""
    folder.mkdir()
    if name == "file":
        yield KeysConfig(file=FileSink(directory=str(folder / "keys")))
    elif name == "exec":
        yield KeysConfig(exec=ExecSink(command=("sh", "-c", f"cat >> {folder}/keys")))
    elif name.startswith("vault"):
        with _bao(folder) as config:
            yield KeysConfig(vault=VaultSink(engine="transit" if name.endswith("transit") else "kv", **config))
    elif name == "pkcs11":
        yield KeysConfig(pkcs11=_softhsm(folder))
    elif name == "kmip":
        with _pykmip(folder, pki) as kmip:
            yield KeysConfig(kmip=kmip)
    else:
        raise ValueError(f"there is no place {name!r}; there are {', '.join(NAMES)}")


@contextmanager
def _child(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True
        )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def _bao(folder: Path) -> Iterator[dict[str, Any]]:
    program = os.environ.get("QKDD_BAO") or shutil.which("bao")
    if not program:
        raise NotHere("no OpenBao: QKDD_BAO names no `bao`, none is on the PATH")
    where = f"127.0.0.1:{free_port()}"
    words = ["server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-root-token-id=root"]
    words += ["-dev-no-store-token", f"-dev-listen-address={where}"]
    token = folder / "token"
    token.write_text("root")
    token.chmod(0o600)
    with _child([program, *words], folder / "log", HOME=str(folder)) as child:
        limit = time.monotonic() + _START
        while True:
            found = list(folder.glob("*-ca.pem"))
            try:
                context = ssl.create_default_context(cafile=str(found[0]))
                mounted = _mount(where, context)
            except (IndexError, OSError, ssl.SSLError):
                mounted = False
            if mounted:
                break
            if child.poll() is not None or time.monotonic() > limit:
                raise NotHere(f"OpenBao does not start: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.1)
        yield {"url": f"https://{where}", "trust": str(found[0]), "token_file": str(token)}


def _mount(where: str, context: ssl.SSLContext) -> bool:
    line = http.client.HTTPSConnection(where, context=context, timeout=5)
    try:
        body = json.dumps({"type": "transit"})
        line.request("POST", "/v1/sys/mounts/transit", body, {"X-Vault-Token": "root"})
        return line.getresponse().status in (200, 204)
    finally:
        line.close()


def _softhsm(folder: Path) -> Pkcs11Sink:
    module = next((path for path in Path("/usr/lib").rglob("libsofthsm2.so")), None)
    if module is None or shutil.which("softhsm2-util") is None:
        raise NotHere("no SoftHSM 2 (Debian: softhsm2)")
    label = "qkd"
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    words = ["--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", "1234"]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    pin = folder / "pin"
    pin.write_text("1234")
    pin.chmod(0o600)
    return Pkcs11Sink(module=str(module), token=label, pin_file=str(pin))


@contextmanager
def _pykmip(folder: Path, pki: DemoPki) -> Iterator[KmipSink]:
    program = os.environ.get("QKDD_PYKMIP_SERVER")
    if not program:
        raise NotHere("QKDD_PYKMIP_SERVER names no `pykmip-server`")
    port, paths, client = free_port(), pki.classical["kms-alice"], pki.classical["sae-alice"]
    (folder / "policy").mkdir()
    (folder / "server.conf").write_text(
        f"[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={paths.certificate}\nkey_path={paths.key}\n"
        f"ca_path={paths.trust}\nauth_suite=TLS1.2\npolicy_path={folder}/policy\nenable_tls_client_auth=True\n"
        f"tls_cipher_suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\nlogging_level=INFO\ndatabase_path={folder}/kmip.db\n"
    )
    with _child(
        [program, "-f", str(folder / "server.conf"), "-l", str(folder / "server.log")], folder / "out"
    ) as child:
        limit = time.monotonic() + _START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > limit:
                    raise NotHere(f"PyKMIP does not start: {(folder / 'out').read_text()[-300:]}") from None
                time.sleep(0.1)
        yield KmipSink(
            server=f"127.0.0.1:{port}", certificate=str(client.certificate), key=str(client.key), trust=str(paths.trust)
        )
