"""Both engines against a real OpenBao (`bao`, from QKDD_BAO or the PATH); `make judges-bao` brings one."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, parse
from qkdd.core.secret import Secret
from qkdd.keys import KeysConfig
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import VaultSink
from qkdd.keys.sinks.contract import Item, Sink, keys_of
from qkdd.keys.sinks.factory import make_sink
from qkdd.testing.patience import PATIENCE_S

BAO = os.environ.get("QKDD_BAO") or shutil.which("bao") or ""
POLICY = """
path "secret/data/qkd/*" { capabilities = ["create", "update", "read"] }
path "transit/wrapping_key" { capabilities = ["read"] }
path "transit/keys/+/import" { capabilities = ["create", "update"] }
path "transit/encrypt/+" { capabilities = ["update"] }
"""


class Bao:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        words = ["-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-root-token-id=root", "-dev-no-store-token"]
        words += [f"-dev-listen-address={self.url.removeprefix('https://')}"]
        with (folder / "log").open("wb") as log:
            self.child = subprocess.Popen([BAO, "server", *words], stdout=log, stderr=log, env={"HOME": str(folder)})
        limit = time.monotonic() + PATIENCE_S
        while True:
            assert self.child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit, (folder / "log").read_text()
            found = list(folder.glob("*-ca.pem"))
            try:
                self.trust = str(found[0])
                if self.call("GET", "sys/health")[0] == 200:
                    break
            except (IndexError, OSError, ssl.SSLError):
                time.sleep(0.1)
        self.call("POST", "sys/mounts/transit", {"type": "transit"})
        self.call("PUT", "sys/policies/acl/qkd", {"policy": POLICY})
        _, made = self.call("POST", "auth/token/create", {"policies": ["qkd"], "no_default_policy": True})
        self.token = folder / "token"
        self.token.write_text(made["auth"]["client_token"])
        self.token.chmod(0o600)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        context = ssl.create_default_context(cafile=self.trust)
        line = http.client.HTTPSConnection(self.url.removeprefix("https://"), context=context, timeout=PATIENCE_S)
        try:
            line.request(
                method, f"/v1/{path}", json.dumps(body) if body is not None else None, {"X-Vault-Token": "root"}
            )
            answer = line.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            line.close()

    def config(self, **more: Any) -> VaultSink:
        return VaultSink(url=self.url, trust=self.trust, token_file=str(self.token), **more)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    if not BAO:
        pytest.skip("no OpenBao: QKDD_BAO names no `bao` and none is on the PATH (make judges-bao)")
    server = Bao(tmp_path_factory.mktemp("bao"))
    try:
        yield server
    finally:
        server.child.kill()
        server.child.wait()


def sink(config: VaultSink) -> Sink:
    made = make_sink(KeysConfig(vault=config), SystemClock())
    assert made is not None
    return made


def chunk(size: int = 100) -> Item:
    return Item(str(uuid.uuid4()), Secret(os.urandom(size)), {"link": "a-b", "index": 1, "class": "its"})


@pytest.mark.parametrize("bits", [128, 256])
def test_transit(bao: Bao, bits: int) -> None:
    async def main() -> None:
        target, item = sink(bao.config(engine="transit", key_size=bits)), chunk()
        part = Item(item.chunk_id, Secret(bytes(item.material.reveal()[: bits // 8])), {})
        assert await target.store([part]) == {item.chunk_id}, "an earlier call that was cut off in the middle"
        assert await target.store([item]) == {item.chunk_id}
        assert await target.store([item]) == {item.chunk_id}, "repeated, when the answer was lost"
        for key in keys_of(item, bits // 8):
            name = f"qkd-{key.key_id}"
            _, facts = await asyncio.to_thread(bao.call, "GET", f"transit/keys/{name}")
            assert (facts["data"]["type"], facts["data"]["exportable"]) == (f"aes{bits}-gcm96", False)
            assert list(facts["data"]["keys"]) == ["1"], "imported once"
            # who holds the key opens what the server sealed under it
            plain = base64.b64encode(b"hello").decode()
            _, sealed = await asyncio.to_thread(bao.call, "POST", f"transit/encrypt/{name}", {"plaintext": plain})
            raw = base64.b64decode(sealed["data"]["ciphertext"].removeprefix("vault:v1:"))
            assert AESGCM(bytes(key.key.reveal())).decrypt(raw[:12], raw[12:], None) == b"hello"
        other = Item(item.chunk_id, Secret(os.urandom(100)), {})
        with pytest.raises(HandOverRefused, match="another key"):
            await target.store([other])
        await target.close()

    asyncio.run(main())


def test_kv(bao: Bao) -> None:
    async def main() -> None:
        target, item = sink(bao.config()), chunk()
        assert await target.store([item]) == await target.store([item]) == {item.chunk_id}
        for key in keys_of(item, 32):
            _, found = await asyncio.to_thread(bao.call, "GET", f"secret/data/qkd/{key.key_id}")
            assert base64.b64decode(found["data"]["data"]["key"]) == bytes(key.key.reveal())
            assert found["data"]["metadata"]["version"] == 1
        with pytest.raises(HandOverRefused, match="another key"):
            await target.store([Item(item.chunk_id, Secret(os.urandom(100)), item.about)])
        await target.close()

    asyncio.run(main())


def test_refusals(bao: Bao) -> None:
    async def main() -> None:
        nowhere = sink(bao.config(engine="transit", mount="nowhere"))
        with pytest.raises(HandOverRefused, match="403"):  # the policy does not name it
            await nowhere.store([chunk()])
        await nowhere.close()
        await asyncio.to_thread(bao.call, "PUT", "sys/seal")
        for engine in ("kv", "transit"):
            sealed = sink(bao.config(engine=engine))
            with pytest.raises(HandOverFailed, match="503"):
                await sealed.store([chunk()])
            await sealed.close()

    asyncio.run(main())


def test_configuration() -> None:
    class Holder(KeysConfig, frozen=True):
        """As in a node's file."""

    text = '[vault]\nurl = "https://v:8200"\ntrust = "t"\ntoken_file = "f"\nengine = "transit"\n'
    assert parse(text, Holder).vault.mounted == "transit"  # type: ignore[union-attr]
    for more, key in (
        ("key_size = 192", "vault.key_size"),
        ('prefix = "a/b"', "vault.prefix"),
        ('engine = "x"', "vault.engine"),
    ):
        replaced = text.replace('engine = "transit"\n', "") if "engine" in more else text
        with pytest.raises(ConfigRefused) as caught:
            parse(replaced + more + "\n", Holder)
        assert key in {finding.key for finding in caught.value.findings}
