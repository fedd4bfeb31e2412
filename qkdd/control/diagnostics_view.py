"""The JSON body of `GET /v1/diagnostics`."""

from __future__ import annotations

from typing import Any

from qkdd.control.views import View


class Check(View, frozen=True):
    """One item of the self-test."""

    name: str
    ok: bool
    detail: str


class DiagnosticsView(View, frozen=True):
    """What only the daemon knows; everything else in the archive comes from the other routes. configuration: redacted, paths of
    key files but never what is in them. log: the last lines, oldest first. metrics: Prometheus text."""

    versions: dict[str, str]
    configuration: dict[str, Any]
    log: list[str]
    metrics: str
    self_test: list[Check]
