"""The graph benchmarks run, small, and end in their line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

MEASURES = {
    "graph_quality": "movietweetings_AUC",
    "graph_training_speed": "all_over_plain",
    "graph_memory": "train_mb",
    "batch_queue": "ratio_torch",
    "graph_ranker": "movietweetings: CPU-seconds of the graph",
}
NEEDS = {"graph_quality": "implicit"}
"""What only the extra ``bench`` brings."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURES)
def test_a_graph_benchmark_runs_quickly(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    assert line["measures"][MEASURES[name]] > 0
