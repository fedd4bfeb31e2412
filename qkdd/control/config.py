"""The section [control]."""

from __future__ import annotations

from collections.abc import Iterator

from qkdd.core.endpoint import Endpoint
from qkdd.core.local_config import LocalSocket


class ControlConfig(LocalSocket, frozen=True):
    """The node's control socket. page: a loopback address on which the status page is served too, for a browser; whoever has
    an account on this machine may read it."""

    page: str | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from LocalSocket.check(self)
        if self.page is None:
            return
        try:
            endpoint = Endpoint.parse(self.page)
        except ValueError as error:
            yield "page", str(error), 'for example "127.0.0.1:9102"'
            return
        if not endpoint.loopback:
            yield (
                "page",
                f"{self.page} is not a loopback address and the page has no authentication",
                "listen on 127.0.0.1 and reach it through ssh: ssh -L 9102:127.0.0.1:9102 node",
            )
