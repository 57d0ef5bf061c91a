"""Every benchmark of this room runs and ends with its line of JSON; smoke runs measure nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MEMBERWISE_DATA", ROOT / "data"))
NEEDS_DATA = ("incremental_glm", "classifier_error")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["sparse_means", "fixed_effects_speed", "mixed_effects_speed", "incremental_glm", "classifier_error"],
)
def test_a_smoke_run_ends_with_json(name):
    if name in NEEDS_DATA and not DATA.is_dir():
        pytest.skip(f"{DATA} is missing")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    assert set(line["targets"]) <= set(line["measures"])
