"""`qkdd bench drivers` runs, counts, and prints what it promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from qkdd_drivers.bench import WAYS


@pytest.mark.parametrize("way", ["multiharp-20M", "a1-child"])
def test_a_way_carries_tags_and_loses_none(way: str) -> None:
    command = [sys.executable, "-m", "qkdd_drivers.bench", "--json", "--seconds", "0.5", "--only", way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    (figure,) = json.loads(done.stdout)["ways"]
    assert figure["name"] == way
    assert figure["tags"] > 100_000
    assert figure["lost"] == 0
    assert figure["faults"] == []
    assert figure["goal"] == WAYS[way][2]
