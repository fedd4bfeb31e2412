"""Every runbook is executed: the virtual bench gets the cause, the page's own commands heal it, times are printed.

One rig serves all; each drill leaves it in service. The other drills, which take longer, are played by `make drills`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qkdd_hil.demo.options import Options
from qkdd_hil.drills.__main__ import BLOCK, DRILLS, NODE_TOML, chosen, write
from qkdd_hil.drills.game import Game
from qkdd_hil.drills.report import Report, table
from qkdd_hil.rig import Rig, running_rig

pytestmark = pytest.mark.slow

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"
FAILURE_MODES = [f"F{number}" for number in range(1, 8)]
ALERTS = [
    "QkddLinkDown", "QkddQberCritical", "QkddDetectorBlindingSuspected", "QkddKmsDown", "QkddNodeUnreachable",
]  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with running_rig(Options(block=BLOCK, live=False, seed=5), relayed=True, node=NODE_TOML) as rig:
        yield rig


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return []


@pytest.mark.parametrize("name", [*FAILURE_MODES, *ALERTS])
def test_the_runbook_heals(name: str, rig: Rig, reports: list[Report], tmp_path: Path) -> None:
    ((drill, page),) = chosen([name], RUNBOOKS)
    told: list[str] = []
    report = Game(rig, drill, page, lambda kind, time, words: told.append(f"{time:6.1f} {kind} {words}")).run()
    reports.append(report)
    assert report.good, "\n".join([report.problem, *told])
    assert report.detected is not None
    assert report.recovered is not None
    assert report.detected < report.recovered
    assert write(report, tmp_path).read_text().startswith(f"# Drill {name}")


def test_times_to_detect_and_to_recover(reports: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    """Not a test of speed: the machine is shared. The table goes to the log."""
    with capsys.disabled():
        print("\n" + table(reports))
    assert {report.drill for report in reports} <= set(DRILLS)
