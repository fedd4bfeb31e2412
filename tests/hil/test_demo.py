"""The demonstration's parts: figures, files, processes, and what it counts as a failure."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qkdd_hil.bench.config import BenchConfig
from qkdd_hil.demo import toml
from qkdd_hil.demo.children import ChildEnded, Children
from qkdd_hil.demo.figures import Block, Delivery, Figures, schema, summarize
from qkdd_hil.demo.intensities import Sample
from qkdd_hil.demo.intensities import read as read_intensities
from qkdd_hil.demo.layout import Layout
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.run import Demo, DemoFailed, guarded
from qkdd_hil.demo.variants import choose

from qkdd.control.config import ControlConfig
from qkdd.core import config as configuration
from qkdd.core.ports import free_ports
from qkdd.core.units import dec_hook
from qkdd.device.config import DeviceConfig
from qkdd.keys.config import KeysConfig
from qkdd.kms.config import KmsConfig
from qkdd.link.config import LinkConfig
from qkdd.testing.patience import PATIENCE_S

SCHEMA = Path(__file__).parents[2] / "docs" / "demo-figures.schema.json"


def block(number: int, **changes: Any) -> Block:
    good: dict[str, Any] = {
        "accepted": True,
        "code": None,
        "acquisition_s": 5.0,
        "sifted_bits": 200_000,
        "qber": 0.016,
        "secret_bits": 44_000,
    }
    return Block(number=number, **{**good, **changes})


def refused(number: int, code: str, **changes: Any) -> Block:
    return block(number, accepted=False, code=code, secret_bits=0, **changes)


def test_the_schema_in_the_documentation_is_the_types_own() -> None:
    assert json.loads(SCHEMA.read_text()) == schema()
    names = "qber chsh_s sifted_bits secret_bits secret_bits_per_s blocks_accepted blocks_refused keys_delivered"
    names += " keys_equal reason reason_text seconds_to_first_key"
    assert sorted(schema()["required"]) == sorted(names.split())


def test_figures_of_a_run() -> None:
    blocks = [
        block(0),
        refused(1, "QKD-BLK-QBER", qber=0.09, reason="9 of 100"),
        refused(2, "QKD-BLK-VERIFY", qber=None),
    ]
    blocks += [refused(3, "QKD-BLK-QBER", qber=0.09), block(4, secret_bits=46_000)]
    same = Delivery("id", "classical", "aa", "aa")
    figures = summarize(blocks, [same], 2.7, 12.5)
    assert figures.secret_bits == 90_000
    assert figures.secret_bits_per_s == pytest.approx(9_000)
    assert figures.qber == pytest.approx((2 * 0.016 + 2 * 0.09) / 4)
    assert (figures.blocks_accepted, figures.blocks_refused, figures.reason) == (2, 3, "QKD-BLK-QBER")
    assert figures.reason_text == "9 of 100"
    assert (figures.keys_delivered, figures.keys_equal) == (1, True)
    assert not summarize(blocks, [same, Delivery("id2", "classical", "aa", "bb")], 2.7, 1.0).keys_equal


def test_figures_of_nothing() -> None:
    figures = summarize([], [], None, None)
    assert (figures.qber, figures.reason, figures.keys_equal, figures.secret_bits_per_s) == (None, None, False, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(figures), type=Figures) == figures


@pytest.mark.parametrize(
    ("eve", "qber_max", "promised", "forbidden"),
    [
        (0.0, 0.05, True, False),
        (0.05, 0.05, True, False),
        (0.3, 0.05, False, True),
        (0.3, 0.3, False, False),
        (1.0, 0.05, False, True),
        (1.0, 0.3, False, True),
    ],
)
def test_when_key_is_promised_and_when_it_is_forbidden(
    eve: float, qber_max: float, promised: bool, forbidden: bool
) -> None:
    options = Options(eve=eve, qber_max=qber_max)
    outlook = choose(options).outlook()
    assert outlook.promised == promised
    assert outlook.forbidden == forbidden


plain = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
trees = st.recursive(
    st.one_of(plain, st.lists(plain, max_size=3)),
    lambda inner: st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), trees, max_size=5))
def test_toml_that_we_write_reads_back(tree: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tree)) == tree


def test_tables_in_lists_are_written_inline() -> None:
    assert tomllib.loads(toml.dumps({"pairs": [{"a": "x", "b": 1}, {}]})) == {"pairs": [{"a": "x", "b": 1}, {}]}


def test_the_files_of_a_run_are_what_the_rooms_accept(tmp_path: Path) -> None:
    options = Options(directory=tmp_path / "run", qber_max=0.3, eve=0.25, seed=9)
    layout = Layout.make(options)
    assert configuration.load(layout.write_bench(options), BenchConfig).eve == 0.25
    addresses = {
        "tagger": {"port": "/dev/null"},
        "detectors": {"host": "127.0.0.1", "tcp_ports": [12000, 12345]},
        "polarization": {"port": "/dev/zero"},
    }
    ports: list[str] = []
    for side in ("alice", "bob"):
        kms = configuration.load(layout.write_kms(side, options), KmsConfig)
        ports += [kms.node_plane.listen, kms.kms_plane.listen, *(one.listen for one in kms.sae.values())]
        tree = tomllib.loads(layout.write_node(side, addresses, options).read_text())
        for name, kind in {"control": ControlConfig, "link": LinkConfig, "keys": KeysConfig}.items():
            section = msgspec.convert(tree[name], kind, dec_hook=dec_hook)
            assert not list(section.check())
        for device in tree["devices"].values():
            assert not list(msgspec.convert(device, DeviceConfig).check())
        assert tree["link"]["shared"]["qber_max"] == 0.3
    assert len(set(ports)) == len(ports)
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        Layout.make(options)


def test_the_files_of_a_decoy_run_are_what_the_rooms_accept(tmp_path: Path) -> None:
    options = Options(directory=tmp_path / "run", protocol="decoy_bb84", adversary="pns", pulse_rate=50e6)
    layout = Layout.make(options)
    bench = configuration.load(layout.write_bench(options), BenchConfig)
    assert (bench.protocol, bench.pns, float(bench.eve)) == ("decoy_bb84", True, 0.0)
    addresses = {
        "alice": {"board": {"host": "127.0.0.1", "tcp_ports": [7170]}},
        "bob": {
            "tagger": {"port": "/dev/null"},
            "detectors": {"host": "127.0.0.1", "tcp_ports": [12000, 12345]},
            "polarization": {"port": "/dev/zero"},
        },
    }
    shared = []
    for side in ("alice", "bob"):
        tree = tomllib.loads(layout.write_node(side, addresses[side], options).read_text())
        link = msgspec.convert(tree["link"], LinkConfig, dec_hook=dec_hook)
        assert not list(link.check())
        assert not list(link.shared.check())
        assert link.device in tree["devices"]
        assert link.shared.decoy is not None
        assert not list(link.shared.decoy.check())
        shared.append(link.shared.canonical())
        for device in tree["devices"].values():
            assert not list(msgspec.convert(device, DeviceConfig, dec_hook=dec_hook).check())
    assert shared[0] == shared[1]


def test_intensities_are_read_from_the_metrics_after_each_block() -> None:
    text = """# TYPE qkdd_link_gain_ratio gauge
qkdd_blocks_accepted_total{link="a-b"} 3
qkdd_blocks_refused_total{link="a-b",code="QKD-BLK-QBER"} 2
qkdd_link_gain_ratio{link="a-b",intensity="0"} 0.054
qkdd_link_gain_ratio{link="a-b",intensity="1"} 2.1e-02
qkdd_link_intensity_qber_ratio{intensity="0",link="a-b"} 0.02
qkdd_link_up{link="a-b"} 1
"""
    blocks, sample = read_intensities(text)
    assert blocks == 5
    assert sample == Sample({0: 0.054, 1: 0.021}, {0: 0.02})
    variant = choose(Options(protocol="decoy_bb84"))
    found = variant.decoy(variant.outlook(), [sample, Sample({0: 0.056}, {0: 0.04})])
    assert found is not None
    assert (found.adversary, found.blocks_counted, found.pulses_per_block) == ("none", 2, 50_000_000)
    signal, decoy, weakest = found.intensities
    assert (signal.gain, signal.qber_x) == (pytest.approx(0.055), pytest.approx(0.03))
    assert (decoy.gain, decoy.qber_x) == (pytest.approx(0.021), None)
    assert (weakest.gain, weakest.expected_gain) == (None, pytest.approx(1.3e-4, rel=0.1))
    assert choose(Options()).decoy(choose(Options()).outlook(), [sample]) is None


def test_a_deep_run_folder_gets_its_sockets_elsewhere_and_they_are_removed(tmp_path: Path) -> None:
    layout = Layout.make(Options(directory=tmp_path / ("deep" * 20)))
    assert len(bytes(layout.control_socket("alice"))) < 100
    layout.remove(keep_logs=False)
    assert not layout.sockets.exists()
    assert layout.folder.exists(), "a folder that the user named is kept"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(12))) == 12


def test_children_are_ended_whatever_happens_and_a_stubborn_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkdd_hil.demo.children.GRACE", 0.3)
    stubborn = "import signal,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"

    started = []

    async def main() -> None:
        async with Children(tmp_path) as children:
            started.append(await children.start("polite", [sys.executable, "-c", "import time; time.sleep(60)"]))
            child = await children.start("stubborn", [sys.executable, "-c", stubborn], piped=True)
            started.append(child)
            assert child.process.stdout is not None
            assert await child.process.stdout.readline() == b"up\n"
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        asyncio.run(main())
    assert [child.process.returncode for child in started] == [-15, -9]


def test_a_child_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def main() -> ChildEnded:
        async with Children(tmp_path) as children:
            await children.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
            await children.start("node", [sys.executable, "-c", "import sys; sys.exit('no such port')"])
            return await asyncio.wait_for(children.any_ended(), PATIENCE_S)

    text = str(asyncio.run(main()))
    assert "node ended with 1" in text
    assert "no such port" in text


def figures(**changes: Any) -> Figures:
    empty = summarize([], [], None, None)
    return msgspec.structs.replace(empty, **changes)


@pytest.mark.parametrize(
    ("eve", "seen", "fails"),
    [
        (0.0, {"keys_delivered": 2, "keys_equal": True}, False),
        (0.0, {}, True),
        (0.0, {"keys_delivered": 2, "keys_equal": False}, True),
        (0.3, {"blocks_refused": 3}, False),
        (0.3, {}, True),
        (0.3, {"blocks_refused": 3, "keys_delivered": 1, "keys_equal": True}, True),
        (0.3, {"blocks_refused": 3, "blocks_accepted": 1}, True),
    ],
)
def test_a_run_is_judged_by_what_was_promised(tmp_path: Path, eve: float, seen: dict[str, Any], fails: bool) -> None:
    options = Options(eve=eve, directory=tmp_path / "run")
    demo = Demo(options)
    layout = Layout.make(options)
    if fails:
        with pytest.raises(DemoFailed, match="logs"):
            demo._judge(figures(**seen), layout)
    else:
        demo._judge(figures(**seen), layout)


def test_exit_statuses() -> None:
    async def result(outcome: BaseException | None) -> Figures:
        if outcome is not None:
            raise outcome
        return figures()

    for outcome, status in ((None, 0), (DemoFailed("x"), 1), (ChildEnded("x"), 1), (asyncio.CancelledError(), 130)):
        assert asyncio.run(guarded(result(outcome)))[0] == status
