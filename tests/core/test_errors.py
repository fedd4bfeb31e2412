"""The error tree keeps its promises: stable codes, no duplicates, plain dictionaries."""

import json

import pytest

from qkdd.core.errors import ConfigError, Kind, QkddError, registered_errors


def test_every_registered_error_has_code_meaning_and_remedy() -> None:
    shipped = {code: kind for code, kind in registered_errors().items() if kind.__module__.split(".")[0] == "qkdd"}
    assert shipped
    for code, kind in shipped.items():
        assert kind.code == code
        assert kind.meaning.endswith(".")
        assert len(kind.default_remedy) > 10
        assert isinstance(kind.kind, Kind)


def test_a_second_class_cannot_take_a_code() -> None:
    with pytest.raises(TypeError, match="already the code"):
        type("Other", (QkddError,), {"code": ConfigError.code, "meaning": "x.", "default_remedy": "do it"})


def test_a_code_has_the_agreed_form() -> None:
    with pytest.raises(TypeError, match="QKD-ROOM-NAME"):
        type("Bad", (QkddError,), {"code": "oops", "meaning": "x.", "default_remedy": "do it"})


def test_an_error_renders_as_plain_json() -> None:
    error = ConfigError("link.window: 6 is no duration", remedy='write "6 ns"', line=7)
    assert json.loads(json.dumps(error.to_dict())) == {
        "code": "QKD-CFG-INVALID",
        "kind": "permanent",
        "message": "link.window: 6 is no duration",
        "remedy": 'write "6 ns"',
        "details": {"line": 7},
    }
    assert str(error).startswith("[QKD-CFG-INVALID]")
