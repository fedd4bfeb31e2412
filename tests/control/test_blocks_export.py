"""`qkdctl blocks export`: what is written is what the daemon remembers, in both formats."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from qkdd.control import blocks_cli
from qkdd.control.blocks_cli import COLUMNS, to_csv, to_parquet
from qkdd.control.client import ControlClient
from qkdd.control.qkdctl import app
from qkdd.testing.clock import FakeClock

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = sys.modules.setdefault("fake_node", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake_node)

ROWS: list[dict[str, Any]] = msgspec.to_builtins(fake_node.FakeNode(FakeClock()).blocks(2))


@pytest.fixture(autouse=True)
def _daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlClient, "get", lambda _self, _route, limit: ROWS[:limit])


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["blocks", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)


def test_csv_has_every_column_and_the_oldest_block_first(tmp_path: Path) -> None:
    file = tmp_path / "blocks.csv"
    result = run("export", str(file))
    assert result.exit_code == 0
    assert "2 blocks" in result.output
    rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode())))
    assert tuple(rows[0]) == COLUMNS
    assert [row["number"] for row in rows] == ["1", "2"]
    assert rows[0] == {
        "number": "1", "time": "1790000000.0", "accepted": "false", "code": "QKD-BLK-QBER", "acquisition_s": "5.0",
        "sifted_bits": "200000", "qber": "0.09", "tolerated_error": "0.05", "leak_bits": "", "secret_bits": "0",
        "method": "", "reason": "", "f_sec": "", "label": "",
    }  # fmt: skip
    assert rows[1]["secret_bits"] == "44000"


def test_to_standard_output() -> None:
    result = run("export", "-", "--limit", "1")
    assert result.stdout_bytes.count(b"\r\n") == 2


def test_a_reason_cannot_become_a_formula() -> None:
    row = ROWS[0] | {"reason": '=HYPERLINK("http://x")', "method": "a,b"}
    (cells,) = list(csv.DictReader(io.StringIO(to_csv([row]).decode())))
    assert cells["reason"].startswith("'=")
    assert cells["method"] == "a,b"


def test_parquet_keeps_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra export)")
    file = tmp_path / "blocks.parquet"
    assert run("export", str(file)).exit_code == 0
    table = parquet.read_table(file)
    assert table.to_pylist() == list(reversed(ROWS))
    assert str(table.schema.field("secret_bits").type) == "int64"
    assert str(table.schema.field("f_sec").type) == "double"  # although every value is unknown
    assert len(to_parquet([])) > 0


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(blocks_cli.importlib, "import_module", missing)
    result = run("export", str(tmp_path / "b.parquet"))
    assert result.exit_code == 1
    assert "qkdd[export]" in result.output
    assert not (tmp_path / "b.parquet").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    result = run("export", str(tmp_path / "no" / "blocks.csv"))
    assert result.exit_code == 1
    assert "No such file" in result.output


def test_without_export_it_is_the_table_as_before() -> None:
    result = run("--limit", "1")
    assert result.exit_code == 0
    assert "accepted" in result.output
    assert "QKD-BLK-QBER" not in result.output
