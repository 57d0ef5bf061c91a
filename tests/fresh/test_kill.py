"""kill -9 at random moments of an update: what is in service loads and ranks, and the update goes again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from memberwise import bundle
from memberwise.fresh.update import update
from memberwise.project import Project
from memberwise.recommender import Recommender

MOMENTS = 50
CHILD = """
import sys
from memberwise.fresh.update import update
from memberwise.project import Project
project = Project.load(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
update(project, sys.argv[2], train=True)
print("done", flush=True)
"""


def child(project: Path, events: Path) -> subprocess.Popen[str]:
    """A process that has read everything it needs, and waits for the word."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(project), str(events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_what_is_in_service_survives_any_moment(
    copy: Callable[..., Project], batches: list[pl.DataFrame], tmp_path: Path
) -> None:
    project = copy()
    path, events = project.base / "project.yaml", tmp_path / "new.parquet"
    path.write_text(yaml.safe_dump(project.to_dict()))
    batches[0].write_parquet(events)
    kept = tmp_path / "kept"
    shutil.copytree(project.bundles, kept, symlinks=True)
    ask = {"cat": "u", "tags": ["g1"], "num": 0.0}

    def ranked(of: Project) -> list[float]:
        return Recommender.load(of.bundles).rank("m1", ["i1", "i2"], context=ask)["y"].to_list()

    before = ranked(project)
    process = child(path, events)
    started = time.monotonic()
    go(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    whole = time.monotonic() - started
    process.wait()
    after = ranked(project)
    assert after != before
    rng = random.Random(0)
    outcomes = {"before": 0, "after": 0, "left behind": 0}
    for k in range(MOMENTS):
        shutil.rmtree(project.bundles)
        shutil.copytree(kept, project.bundles, symlinks=True)
        process = child(path, events)
        go(process)
        # Every part of the update is hit: the moments are spread evenly, and shaken.
        time.sleep(whole * 1.05 * (k + rng.random()) / MOMENTS)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for version in bundle.versions(project.bundles):
            bundle.verify(version)
        found = ranked(project)
        outcomes["before" if found == before else "after"] += 1
        assert found in (before, after)
        outcomes["left behind"] += any(project.bundles.glob(".partial-*"))
        # And the same update goes through afterwards: the lock died with its holder.
        again = update(project, str(events), train=True)
        assert again.known == "000002" if found == after else again.version is not None
        assert ranked(project) == after
    assert outcomes["before"] > 5
