"""Every sink under the one state machine: stored once however often a call is repeated, nothing erased before it is stored.

Vault is a stub with the documented behaviour of KV version 2 (`cas`); PKCS#11 is SoftHSM 2; KMIP is a PyKMIP server in its own
environment, named by QKDD_PYKMIP_SERVER (the program `pykmip-server`). What is not there is skipped and says so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import ConfigError, CredentialError
from qkdd.core.secret import Secret
from qkdd.core.units import Seconds
from qkdd.keys import HandOver, KeysConfig
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks import ttlv
from qkdd.keys.sinks.config import ExecSink, FileSink, KmipSink, Pkcs11Sink, VaultSink
from qkdd.keys.sinks.contract import Item, Sink, keys_of
from qkdd.keys.sinks.factory import make_sink
from qkdd.keys.sinks.pkcs11 import Pkcs11Target
from qkdd.peer.pki_demo import DemoPki, demo_pki
from qkdd.testing.patience import PATIENCE_S

from .nodes import Node, committed, pair


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("pki") / "pki")


def hand_over(node: Node, config: KeysConfig) -> HandOver:
    return HandOver(
        config,
        node.spool,
        node_id="alice",
        peer_id="bob",
        link="a-b",
        context=None,
        clock=SystemClock(),
        meter=RecordingMeter(),
    )


def item(size: int = 100, seed: int = 1) -> Item:
    material = Secret(bytes((seed * i) % 251 for i in range(size)))
    return Item(str(uuid.UUID(int=seed)), material, {"link": "a-b", "index": seed, "class": "its", "auth": None})


async def states(node: Node) -> dict[str, int]:
    return {str(s): n for s, (n, _) in (await node.spool.totals()).items()}


def test_keys_of_a_chunk() -> None:
    whole = item(100)
    keys = list(keys_of(whole, 32))
    assert len(keys) == 3
    assert b"".join(bytes(k.key.reveal()) for k in keys) == bytes(whole.material.reveal()[:96])
    assert keys[0].key_id == str(uuid.uuid5(uuid.UUID(int=1), "0"))


# files


def test_key_files_and_the_state_machine(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        await committed(a, b, 2)
        chunks = await a.chunks()
        folder = tmp_path / "keys"
        folder.write_text("in the way")
        out = hand_over(a, KeysConfig(file=FileSink(directory=str(folder))))
        with pytest.raises(HandOverFailed):
            await out.push_once()
        assert await states(a) == {"offered": 1, "sealed": 1}
        folder.unlink()
        assert [await out.push_once(), await out.push_once()] == [1, 1]
        assert await states(a) == {"released": 2}
        found = {p.stem.replace("-", ""): json.loads(p.read_text()) for p in folder.iterdir()}
        assert {k: base64.b64decode(v["value"]) for k, v in found.items()} == chunks
        assert {v["format"] for v in found.values()} == {"qkdd key file 1"}
        assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
        for node in (a, b):
            await node.close()

    asyncio.run(main())


def test_a_file_of_another_content_is_never_overwritten(tmp_path: Path) -> None:
    target = make_sink(KeysConfig(file=FileSink(directory=str(tmp_path))), SystemClock())
    assert target is not None
    asyncio.run(target.store([item()]))
    asyncio.run(target.store([item()]))
    with pytest.raises(HandOverRefused):
        asyncio.run(target.store([Item(item().chunk_id, Secret(b"other"), item().about)]))


@pytest.mark.parametrize(
    ("script", "error", "state"),
    [
        ("exit 1", HandOverFailed, "offered"),
        ("exit 65", HandOverRefused, "sealed"),
        ("sleep 60", HandOverFailed, "offered"),
    ],
)
def test_a_program_that_does_not_take_it(tmp_path: Path, script: str, error: type[Exception], state: str) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        [chunk] = (await a.chunks()).values()
        out = hand_over(a, KeysConfig(exec=ExecSink(command=("sh", "-c", script), deadline=Seconds(0.2))))
        with pytest.raises(error):
            await out.push_once()
        assert await states(a) == {state: 1}
        took = hand_over(a, KeysConfig(exec=ExecSink(command=("sh", "-c", f"cat > {tmp_path}/got"))))
        assert await took.push_once() == 1
        assert base64.b64decode(json.loads((tmp_path / "got").read_text())["value"]) == chunk
        for node in (a, b):
            await node.close()

    asyncio.run(main())


# OpenBao, Vault


GOOD = "s.token"


class Kv2:
    """KV version 2 as documented: POST with cas=0 fails when there is a version; `script` makes it misbehave."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self.script: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        step = self.script.pop(0) if self.script else "ok"
        if step == "sealed":
            return web.json_response({"errors": ["Vault is sealed"]}, status=503)
        if request.headers.get("X-Vault-Token") != GOOD:
            return web.json_response({"errors": ["permission denied"]}, status=403)
        path = request.match_info["path"]
        if request.method == "GET":
            if path not in self.secrets:
                return web.json_response({"errors": []}, status=404)
            return web.json_response({"data": {"data": self.secrets[path], "metadata": {"version": 1}}})
        body = await request.json()
        if body["options"]["cas"] == 0 and path in self.secrets:
            text = "check-and-set parameter did not match the current version"
            return web.json_response({"errors": [text]}, status=400)
        self.secrets[path] = body["data"]
        self.writes += 1
        if step == "stored, no answer" and request.transport is not None:
            request.transport.abort()
        return web.json_response({"data": {"version": 1}})


@asynccontextmanager
async def vault(pki: DemoPki, tmp_path: Path, word: str = GOOD) -> AsyncIterator[tuple[Kv2, VaultSink]]:
    kv = Kv2()
    app = web.Application()
    app.router.add_route("*", "/v1/secret/data/{path:.*}", kv.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    paths = pki.classical["kms-alice"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate, paths.key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    file = tmp_path / "token"
    file.write_text(word + "\n")
    file.chmod(0o600)
    port = runner.addresses[0][1]
    try:
        yield kv, VaultSink(url=f"https://127.0.0.1:{port}", trust=str(paths.trust), token_file=str(file))
    finally:
        await runner.cleanup()


def test_vault_through_lost_answers(tmp_path: Path, pki: DemoPki) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        [chunk] = (await a.chunks()).values()
        async with vault(pki, tmp_path) as (kv, config):
            out = hand_over(a, KeysConfig(vault=config))
            for step in (["sealed"], ["ok", "stored, no answer"], []):
                kv.script = step
                if step:
                    with pytest.raises(HandOverFailed):
                        await out.push_once()
                    assert await states(a) == {"offered": 1}
                else:
                    assert await out.push_once() == 1
            await out.close()
        assert await states(a) == {"released": 1}
        assert kv.writes == len(kv.secrets) == len(chunk) // 32
        stored = {base64.b64decode(s["key"]) for s in kv.secrets.values()}
        assert stored == {chunk[i : i + 32] for i in range(0, len(chunk) // 32 * 32, 32)}
        for node in (a, b):
            await node.close()

    asyncio.run(main())


def test_vault_refusals(tmp_path: Path, pki: DemoPki) -> None:
    async def main() -> None:
        async with vault(pki, tmp_path, word="wrong") as (_, config):
            target = make_sink(KeysConfig(vault=config), SystemClock())
            assert target is not None
            with pytest.raises(HandOverRefused, match="permission denied"):
                await target.store([item()])
            await target.close()
        async with vault(pki, tmp_path) as (kv, config):
            target = make_sink(KeysConfig(vault=config), SystemClock())
            assert target is not None
            await target.store([item()])
            for secret in kv.secrets.values():
                secret["key"] = base64.b64encode(bytes(32)).decode()
            with pytest.raises(HandOverRefused, match="another key"):
                await target.store([item()])
            await target.close()
            os.chmod(config.token_file, 0o644)
            open_token = make_sink(KeysConfig(vault=config), SystemClock())
            assert open_token is not None
            with pytest.raises(CredentialError):
                await open_token.store([item()])

    asyncio.run(main())


# PKCS#11

SOFTHSM = next((p for p in Path("/usr/lib").rglob("libsofthsm2.so")), None)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh token `qkd` with PIN 1234; returns the PIN file."""
    if SOFTHSM is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM 2 is not installed")
    pytest.importorskip("pkcs11")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    words = ["--init-token", "--free", "--label", "qkd", "--so-pin", "87654321", "--pin", "1234"]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    pin = tmp_path / "pin"
    pin.write_text("1234")
    pin.chmod(0o600)
    return pin


def objects_of_token() -> dict[uuid.UUID, bool]:
    """CKA_ID and CKA_EXTRACTABLE of every secret key, asked by a process of its own.

    SoftHSM that is killed inside C_CreateObject may leave an object with its default attributes: no ID and no value.
    """
    script = (
        "import json, pkcs11\n"
        f"token = pkcs11.lib({str(SOFTHSM)!r}).get_token(token_label='qkd')\n"
        "with token.open(user_pin='1234') as session:\n"
        "    found = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY})\n"
        "    print(json.dumps([[o[pkcs11.Attribute.ID].hex(), o[pkcs11.Attribute.EXTRACTABLE]] for o in found]))\n"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    pairs = [pair for pair in json.loads(said) if pair[0]]
    assert len(pairs) == len({name for name, _ in pairs}), "an object twice"
    return {uuid.UUID(name): extractable for name, extractable in pairs}


def test_softhsm(tmp_path: Path, token: Path) -> None:
    pin = token
    pin.write_text("9999")
    config = KeysConfig(pkcs11=Pkcs11Sink(module=str(SOFTHSM), token="qkd", pin_file=str(pin)))

    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        [chunk] = (await a.chunks()).values()
        out = hand_over(a, config)
        with pytest.raises(HandOverFailed, match="Pin"):
            await out.push_once()
        assert await states(a) == {"offered": 1}
        pin.write_text("1234")
        # an earlier call stored a part before it was cut off
        [(record, secret)] = await a.spool.offer([(await a.spool.waiting(1))[0].id], out._config.target)
        part = Item(record.chunk_id, Secret(bytes(secret.reveal()[:64])), {})
        target = make_sink(config, SystemClock())
        assert target is not None
        await target.store([part])
        await target.close()
        assert await out.push_once() == 1
        await out.close()
        assert await states(a) == {"released": 1}
        found = await asyncio.to_thread(objects_of_token)
        assert set(found.values()) == {False}
        assert set(found) == {uuid.uuid5(uuid.UUID(record.chunk_id), str(n)) for n in range(len(chunk) // 32)}
        for node in (a, b):
            await node.close()

    asyncio.run(main())


def test_a_library_that_dies_takes_nobody_along(tmp_path: Path, token: Path) -> None:
    """The child is killed in the middle of a call, again and again; every key is stored once."""
    config = KeysConfig(pkcs11=Pkcs11Sink(module=str(SOFTHSM), token="qkd", pin_file=str(token)))
    whole = item(32 * 64)

    async def main() -> None:
        target = make_sink(config, SystemClock())
        assert isinstance(target, Pkcs11Target)
        real, armed = target._client.ask, 0.0

        def ask(link: Any, verb: str, timeout: float, **arguments: Any) -> Any:
            nonlocal armed
            if verb != "store" or not armed:
                return real(link, verb, timeout, **arguments)
            # the call is under way, and what it stores of its 16 keys is up to chance
            threading.Timer(armed, link._child.signal, (signal.SIGKILL,)).start()
            child, armed = link._child, 0.0
            answer = real(link, verb, timeout, **arguments)
            child.wait(5.0)  # it was faster: then it dies between two calls
            return answer

        target._client.ask = ask  # type: ignore[method-assign]
        for milliseconds in (4, 8, 12, 16):
            armed = milliseconds / 1000
            with pytest.raises(HandOverFailed, match="SIGKILL"):
                await target.store([whole])
        assert await target.store([whole]) == {whole.chunk_id}
        await target.close()
        found = await asyncio.to_thread(objects_of_token)
        assert set(found) == {uuid.UUID(key.key_id) for key in keys_of(whole, 32)}

    asyncio.run(main())


def test_a_library_that_crashes_hangs_or_is_none(tmp_path: Path, token: Path) -> None:
    """Vendors' libraries of our own making: one jumps to nowhere when it is initialised, one never comes back."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for a library that crashes")
    (tmp_path / "text.so").write_text("no library")
    modules = {"is none": tmp_path / "text.so"}
    for name, body in (("crashes", "*(volatile int *)0 = 1;"), ("hangs", "for (;;) pause();")):
        source, modules[name] = tmp_path / f"{name}.c", tmp_path / f"{name}.so"
        source.write_text(f"#include <unistd.h>\nunsigned long C_GetFunctionList(void *list) {{ {body} return 5; }}\n")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(modules[name]), str(source)], check=True)

    async def main() -> None:
        for name, words in (("crashes", "SIGSEGV"), ("hangs", "did not come back"), ("is none", "text.so")):
            sink = Pkcs11Sink(module=str(modules[name]), token="qkd", pin_file=str(token), deadline=Seconds(1.5))
            target = make_sink(KeysConfig(pkcs11=sink), SystemClock())
            assert target is not None
            with pytest.raises(ConfigError if name == "is none" else HandOverFailed, match=words):
                await target.store([item()])
            await target.close()

    asyncio.run(main())


# KMIP

PYKMIP = os.environ.get("QKDD_PYKMIP_SERVER", "")


@pytest.mark.skipif(not PYKMIP, reason="QKDD_PYKMIP_SERVER names no pykmip-server")
def test_pykmip(tmp_path: Path, pki: DemoPki) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths, client = pki.classical["kms-alice"], pki.classical["sae-alice"]
    (tmp_path / "policy").mkdir()
    (tmp_path / "server.conf").write_text(
        f"[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={paths.certificate}\nkey_path={paths.key}\n"
        f"ca_path={paths.trust}\nauth_suite=TLS1.2\npolicy_path={tmp_path}/policy\nenable_tls_client_auth=True\n"
        "tls_cipher_suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\nlogging_level=INFO\n"
        f"database_path={tmp_path}/kmip.db\n"
    )
    command = [PYKMIP, "-f", str(tmp_path / "server.conf"), "-l", str(tmp_path / "server.log")]
    config = KmipSink(
        server=f"127.0.0.1:{port}", certificate=str(client.certificate), key=str(client.key), trust=str(paths.trust)
    )

    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        [chunk] = (await a.chunks()).values()
        out = hand_over(a, KeysConfig(kmip=config))
        with pytest.raises(HandOverFailed):  # not up yet
            await out.push_once()
        quiet = asyncio.subprocess.DEVNULL
        server = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    assert await out.push_once() == 1
                    break
                except HandOverFailed:
                    assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                    await asyncio.sleep(0.2)
            assert await states(a) == {"released": 1}
            target = make_sink(KeysConfig(kmip=config), SystemClock())
            assert target is not None
            start = time.monotonic()
            fresh = Item(str(uuid.uuid4()), Secret(os.urandom(64)), {})
            again = Item(fresh.chunk_id, fresh.material, {}, offered_before=True)
            assert await target.store([fresh]) == await target.store([again])  # the second finds them
            print(f"{2 / (time.monotonic() - start):.0f} keys/s registered and found again")
            await target.close()
            await out.close()
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # it has children
            await server.wait()
        rows = sqlite3.connect(tmp_path / "kmip.db")
        assert rows.execute("SELECT count(*) FROM managed_objects").fetchone()[0] == len(chunk) // 32 + 2
        rows.close()
        for node in (a, b):
            await node.close()

    asyncio.run(main())


values = st.recursive(
    st.one_of(
        st.integers(-(2**31), 2**31 - 1).map(lambda v: ("integer", v)),
        st.integers(0, 2**32 - 1).map(lambda v: ("enumeration", v)),
        st.text(max_size=20).map(lambda v: ("text", v)),
        st.binary(max_size=20).map(lambda v: ("octets", v)),
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda v: ("structure", v)),
    max_leaves=12,
)


def build(value: Any) -> bytes:
    kind, content = value
    if kind == "structure":
        return ttlv.structure(0x420001, *(build(member) for member in content))
    return getattr(ttlv, kind)(0x420002, content)  # type: ignore[no-any-return]


def plain(node: ttlv.Node) -> Any:
    return [plain(n) for n in node.value] if isinstance(node.value, list) else node.value


def bare(value: Any) -> Any:
    return [bare(member) for member in value[1]] if value[0] == "structure" else value[1]


@given(values)
def test_ttlv_there_and_back(value: Any) -> None:
    data = build(value)
    assert len(data) % 8 == 0
    assert ttlv.length_of(data[:8]) == len(data) - 8
    [node] = ttlv.decode(data)
    assert plain(node) == bare(value)


@given(st.binary(max_size=64))
def test_ttlv_of_rubbish(data: bytes) -> None:
    try:
        ttlv.decode(data)
    except ttlv.MalformedTtlv:
        return


def test_one_sink_at_a_time() -> None:
    file, command = FileSink(directory="x"), ExecSink(command=("x",))
    assert not list(KeysConfig(file=file).check())
    assert {key for key, _, _ in KeysConfig(file=file, exec=command).check()} == {"exec"}
    assert {key for key, _, _ in KeysConfig().check()} == {"kms_url", "kms_id", "certificate", "key", "trust", "crl"}
    assert {key for key, _, _ in KeysConfig(file=file, kms_url="https://h:1").check()} == {"kms_url"}
    sink: Sink | None = make_sink(KeysConfig(kms_url="https://h:1"), SystemClock())
    assert sink is None
