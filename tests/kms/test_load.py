"""`qkdd-kms load` measures what it says: every request answered with keys, the ceiling beside it."""

from __future__ import annotations

import asyncio

import pytest

from qkdd.kms.load.asker import percentile, request
from qkdd.kms.load.run import Load, lines


def test_requests_and_percentiles() -> None:
    assert request("/a").startswith(b"GET /a HTTP/1.1\r\n")
    head, _, body = request("/a", b"{}").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a HTTP/1.1\r\n")
    assert (b"Content-Length: 2" in head, body) == (True, b"{}")
    assert (percentile([3.0, 1.0, 2.0], 0.5), percentile([1.0] * 99 + [9.0], 0.99)) == (2.0, 9.0)


@pytest.mark.slow
def test_a_short_measurement() -> None:
    said: list[str] = []
    load = Load(seconds=0.2, runs=1, concurrency=8, saes=20, connections=20, say=said.append)
    report = asyncio.run(load.run())
    assert [(row.request, row.keys) for row in report.rows] == [
        ("enc_keys", 1),
        ("dec_keys", 1),
        ("enc_keys", 20),
        ("dec_keys", 20),
    ]
    for row in report.rows:
        assert 0 < row.ratio_cpu < 1, "a KMS cannot cost less than a handler that does nothing"
        assert row.kms.p99_ms >= row.kms.p50_ms > 0
    assert report.rows[2].answer_bytes > 10 * report.rows[0].answer_bytes
    assert report.memory.with_connections > report.memory.before > 0
    assert len(lines(report)) == 5
