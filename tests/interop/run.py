"""Our TLS against other implementations: `make interop`.

Go's crypto/tls, Node (OpenSSL 3.5) and rustls (`rtls`), each as client and as server, with ML-DSA-65 and ML-DSA-87 certificates
on both ends and each group. Prints the matrix; exit code 1 when a combination that is expected to work does not, or one that
is listed as unsupported does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki
from qkdd.peer.tls import TlsProfile, client_context, negotiated, server_context

HERE = Path(__file__).parent
ALGORITHMS = ("ml-dsa-65", "ml-dsa-87")
GROUPS = ("X25519MLKEM768", "SecP384r1MLKEM1024")
# rustls 0.23 with aws-lc-rs has X25519MLKEM768 and no group with ML-KEM-1024
UNSUPPORTED = {("rustls", "SecP384r1MLKEM1024")}
SECONDS = 30.0


def profile(paths: CredentialPaths, group: str) -> TlsProfile:
    return TlsProfile(
        certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, groups=(group,), name="interop"
    )


class Refused(Exception):
    """The handshake failed; the text says who said what."""


async def as_server(words: list[str], pki: DemoPki, group: str) -> str:
    """We serve, the other is the client. Returns group and signature as we negotiated them."""
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(4) == b"ping":
            facts = negotiated(writer)
            found.set_result(f"{facts.group} {facts.signature} {facts.peer}")
            writer.write(b"pong")
            await writer.drain()
        writer.close()

    context = server_context(profile(pki.post_quantum["kms-alice"], group))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    process = await start([*words, "client", address, *files(pki.post_quantum["sae-alice"]), group])
    try:
        code, said = await finish(process)
        if code or not found.done():
            raise Refused(said)
        return found.result()
    finally:
        server.close()


async def as_client(words: list[str], pki: DemoPki, group: str) -> str:
    """The other serves, we are the client."""
    process = await start([*words, "server", "127.0.0.1:0", *files(pki.post_quantum["kms-alice"]), group])
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), SECONDS)).decode().strip()
    try:
        host, _, port = line.rpartition(":")
        context = client_context(profile(pki.post_quantum["sae-alice"], group))
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        facts = negotiated(writer)
        writer.write(b"ping")
        if await reader.readexactly(4) != b"pong":
            raise Refused("no pong")
        writer.close()
        code, said = await finish(process)
        if code:
            raise Refused(said)
        return f"{facts.group} {facts.signature} {facts.peer}"
    except (OSError, ValueError, EOFError) as error:
        raise Refused(f"{type(error).__name__}: {error}; {(await finish(process))[1]}") from None


def files(paths: CredentialPaths) -> list[str]:
    return [str(paths.certificate), str(paths.key), str(paths.trust)]


async def start(words: list[str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)


async def finish(process: asyncio.subprocess.Process) -> tuple[int, str]:
    try:
        out, error = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        process.kill()
        out, error = await process.communicate()
    return process.returncode or 0, (out + error).decode(errors="replace").strip()


def implementations(python: Path, folder: Path) -> dict[str, list[str]]:
    """Name and command line of each; builds the Go program."""
    bin_ = python.absolute().parent
    program = folder / "peer-go"
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOCACHE": str(folder / "go"), "GO111MODULE": "off"}
    subprocess.run([bin_ / "go", "build", "-o", program, HERE / "peer.go"], check=True, env=environment)
    return {
        "Go": [str(program)],
        "Node": [str(bin_ / "node"), str(HERE / "peer.js")],
        "rustls": [sys.executable, str(HERE / "peer_rustls.py")],
    }


async def matrix(peers: dict[str, list[str]], folder: Path) -> bool:
    good = True
    for algorithm in ALGORITHMS:
        pki = demo_pki(folder / algorithm, algorithm=algorithm)
        for name, words in peers.items():
            for group in GROUPS:
                for role, play in (("client", as_server), ("server", as_client)):
                    expected = (name, group) not in UNSUPPORTED
                    try:
                        said, worked = await play(words, pki, group), True
                        worked = said.split()[0] == group
                    except Refused as error:
                        said, worked = str(error).splitlines()[-1] if str(error) else "refused", False
                    verdict = "good" if worked == expected else "BAD "
                    good &= worked == expected
                    what = said if worked else f"not supported by {name}: {said[:100]}" if not expected else said
                    print(f"{verdict}  {name:<6} as {role}, {algorithm}, {group}: {what}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="Python of the environment with Go and Node.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qkdd-interop-") as name:
        folder = Path(name)
        return 0 if asyncio.run(matrix(implementations(options.python, folder), folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
