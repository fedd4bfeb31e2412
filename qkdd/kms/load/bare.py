"""The ceiling: an aiohttp handler that reads the body and returns a constant one, over the TLS of a KMS's listener.

`python -m qkdd.kms.load.bare CERTIFICATE KEY TRUST CRL PORT`; the size of the answer is the last part of the path.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from aiohttp import web

from qkdd.kms.gate import small_tls_buffers
from qkdd.peer.tls import TlsProfile, server_context


async def _constant(request: web.Request) -> web.Response:
    await request.read()
    size = int(request.match_info["size"])
    return web.Response(body=b" " * size, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


async def serve(profile: TlsProfile, port: int) -> None:
    """Until SIGTERM."""
    app = web.Application()
    app.router.add_route("*", "/{size}", _constant)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=server_context(profile), backlog=1024).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    certificate, key, trust, crl = map(Path, sys.argv[1:5])
    small_tls_buffers()
    asyncio.run(
        serve(
            TlsProfile(certificate=certificate, key=key, trust=trust, crl=crl, suite="classical", name="bare"),
            int(sys.argv[5]),
        )
    )
