"""The benchmark of the metrics runs, and its results agree with scikit-learn's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks" / "metrics_speed.py"


def test_quick_run_ends_in_its_line_of_json():
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--quick"], capture_output=True, text=True, check=True
    )
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["benchmark"] == "metrics_speed"
    assert set(line["targets"]) <= set(line["measures"])
    assert line["measures"]["largest_difference"] < 1e-9
    assert "FuxiCTR is left out" in run.stdout
