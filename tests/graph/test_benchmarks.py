"""The graph benchmarks run, small, and end in their line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph_quality", "graph_training_speed"])
def test_a_graph_benchmark_runs_quickly(name: str) -> None:
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    expected = {"graph_quality": "movietweetings_AUC", "graph_training_speed": "all_over_plain"}[name]
    assert line["measures"][expected] > 0
