"""`qkdctl diag` of a real daemon: complete, and none of the secrets that the node was seeded with is in it."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import secrets
import stat
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from qkdd.control.diag_cli import scrubbed
from qkdd.control.qkdctl import app
from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.core.secret import Secret
from qkdd.device.config import DeviceConfig
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.node.diagnostics import redacted
from qkdd.peer.pki import demo_pki

_spec = importlib.util.spec_from_file_location("node_support", Path(__file__).with_name("support.py"))
assert _spec is not None
assert _spec.loader is not None
support = sys.modules.setdefault("node_support", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(support)

PASSWORD = "correct-horse-battery-staple"


def forms(secret: bytes) -> list[bytes]:
    """How a secret may look in a text. Base64 depends on what stands before it: all three phases."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()]
    for phase in range(3):
        coded = base64.b64encode(b"\0" * phase + secret)
        found += [coded[4:-4], base64.urlsafe_b64encode(b"\0" * phase + secret)[4:-4]]
    found.append(json.dumps(list(secret))[1:-1].encode())
    return found


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert all(not m.name.startswith(("/", "..")) and m.isfile() and m.mode == 0o600 for m in members)
        return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def test_no_secret_is_in_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = demo_pki(tmp_path / "pki").post_quantum["alice"]
    path = support.write_node(tmp_path)
    text = path.read_text()
    for name, real in (
        ("node.pem", files.certificate), ("node.key", files.key), ("ca.pem", files.trust), ("ca.crl", files.crl),
    ):  # fmt: skip
        text = text.replace(f'"{name}"', f'"{real}"')
    path.write_text(text)
    config = load_node(path)
    lab = DeviceConfig(driver="s15_spd", port=f"socket://user:{PASSWORD}@127.0.0.1:1")  # credentials in an address
    config = msgspec.structs.replace(config, devices=config.devices | {"lab": lab})
    block, mask = secrets.token_bytes(256), secrets.token_bytes(256)
    seeded = [block[i : i + 32] for i in range(0, 256, 32)]
    seeded += [Path(config.node.master_key).read_bytes()[:32], PASSWORD.encode()]
    pem = Path(files.key).read_bytes().split(b"-----")[2].split()
    seeded += [base64.b64decode(b"".join(pem))[-64:-32]]
    lines = [line for line in pem if len(line) >= 48]

    log.configure("debug")
    target = tmp_path / "out.tar.gz"

    async def main() -> None:
        daemon = Daemon(config, SystemClock(), source=path)
        await daemon.start()
        # what a driver of somebody else might take as an option
        optional = msgspec.structs.replace(lab, options={"password": PASSWORD})
        daemon.config = msgspec.structs.replace(config, devices=config.devices | {"lab": optional})
        try:
            await daemon.rooms.spool.prepare(
                sequence=1, block_id=b"b" * 16, number=1, key=Secret(block), first=True, masks=4, details={}
            )
            await daemon.rooms.spool.commit(b"b" * 16)
            log.get("test").warning("a careless line", key=block, other=Secret(mask))
            box: list[Any] = []
            arguments = ["--socket", config.control.socket, "diag", "-o", str(target)]
            thread = threading.Thread(
                target=lambda: box.append(CliRunner().invoke(app, arguments, catch_exceptions=False))
            )
            thread.start()
            while thread.is_alive():  # noqa: ASYNC110 - what is waited for runs in a thread
                await asyncio.sleep(0.05)
            assert box[0].exit_code == 0, box[0].output
        finally:
            await daemon.stop()

    asyncio.run(main())
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    data = target.read_bytes()
    found = unpacked(data)
    assert set(found) >= {
        "status.json", "devices.json", "link.json", "link-security.json", "keys.json", "errors.json", "blocks.json",
        "versions.json", "configuration.json", "self-test.json", "metrics.prom", "log.jsonl",
    }  # fmt: skip
    for name, body in found.items():
        for secret in [*seeded, mask[:32]]:
            for form in forms(secret):
                assert form not in body, (name, form[:8])
        assert b"PRIVATE KEY" not in body, name
        for line in lines:
            assert line not in body, name
    # what support needs is there all the same
    told = json.loads(found["configuration.json"])
    assert told["node"]["master_key"] == config.node.master_key
    assert told["peer"]["key"] == str(files.key)
    assert told["devices"]["lab"]["options"] == {"password": "(removed)"}
    assert told["devices"]["lab"]["port"] == "socket://(removed)@127.0.0.1:1"
    assert json.loads(found["versions.json"])["qkdd"]
    checks = {check["name"]: check["ok"] for check in json.loads(found["self-test.json"])}
    assert checks["kernels"]
    assert checks["audit log"]
    assert checks["master key"]
    assert b"qkdd_build_info" in found["metrics.prom"]
    assert b"a careless line" in found["log.jsonl"]
    assert b"<256 bytes>" in found["log.jsonl"]


def test_the_scan_itself_finds_what_is_there() -> None:
    secret = secrets.token_bytes(32)
    for text in (
        secret.hex(), base64.b64encode(b"x" + secret).decode(), base64.b64encode(b"xy" + secret + b"z").decode(),
        json.dumps({"a": list(secret)}),
    ):  # fmt: skip
        assert any(form in text.encode() for form in forms(secret)), text


@pytest.mark.parametrize(
    "name", ["password", "admin_password", "token", "apikey", "api_key", "pin", "passphrase", "PSK"]
)
def test_values_of_such_names_are_removed_wherever_they_stand(name: str) -> None:
    tree = {"a": [{"b": {name: "hidden"}}], f"{name}_file": "/etc/place", "mount": "secret", "n": 3}
    shown = redacted(tree)
    assert "hidden" not in json.dumps(shown)
    assert shown[f"{name}_file"] == "/etc/place"
    assert shown["mount"] == "secret"
    assert shown["n"] == 3


@pytest.mark.parametrize("piece", [b"x", b"a:", b"a@", b":", b"a:b@", b"-----BEGIN PRIVATE KEY-----"])
def test_a_long_line_is_scrubbed_in_one_pass(piece: bytes) -> None:
    """A quadratic pattern would take hours for these."""
    assert b"a:b@" not in scrubbed(piece * (300_000 // len(piece)) + b"x socket://a:b@host")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b'"socket://user:pw@127.0.0.1:1"', b'"socket://(removed)@127.0.0.1:1"'),
        (b"postgresql://u:p:w@host/name", b"postgresql://(removed)@host/name"),
        (b"u:p@[::1]:5", b"(removed)@[::1]:5"),
        (b"somebody@example.org", b"somebody@example.org"),
    ],
)
def test_credentials_of_addresses_are_removed(text: bytes, left: bytes) -> None:
    assert scrubbed(text) == left


def test_without_a_daemon_and_onto_a_file_that_is_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--socket", str(tmp_path / "no.sock"), "diag"], catch_exceptions=False)
    assert result.exit_code == 3
