"""A log twenty times larger does not need twenty times the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

SCRIPT = """
import json, resource, sys, threading, time
from pathlib import Path
from memberwise.data.prepare import prepare
from memberwise.project import Project

def anonymous():
    # Memory-mapped files count towards the resident size, but the system takes them back when it wants to.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))

peak, done = [anonymous()], threading.Event()
def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous())

project = Project.load(sys.argv[1])
watcher = threading.Thread(target=watch)
watcher.start()
started = time.process_time()
prepared = prepare(project.config, Path(sys.argv[2]), project.base)
seconds = time.process_time() - started
done.set()
watcher.join()
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": len(prepared.packed), "anonymous": peak[0], "resident": resident,
                  "packed": prepared.packed.nbytes / 2**20, "seconds": seconds}))
"""
PROJECT = """
events: {path: log, time: t, time_unit: ms}
entities: {member: {id: m}, item: {id: i}}
tasks: [{name: y, label: y}]
features:
  - {kind: categorical, column: m}
  - {kind: categorical, column: i}
  - {kind: categorical, column: c}
  - {kind: numeric, column: x, transform: quantile}
  - {kind: history, length: 10}
aggregates:
  - {by: m}
  - {by: i, delay: hourly}
  - {by: [m, c]}
  - {by: i, half_life: 7d}
split: {train: 0.8, valid: 0.1}
"""


def log(folder: Path, rows: int) -> None:
    """A log in disorder, in files of 200,000 rows, with as many members and items whatever its length."""
    (folder / "log").mkdir(parents=True)
    (folder / "project.yaml").write_text(PROJECT)
    for k in range(0, rows, 200_000):
        rng = np.random.default_rng(k)
        n = min(200_000, rows - k)
        pl.DataFrame(
            {
                "t": rng.integers(1_600_000_000_000, 1_605_000_000_000, n),
                "m": rng.integers(0, 20_000, n),
                "i": rng.integers(0, 5_000, n),
                "c": rng.integers(0, 50, n),
                "x": rng.normal(size=n),
                "y": rng.integers(0, 2, n),
            }
        ).write_parquet(folder / "log" / f"{k}.parquet")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_bounded(tmp_path: Path):
    found = []
    for name, rows in (("warm", 1000), ("small", 200_000), ("large", 4_000_000)):
        log(tmp_path / name, rows)
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / name), str(tmp_path / name / "work")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(run.stdout.splitlines()[-1]))
    print(*found, sep="\n")
    empty, small, large = (f["anonymous"] for f in found)
    assert found[2]["rows"] == 4_000_000
    # 8 bytes a row hold the times for the split, and again while they are sorted.
    assert large - empty < 3 * (small - empty) + 3 * 8 * 4_000_000 / 2**20
