"""`qkdd-kms` as an operator meets it: the command line, signals, kill -9."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import ssl
import subprocess
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from qkdd.peer.authority import Authority
from qkdd.peer.pki_demo import DemoPki, demo_pki
from qkdd.testing.patience import PATIENCE_S

from .processes import PROGRAM, ProcessSites, two_processes
from .sites import SITES


async def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [PROGRAM, *arguments]
    return await asyncio.to_thread(
        subprocess.run, call, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


async def push_both(sites: ProcessSites, index: int, size: int = 640) -> None:
    chunk_id, material = str(uuid.UUID(int=index + 1, version=4)), random.Random(index).randbytes(size)
    for site in SITES:
        assert (await sites.push(site, chunk_id, index, material))[0] == 200


async def eventually(sites: ProcessSites, site: str, path: str, body: Any = None) -> Any:
    """The answer once it is no 503 and the connection holds."""
    for _ in range(round(PATIENCE_S / 0.05)):
        try:
            status, answer, _ = await sites.sae(site, "POST", path, body)
        except aiohttp.ClientError:
            status = 503
        if status != 503:
            return status, answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} does not answer")


def test_command_line_and_graceful_stop(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_processes(pki, tmp_path) as sites:
            file = str(sites.files["alice"])
            good = await cli("check-config", file)
            assert (good.returncode, good.stdout) == (0, f"{file}: good\n")
            bad = tmp_path / "bad.toml"
            bad.write_text(sites.files["alice"].read_text() + '[limits2]\nx = "1"\n')
            refused = await cli("check-config", str(bad))
            assert refused.returncode == 2
            assert "limits2" in refused.stderr
            second = await cli("run", file)  # its store and its ports are taken
            assert second.returncode == 2
            assert "another process" in second.stderr
            for index in range(2):
                await push_both(sites, index)
            status, answer = await eventually(sites, "alice", "sae-bob/enc_keys", {"number": 3})
            assert status == 200
            there = str(sites.files["bob"])
            state = json.loads((await cli("status", there)).stdout)
            assert (state["kms"], state["draws_open"], sum(state["chunks"].values())) == ("kms-bob", 1, 2)
            for site in SITES:
                sites.children[site].send_signal(signal.SIGTERM)
            assert [await sites.wait(site) for site in SITES] == [0, 0]
            assert json.loads((await cli("status", there)).stdout)["draws_open"] == 1
            await asyncio.gather(*(sites.start(site) for site in SITES))
            ids = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
            assert await eventually(sites, "bob", "sae-alice/dec_keys", ids) == (200, answer)
            logged = (tmp_path / "alice.log").read_text()
            assert all(k["key"] not in logged for k in answer["keys"])

    asyncio.run(main())


def test_sighup_reads_certificates_and_revocations_again(tmp_path: Path) -> None:
    def serial(port: int) -> int:
        return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode()).serial_number

    async def main() -> None:
        own = demo_pki(tmp_path / "pki")
        authority = Authority(tmp_path / "pki" / "classical-ca")
        async with two_processes(own, tmp_path / "run") as sites:
            port = sites.listen["alice"]["sae.classical"][1]
            before = await asyncio.to_thread(serial, port)
            assert (await sites.sae("alice", "GET", "sae-bob/status", suite="classical"))[0] == 200
            renewed = authority.issue("kms", "kms-alice", dns=("localhost",), addresses=("127.0.0.1",))
            renewed.write(own.classical["kms-alice"].certificate, own.classical["kms-alice"].key)
            sae = x509.load_pem_x509_certificate(own.classical["sae-alice"].certificate.read_bytes())
            authority.revoke(sae.serial_number)
            child = sites.children["alice"]
            child.send_signal(signal.SIGHUP)
            after = before
            for _ in range(round(PATIENCE_S / 0.05)):
                after = await asyncio.to_thread(serial, port)
                if after != before:
                    break
                await asyncio.sleep(0.05)
            assert after == renewed.chain[0].serial_number
            await sites.client("sae-alice", "classical").close()
            del sites._clients["sae-alice", "classical"]
            with pytest.raises(aiohttp.ClientError):
                await sites.sae("alice", "GET", "sae-bob/status", suite="classical")
            assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200  # the other PKI knows nothing of it
            own.classical["kms-alice"].certificate.write_text("no certificate")
            child.send_signal(signal.SIGHUP)
            for _ in range(round(PATIENCE_S / 0.05)):
                if "certificate not reloaded" in (tmp_path / "run" / "alice.log").read_text():
                    break
                await asyncio.sleep(0.05)
            assert await asyncio.to_thread(serial, port) == after  # what cannot be read keeps its old one
            assert child.poll() is None

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.crash
def test_kill_9_while_applications_draw(pki: DemoPki, tmp_path: Path) -> None:
    """Both sites are killed in turn at random moments: no key twice, none that differs, none lost once its master had it."""

    async def main() -> None:
        chance = random.Random(11)
        async with two_processes(pki, tmp_path) as sites:
            for index in range(10):
                await push_both(sites, index, 6400)
            drawn: dict[str, dict[str, str]] = {site: {} for site in SITES}
            going = True

            async def master(site: str) -> None:
                while going:
                    try:
                        other = SITES[1 - SITES.index(site)]
                        status, answer, _ = await sites.sae(site, "POST", f"sae-{other}/enc_keys", {"number": 2})
                    except (aiohttp.ClientError, OSError):
                        status = 503
                    if status == 200:
                        for key in answer["keys"]:
                            assert key["key_ID"] not in drawn[site]
                            drawn[site][key["key_ID"]] = key["key"]
                    await asyncio.sleep(0.05 if status != 200 else 0.0)

            masters = [asyncio.create_task(master(site)) for site in SITES for _ in range(2)]
            for round_ in range(6):
                await asyncio.sleep(chance.uniform(0.1, 0.7))
                site = SITES[round_ % 2]
                await sites.kill(site)
                await sites.start(site)
            await asyncio.sleep(1.5)
            going = False
            await asyncio.gather(*masters)
            assert len(drawn["alice"]) > 5
            assert len(drawn["bob"]) > 5
            values = [*drawn["alice"].values(), *drawn["bob"].values()]
            assert len(set(values)) == len(values)
            for site, other in (SITES, SITES[::-1]):
                ids = list(drawn[site])
                for start in range(0, len(ids), 100):
                    part = ids[start : start + 100]
                    body = {"key_IDs": [{"key_ID": i} for i in part]}
                    status, answer = await eventually(sites, other, f"sae-{site}/dec_keys", body)
                    assert status == 200
                    assert {k["key_ID"]: k["key"] for k in answer["keys"]} == {i: drawn[site][i] for i in part}

    asyncio.run(main())
