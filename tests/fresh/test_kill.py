"""kill -9 at random moments of an update: what is in service loads and ranks, and the update goes again."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import polars as pl
import pytest
import yaml

from memberwise import bundle
from memberwise.fresh.update import update
from memberwise.project import Project
from memberwise.recommender import Recommender
from support.killing import update_when_told

MOMENTS = 50


def child(project: Path, events: Path) -> tuple[BaseProcess, Connection]:
    """A process that has read everything it needs, and waits for the word."""
    # A server that only imports, and forks before any thread is there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.killing"])
    mine, theirs = context.Pipe()
    process = context.Process(target=update_when_told, args=(str(project), str(events), theirs))
    process.start()
    assert mine.recv() == "ready"
    return process, mine


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

    def ranked() -> list[float]:
        return Recommender.load(project.bundles).rank("m1", ["i1", "i2"], context=ask)["y"].to_list()

    before = ranked()
    process, link = child(path, events)
    started = time.monotonic()
    link.send("go")
    assert link.recv() == "done"
    whole = time.monotonic() - started
    process.join()
    after = ranked()
    assert after != before
    rng = random.Random(0)
    outcomes = {"before": 0, "after": 0, "half written": 0}
    for k in range(MOMENTS):
        shutil.rmtree(project.bundles)
        shutil.copytree(kept, project.bundles, symlinks=True)
        process, link = child(path, events)
        link.send("go")
        # Every part of the update is hit: the moments are spread evenly, and shaken.
        time.sleep(whole * 1.05 * (k + rng.random()) / MOMENTS)
        process.kill()  # SIGKILL; nothing, if it is done already
        process.join()
        for version in bundle.versions(project.bundles):
            bundle.verify(version)
        found = ranked()
        assert found in (before, after)
        outcomes["before" if found == before else "after"] += 1
        outcomes["half written"] += any(project.bundles.glob(".partial-*"))
        # And the same update goes through afterwards: the lock died with its holder.
        again = update(project, str(events), train=True)
        assert (again.known is not None) == (found == after)
        assert ranked() == after
    print(outcomes)
    assert outcomes["before"] > MOMENTS // 10
