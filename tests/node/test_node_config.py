"""Each wrong thing in a node's file is refused before anything starts, naming file, line, key and remedy."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qkdd.cli import app
from qkdd.core import config as core_config
from qkdd.core.config import ConfigRefused
from qkdd.node.config import NodeConfig, load_node
from qkdd.node.errors import ReloadRefused
from qkdd.node.reload import read_changes

_spec = importlib.util.spec_from_file_location("node_support", Path(__file__).with_name("support.py"))
assert _spec is not None
assert _spec.loader is not None
support = sys.modules.setdefault("node_support", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(support)

ROOT = Path(__file__).parents[2]


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_right_file_is_accepted_and_its_paths_are_absolute(tmp_path: Path) -> None:
    path = support.write_node(tmp_path)
    config = load_node(path)
    assert config.node.master_key == str(tmp_path / "master.key")
    assert config.control.socket == str(tmp_path / "c.sock")
    assert config.peer.certificate == str(tmp_path / "node.pem")
    assert config.keys.crl == str(tmp_path / "ca.crl")
    assert config.devices["tagger"].port == f"{tmp_path}/no-tagger"


@pytest.mark.parametrize(
    ("old", "new", "key", "word"),
    [
        ('window = "6 ns"', 'windwo = "6 ns"', "link.shared.windwo", "unknown key"),
        ('window = "6 ns"', 'window = "6 mV"', "link.shared.window", "unit"),
        ('window = "6 ns"', "window = 6", "link.shared.window", "unit"),
        ('role = "alice"', 'role = "carol"', "link.role", "carol"),
        ('id = "alice"', 'id = "al ice"', "node.id", "node id"),
        ("no-paddles", "no-tagger", "devices.polarization.port", "already the line of device 'tagger'"),
        ("127.0.0.1:0", "127.0.0.1:1", "keys.kms_url", "already that of telemetry.listen"),
        ("127.0.0.1:0", "0.0.0.0:9101", "telemetry.listen", "loopback"),
        ('name = "a-b"', 'name = "a-b"\ntagger = "tager"', "link.tagger", "no device 'tager'"),
        ('polarization = "polarization"', 'polarization = "tagger"', "link.polarization", "no polarization controller"),
        ('driver = "s15_tdc1"', 'driver = "s15_tdc9"', "devices.tagger.driver", "s15_tdc9"),
        (
            'id = "alice"',
            'id = "alice"\nallowed_drivers = ["s15_tdc1"]',
            "devices.polarization.driver",
            "does not allow",
        ),
        ('master_key = "master.key"', 'master_key = "none.key"', "node.master_key", "cannot be read"),
        ('certificate = "node.pem"', 'certificate = "none.pem"', "peer.certificate", "cannot be read"),
        ('window = "6 ns"', 'window = "3 ns"\nannounce_bin = "1 ns"', "link.shared.window", "bins of the tagger"),
        ('name = "a-b"', 'name = "a-b"\nchannels = { H = 0, V = 1, D = 2, A = 7 }', "link.channels", "inputs 0 to"),
        ('peer_id = "bob"', 'peer_id = "alice"', "peer.peer_id", "own id"),
        ("[link.shared]", "[calibration]\ntarget = 0.5\n[link.shared]", "calibration.target", "start_above"),
    ],
)
def test_refusals(tmp_path: Path, old: str, new: str, key: str, word: str) -> None:
    path = support.edit(support.write_node(tmp_path), old, new)
    with pytest.raises(ConfigRefused) as refusal:
        load_node(path)
    finding = next(f for f in refusal.value.findings if f.key == key)
    assert word in finding.problem + finding.remedy
    assert finding.line > 0
    assert str(path) in str(refusal.value)
    assert f":{finding.line}: {key}" in str(refusal.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = support.write_node(tmp_path)
    os.chmod(tmp_path / "node.key", 0o644)
    os.chmod(tmp_path / "master.key", 0o640)
    with pytest.raises(ConfigRefused) as refusal:
        load_node(path)
    assert {f.key for f in refusal.value.findings} == {"node.master_key", "peer.key", "keys.key"}
    assert all("chmod 600" in f.remedy for f in refusal.value.findings)


def test_a_credential_of_the_service_manager(tmp_path: Path) -> None:
    path = support.write_node(tmp_path)
    (tmp_path / "creds").mkdir()
    (tmp_path / "master.key").rename(tmp_path / "creds" / "mk")
    support.edit(path, "master.key", "${CREDENTIALS_DIRECTORY}/mk")
    config = load_node(path, {"CREDENTIALS_DIRECTORY": str(tmp_path / "creds")})
    assert config.node.master_key == str(tmp_path / "creds" / "mk")
    with pytest.raises(ConfigRefused, match="master_key"):
        load_node(path, {})


def test_check_config_prints_every_finding_with_its_line(tmp_path: Path) -> None:
    path = support.write_node(tmp_path)
    support.edit(path, 'window = "6 ns"', 'window = "6 mV"')
    support.edit(path, 'name = "a-b"', 'nmae = "a-b"')
    result = CliRunner().invoke(app, ["check-config", str(path)], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert f"{path}:{line_of(path, 'window')}: link.shared.window" in result.stdout
    assert f"{path}:{line_of(path, 'nmae')}: link.nmae: unknown key" in result.stdout
    assert "link.name: is missing" in result.stdout
    as_json = json.loads(CliRunner().invoke(app, ["check-config", str(path), "--json"]).stdout)
    assert not as_json["accepted"]
    assert {f["key"] for f in as_json["findings"]} == {"link.shared.window", "link.nmae", "link.name"}
    good = support.write_node(tmp_path / "good")
    assert CliRunner().invoke(app, ["check-config", str(good)]).exit_code == 0


def test_syntax_and_absent_files(tmp_path: Path) -> None:
    broken = tmp_path / "x.toml"
    broken.write_text("[node\n")
    with pytest.raises(ConfigRefused, match=r"x\.toml:1"):
        load_node(broken)
    with pytest.raises(ConfigRefused, match="cannot be read"):
        load_node(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_the_examples_have_the_right_form(name: str) -> None:
    """All but credentials, which the examples cannot bring."""
    config = core_config.load(ROOT / f"docs/examples/{name}.toml", NodeConfig)
    assert config.node.id == config.link.role == name


def test_both_examples_share_the_link_section() -> None:
    trees = [tomllib.loads((ROOT / f"docs/examples/{n}.toml").read_text()) for n in ("alice", "bob")]
    assert trees[0]["link"]["shared"] == trees[1]["link"]["shared"]


def test_reload_takes_certificates_and_log_level_and_refuses_the_link(tmp_path: Path) -> None:
    path = support.write_node(tmp_path)
    running = load_node(path)
    assert read_changes(path, running)[1] == []
    (tmp_path / "new.pem").write_text("x")
    support.edit(path, 'certificate = "node.pem"', 'certificate = "new.pem"')
    support.edit(path, 'id = "alice"', 'id = "alice"\nlog_level = "debug"')
    new, changed = read_changes(path, running)
    assert sorted(changed) == ["node.log_level", "peer.certificate"]
    assert new.peer.certificate == str(tmp_path / "new.pem")
    support.edit(path, 'window = "6 ns"', 'window = "8 ns"')
    with pytest.raises(ReloadRefused, match=r"link\.shared\.window cannot change"):
        read_changes(path, running)
    support.edit(path, 'window = "8 ns"', 'window = "8 mV"')
    with pytest.raises(ReloadRefused, match="unit"):
        read_changes(path, running)
