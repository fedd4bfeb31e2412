"""The section [telemetry]."""

from __future__ import annotations

from collections.abc import Iterator

from qkdd.core.config import Section
from qkdd.core.endpoint import Endpoint
from qkdd.telemetry.mqtt_config import MqttConfig


class TelemetryConfig(Section, frozen=True):
    """Where `/metrics` is served. There is no authentication on it, so it stays on the loopback interface.

    mqtt: a broker that is told as well, see docs/mqtt.md.
    """

    listen: str
    mqtt: MqttConfig | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        try:
            endpoint = Endpoint.parse(self.listen)
        except ValueError as error:
            yield "listen", str(error), 'for example "127.0.0.1:9101"'
            return
        if not endpoint.loopback:
            yield (
                "listen",
                f"{self.listen} is not a loopback address and metrics have no authentication",
                "listen on 127.0.0.1 and put a proxy with authentication, or the Prometheus agent, on this machine",
            )
