"""A secret cannot be rendered, pickled, compared or iterated by accident."""

import copy
import json
import pickle

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core.secret import Secret

MARK = b"\xa5secret-bytes\x5a"


@pytest.mark.parametrize("render", [repr, str, "{}".format, lambda s: f"{s:>10}", lambda s: "%s" % s])  # noqa: UP031
def test_rendering_shows_only_the_length(render) -> None:
    text = render(Secret(MARK))
    assert "secret-bytes" not in text
    assert f"{len(MARK)} bytes" in text


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy, bytes, list, hash, json.dumps])
def test_ways_out_are_closed(leak) -> None:
    with pytest.raises(TypeError):
        leak(Secret(MARK))


def test_equality_by_operator_is_refused() -> None:
    with pytest.raises(TypeError):
        _ = Secret(MARK) == Secret(MARK)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_same_as_is_equality(a: bytes, b: bytes) -> None:
    assert Secret(a).same_as(Secret(b)) == (a == b)


def test_wipe_zeroes_the_very_buffer() -> None:
    buffer = bytearray(MARK)
    secret = Secret.take(buffer)
    secret.wipe()
    assert buffer == bytes(len(MARK))


def test_a_dying_holder_wipes() -> None:
    buffer = bytearray(MARK)
    secret = Secret.take(buffer)
    del secret
    assert buffer == bytes(len(MARK))


def test_a_log_line_shows_no_secret(capsys) -> None:
    from qkdd.core import log

    log.configure()
    try:
        log.get("test").info("event", secret=Secret(MARK), raw=MARK)
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert "event" in line
    assert "secret-bytes" not in line
