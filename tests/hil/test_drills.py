"""Drills without a bench: pages are read, a game is played on a rig of cardboard, the report and its picture are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_hil.drills import __main__ as command
from qkdd_hil.drills import game, pages, record
from qkdd_hil.drills.game import Game, check
from qkdd_hil.drills.pages import ByHand, Command, PageProblem
from qkdd_hil.drills.report import Block, Did, Report, Sample, markdown, schema, table
from qkdd_hil.drills.scene import Drill, Sign
from qkdd_hil.drills.timeline import svg
from qkdd_hil.rig import TooLate
from typer.testing import CliRunner

from qkdd.control import drill_cli
from qkdd.control.qkdctl import app as qkdctl

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"README", "QkddPskTunnelDown"}  # the bench has no tunnels: tests/psk/test_service.py follows that page
PAGES = sorted(path for path in (DOCS / "runbooks").glob("*.md") if path.stem not in ELSEWHERE)
PAGE = """# F0: nothing

Words.

```sh look
qkdctl status     # both nodes
```

```toml
[node]
```

```sh heal cause
systemctl stop qkdd && systemctl start qkdd   # the other node
# by hand, cable: plug it in
```

```sh verify
systemctl status qkdd
```
"""


# --- pages -----------------------------------------------------------------------------------------------------------------


def test_a_page_is_read() -> None:
    page = pages.parse("F0", PAGE)
    assert page.title == "F0: nothing"
    assert page.look == (Command("qkdctl status", ("qkdctl", "status"), "both nodes"),)
    stop, start, cable = page.heal["cause"]
    assert (stop, start) == (
        Command("systemctl stop qkdd", ("systemctl", "stop", "qkdd"), "the other node"),
        Command("systemctl start qkdd", ("systemctl", "start", "qkdd"), "the other node"),
    )
    assert cable == ByHand("cable", "plug it in")
    assert len(page.steps) == 5


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("```sh heel\nqkdctl status\n```", "line 1.*`look`"),
        ("```sh look twice\nqkdctl status\n```", "line 1"),
        ("```sh look\n```\n```sh look\n```", "line 3: a second block"),
        ("```sh look\nrm -rf /\n```", "line 2: 'rm -rf /' begins with none of"),
        ("```sh look\nqkdctl blocks | head\n```", "needs a shell"),
        ("```sh look\nqkdctl blocks $(id)\n```", "needs a shell"),
        ("```sh look\nqkdd check-config FILE\n```", "no drill can fill FILE"),
        ("```sh look\nqkdctl status  # tomorrow\n```", "'tomorrow'"),
        ("```sh look\n# turn the knob\n```", "by hand, KEY"),
        ("```sh look\nqkdctl 'status\n```", "quotation"),
        ("```sh look\nqkdctl status", "not closed"),
    ],
)
def test_a_page_that_no_machine_can_follow_is_refused_with_its_line(block: str, says: str) -> None:
    with pytest.raises(PageProblem, match=says):
        pages.parse("page", block)


@given(st.text(alphabet="`sh lokeavrify#\nqdctKDCONFIG&,:", max_size=200))
def test_any_text_is_a_page_or_a_named_problem(text: str) -> None:
    with suppress(PageProblem):
        assert pages.parse("page", text).name == "page"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_of_every_page_is_executed_by_a_drill(path: Path) -> None:
    page = pages.read(path)
    assert page.look
    assert page.verify
    followed = {drill.heal for drill in command.DRILLS.values() if drill.page == path.stem}
    assert followed == set(page.heal)
    for drill in command.DRILLS.values():
        if drill.page == path.stem:
            check(drill, page)


# --- a game on cardboard ---------------------------------------------------------------------------------------------------


class Cardboard:
    """Two nodes that are what their variables say; a block comes at each look while both are up."""

    def __init__(self) -> None:
        self.up = {"alice": True, "bob": True}
        self.broken = False
        self.done: list[str] = []
        self.clock = 1000.0
        files = {side: Path("/none") for side in self.up}
        self.processes = {
            name: SimpleNamespace(
                command=[str(files.get(name, "/none"))], child=SimpleNamespace(tail=lambda lines: "log")
            )
            for name in ("alice", "bob", "kms-alice", "kms-bob")
        }

    def get(self, side: str, route: str, **_query: int) -> Any:
        self.clock += 1
        healthy = self.up[side] and not self.broken
        if route == "/v1/status":
            state = "running" if healthy else "degraded"
            return {"state": state, "healthy": healthy, "parts": [], "link": {"qber": 0.02 if healthy else None}}
        if route == "/v1/errors":
            return []
        block = {"number": int(self.clock), "time": self.clock, "accepted": healthy, "code": None, "secret_bits": 9}
        return [block] if route == "/v1/blocks" else {"state": "running"}

    def newest(self, side: str) -> float:
        return float(self.get(side, "/v1/blocks")[0]["time"])

    def accepted_after(self, side: str, moment: float) -> list[Any]:
        return [b for _ in range(2) for b in self.get(side, "/v1/blocks") if b["accepted"] and b["time"] > moment]

    def metric(self, _side: str, _name: str, **_labels: str) -> float:
        return 0.0

    def until(self, condition: Callable[[], Any], what: str, _seconds: float = 0.0) -> None:
        for _ in range(20):
            if condition():
                return
        raise TooLate(f"not in time: {what}")

    def in_service(self) -> None:
        self.until(lambda: all(self.get(side, "/v1/status")["healthy"] for side in self.up), "in service")

    def running(self, name: str) -> bool:
        return self.up[name]

    def stop(self, name: str) -> None:
        self.done.append(f"stop {name}")
        self.up[name] = False

    def again(self, name: str) -> None:
        self.done.append(f"start {name}")
        self.up[name] = True


def break_it(scene: Any) -> None:
    scene.rig.broken = True


def heal_it(scene: Any) -> None:
    scene.rig.done.append("cable")
    scene.rig.broken = False


def drill(**changes: Any) -> Drill:
    made: dict[str, Any] = {
        "name": "F0", "page": "F0", "title": "nothing", "cause": "a cable & <more>",
        "sign": Sign("broken", lambda scene: scene.rig.broken), "inject": break_it, "heal": "cause",
        "hands": {"cable": heal_it}, "clean": lambda scene: scene.rig.done.append("clean"),
    }  # fmt: skip
    return Drill(**(made | changes))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PERIOD", 0.001)


def play(rig: Cardboard, one: Drill, page: str) -> tuple[Report, list[str]]:
    told: list[str] = []
    report = Game(rig, one, pages.parse("F0", page), lambda kind, _time, _words: told.append(kind)).run()  # type: ignore[arg-type]
    return report, told


NO_DAEMON = PAGE.replace("qkdctl status     # both nodes", "systemctl status qkdd   # both nodes")


def test_a_game_follows_the_page_at_the_right_nodes() -> None:
    rig = Cardboard()
    report, told = play(rig, drill(), NO_DAEMON)
    assert report.problem == ""
    assert report.good
    assert rig.done == ["stop alice", "start alice", "cable", "clean"]  # bob's operator; the other node is alice
    assert [(s.purpose, s.side, s.code) for s in report.steps] == [
        ("look", "bob", 0), ("look", "alice", 0), ("heal", "alice", 0), ("heal", "alice", 0), ("heal", "", None),
        ("verify", "bob", 0),
    ]  # fmt: skip
    assert report.detected is not None
    assert report.healed is not None
    assert report.recovered is not None
    assert 0 <= report.detected <= report.healed <= report.recovered
    assert told[0] == "injected"
    assert {"detected", "healed", "recovered"} <= set(told)


def test_a_cause_that_nobody_can_see_is_no_success() -> None:
    report, told = play(Cardboard(), drill(sign=Sign("never", lambda _scene: False)), NO_DAEMON)
    assert not report.good
    assert report.detected is None
    assert "never" in report.problem
    assert told[-1] == "failed"


def test_a_command_that_heals_nothing_is_no_success() -> None:
    rig = Cardboard()
    report, _ = play(rig, drill(), NO_DAEMON.replace("stop qkdd", "explode qkdd"))
    assert not report.good
    assert "ended with 1" in report.problem
    assert report.recovered is None
    assert rig.done == ["clean"]


def test_hands_that_do_nothing_are_no_success() -> None:
    report, _ = play(Cardboard(), drill(hands={"cable": lambda _scene: None}), NO_DAEMON)
    assert not report.good
    assert "both nodes healthy" in report.problem
    assert report.healed is not None
    assert report.recovered is None


def test_a_verification_that_fails_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "VERIFY", -1.0)
    page = NO_DAEMON.replace("```sh verify\nsystemctl status", "```sh verify\nsystemctl doubt")
    report, _ = play(Cardboard(), drill(), page)
    assert not report.good
    assert "verification" in report.problem


@pytest.mark.parametrize(
    ("changes", "says"), [({"heal": "other"}, "no block `sh heal other`"), ({"hands": {}}, "no hand for 'cable'")]
)
def test_a_drill_without_its_page_is_refused_before_anything_starts(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PageProblem, match=says):
        check(drill(**changes), pages.parse("F0", PAGE))


# --- report ----------------------------------------------------------------------------------------------------------------

times = st.floats(-30, 3600, allow_nan=False)
maybe = st.none() | st.floats(0, 3600, allow_nan=False)
words = st.text(max_size=40)
reports = st.builds(
    Report,
    detected=maybe,
    healed=maybe,
    recovered=maybe,
    title=words,
    cause=words,
    drill=st.just("F0"),
    samples=st.lists(
        st.builds(Sample, times, st.sampled_from(["alice", "bob"]), words, st.booleans(), st.none() | st.floats(0, 0.5))
    ),
    blocks=st.lists(
        st.builds(
            Block, times, st.sampled_from(["alice", "bob"]), st.integers(0), st.booleans(), st.none() | words, st.integers(0)
        )
    ),
    steps=st.lists(
        st.builds(
            Did, times, st.floats(0, 99), st.sampled_from(["look", "heal", "verify"]), st.just("bob"), words,
            st.none() | st.integers(0, 3), words,
        )
    ),
)  # fmt: skip


@settings(max_examples=40)
@given(reports)
def test_the_picture_is_xml_and_nothing_lies_outside_of_it(report: Report) -> None:
    root = ElementTree.fromstring(svg(report))  # noqa: S314 - our own text
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for shape in root.iter("{http://www.w3.org/2000/svg}rect"):
        if shape.attrib["width"] != "100%":
            assert -2 <= float(shape.attrib["x"]) <= width
            assert float(shape.attrib["x"]) + float(shape.attrib["width"]) <= width + 2
    assert height < 600


@settings(max_examples=40)
@given(reports)
def test_the_json_comes_back_and_the_markdown_says_the_verdict(report: Report) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    text = markdown(report)
    assert ("**Recovered**" in text) == report.good
    assert "![timeline](F0.svg)" in text
    assert report.drill in table([report])


def test_the_schema_in_the_documentation_is_the_types_own() -> None:
    assert json.loads((DOCS / "drill-report.schema.json").read_text()) == schema()


def test_three_files_are_written(tmp_path: Path) -> None:
    rig = Cardboard()
    report, _ = play(rig, drill(), NO_DAEMON)
    file = command.write(report, tmp_path / "new")
    assert {path.name for path in file.parent.iterdir()} == {"F0.md", "F0.json", "F0.svg"}
    assert msgspec.json.decode((file.parent / "F0.json").read_bytes(), type=Report) == report
    assert "&lt;more&gt;" in (file.parent / "F0.svg").read_text()


# --- command line ----------------------------------------------------------------------------------------------------------


def test_the_drills_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    command.listed(True)
    body = json.loads(capsys.readouterr().out)
    assert {f"F{number}" for number in range(1, 8)} <= {entry["name"] for entry in body}
    assert all(entry["cause"] and entry["sign"] for entry in body)


def test_an_installation_without_the_bench_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_cli, "MODULE", "qkdd_absent.drills")
    done = CliRunner().invoke(qkdctl, ["drill", "F3", "--json"], catch_exceptions=False)
    assert done.exit_code == 4
    body = json.loads(done.stdout)
    assert body["code"] == "QKD-CTL-NO-BENCH"
    assert body["remedy"]
    assert CliRunner().invoke(qkdctl, ["drill", "--help"], catch_exceptions=False).exit_code == 4


@pytest.mark.parametrize("names", [["F9"], ["F3", "F9"]])
def test_an_unknown_drill_starts_nothing(names: list[str]) -> None:
    with pytest.raises(command.typer.BadParameter, match="F9"):
        command.chosen(names, DOCS / "runbooks")


def test_pages_of_another_folder(tmp_path: Path) -> None:
    with pytest.raises(command.typer.BadParameter, match="F3-classical"):
        command.chosen(["F3"], tmp_path)
