"""`qkdd-kms dev-pair`: keys in seconds, marked everywhere, and never a way into real use."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qkdd.core.errors import ConfigError
from qkdd.kms.config import KmsConfig
from qkdd.kms.dev_pair import DevPair
from qkdd.kms.errors import StoreMismatch
from qkdd.kms.server import KmsServer
from qkdd.testing.patience import PATIENCE_S

from .processes import PROGRAM


def example(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the shell example needs curl")
def test_the_command_and_its_examples(tmp_path: Path) -> None:
    with subprocess.Popen([PROGRAM, "dev-pair", str(tmp_path / "dev")], stdout=subprocess.PIPE, text=True) as child:
        try:
            lines = ""
            assert child.stdout is not None
            while not lines.endswith("}\n") or lines.count("{") != lines.count("}"):
                line = child.stdout.readline()
                assert line, "it ended"
                lines += line
            facts = json.loads(lines)
            assert "development only" in facts["insecure"]
            shell, python = facts["examples"]
            said = example(sys.executable, python)
            assert " equal " in said
            assert "qkdd_insecure" in said
            said = example(shell)
            keys = [json.loads(part.split(":", 1)[1])["keys"] for part in said.splitlines()]
            assert keys[0] == keys[1]
            page = http.client.HTTPConnection(urlsplit(facts["metrics"]["alice"]).netloc, timeout=PATIENCE_S)
            page.request("GET", "/metrics")
            metrics = page.getresponse().read().decode()
            page.close()
            series = [s for s in metrics.splitlines() if s.startswith("qkdd_")]
            assert series
            assert all('insecure="synthetic"' in s for s in series)
        finally:
            child.send_signal(signal.SIGTERM)
            assert child.wait(20) == 0
    again = subprocess.run(
        [PROGRAM, "dev-pair", str(tmp_path / "dev")], capture_output=True, text=True, check=False, timeout=30
    )
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_the_pool_fills_again_and_stores_do_not_mix(tmp_path: Path) -> None:
    async def main() -> None:
        pair = DevPair(tmp_path / "dev")
        await pair.start()
        try:
            service = pair.servers["alice"].service
            assert service is not None
            before = (await service.pool("kms-bob"))["kms-alice"]
            keys = await service.draw("sae-alice", ("sae-bob",), 100, 512)
            assert all(key.synthetic for key in keys)
            await pair._fill()
            assert (await service.pool("kms-bob"))["kms-alice"] >= before
            config: KmsConfig = pair.servers["alice"].config
        finally:
            await pair.stop()
        with pytest.raises(StoreMismatch):
            await KmsServer(config).start()
        with pytest.raises(ConfigError):
            await DevPair(tmp_path / "dev").start()

    asyncio.run(main())


def test_a_real_store_takes_no_synthetic_key(play: Any) -> None:
    async def scenario(sites: Any) -> None:
        await sites.feed(0)
        status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status == 200
        assert answer["keys"][0]["key_extension"] == {"qkdd_class": "its", "qkdd_links": ["a-b"]}
        assert b"synthetic" not in sites.servers["alice"].meter.text()
        await sites.stop("alice")
        with pytest.raises(StoreMismatch):
            await KmsServer(sites.servers["alice"].config, synthetic=True).start()

    play(scenario)


def test_no_configuration_can_name_it() -> None:
    fields = json.dumps([f for f in KmsConfig.__struct_fields__])
    assert "synthetic" not in fields
    assert "insecure" not in fields
