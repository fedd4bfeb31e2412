"""What `make audit` makes of pip-audit's output; the service itself is not asked here."""

import json
import runpy
from pathlib import Path

verdict = runpy.run_path(str(Path(__file__).parents[2] / "packaging/audit.py"), run_name="audit")["verdict"]


def test_nothing_known() -> None:
    status, words = verdict(json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}), "")
    assert (status, words) == (0, "1 packages of requirements.lock, no known vulnerability")


def test_a_vulnerability_is_named_with_its_remedy() -> None:
    problem = {"id": "PYSEC-2026-1", "fix_versions": ["1.1"]}
    status, words = verdict(json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": [problem]}]}), "")
    assert status == 1
    assert "a 1: PYSEC-2026-1, corrected in 1.1" in words


def test_a_service_that_is_away_is_no_verdict() -> None:
    status, words = verdict("", "Traceback (most recent call last):\n  ...\nConnectionError: no route\n")
    assert status == 2
    assert "nothing is known" in words
    assert "ConnectionError: no route" in words
