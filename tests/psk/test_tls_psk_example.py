"""docs/examples/tls-psk with the program `openssl` and two real KMSs."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qkdd.kms.dev_pair import DevPair

from .real import free_port

EXAMPLE = str(Path(__file__).parents[2] / "docs/examples/tls-psk/tls_psk.py")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")
def test_the_example(tmp_path: Path) -> None:
    where = f"127.0.0.1:{free_port()}"
    ends = tmp_path / "ends.json"

    def connect() -> tuple[bytes, str]:
        """What the server's program answers to a line, and what the client says of its key."""
        command = [sys.executable, EXAMPLE, "connect", str(ends), "alice", where]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stderr is not None
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            answer = client.stdout.readline()
            client.stdin.close()
            said = client.stderr.read().decode()
            assert client.wait(30) == 0
            return answer, said

    def serve() -> subprocess.Popen[str]:
        command = [sys.executable, EXAMPLE, "serve", str(ends), "bob", where, "sed", "-u", r"s/.*/\U&/"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def wrong(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = ["openssl", "s_client", "-connect", where, "-tls1_3", *words]
        return subprocess.run(command, input=b"hello\n", capture_output=True, check=False, timeout=60)

    async def main() -> None:
        pair = DevPair(tmp_path / "dev")
        await pair.start()
        ends.write_text(json.dumps(pair.facts()))
        with serve() as server:
            try:
                assert server.stderr is not None
                assert "listening" in await asyncio.to_thread(server.stderr.readline)
                used = []
                for _ in range(2):
                    answer, said = await asyncio.to_thread(connect)
                    assert answer == b"HELLO\n", said
                    words = ""
                    while not words.startswith("key "):
                        words = await asyncio.to_thread(server.stderr.readline)
                    used.append(words.split()[1])
                    assert used[-1] in said
                assert len(set(used)) == 2
                # a key ID that is used up, and no key at all
                for words in (["-psk_identity", used[0], "-psk", "00" * 32], []):
                    refused = await asyncio.to_thread(wrong, *words)
                    assert b"HELLO" not in refused.stdout
                    words_of_server = ""
                    while "refused" not in words_of_server:
                        words_of_server = await asyncio.to_thread(server.stderr.readline)
            finally:
                server.terminate()
                await pair.stop()

    asyncio.run(main())
