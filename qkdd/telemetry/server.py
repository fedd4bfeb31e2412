"""`/metrics` over HTTP on a loopback address."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from qkdd.core.endpoint import Endpoint
from qkdd.telemetry.errors import MetricsListenFailed
from qkdd.telemetry.meter import CONTENT_TYPE, PrometheusMeter


class MetricsServer:
    """Serves the meter. `refresh` is called before each scrape, to set what is only known when asked (ages, levels)."""

    def __init__(self, listen: str, meter: PrometheusMeter, refresh: Callable[[], None] | None = None) -> None:
        self._endpoint = Endpoint.parse(listen)
        self._meter = meter
        self._refresh = refresh
        self._runner: web.AppRunner | None = None

    async def start(self) -> Endpoint:
        """Listen; returns the address that was really taken. Raises MetricsListenFailed and leaves nothing behind."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._endpoint.host, self._endpoint.port).start()
        except OSError as error:
            await runner.cleanup()
            raise MetricsListenFailed(f"metrics cannot listen on {self._endpoint}: {error.strerror}") from None
        self._runner = runner
        host, port = runner.addresses[0][:2]
        return Endpoint(str(host), int(port))

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self._refresh is not None:
            self._refresh()
        return web.Response(body=self._meter.exposition(), headers={"Content-Type": CONTENT_TYPE})
