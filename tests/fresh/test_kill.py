"""kill -9 at random moments of an update: what is in service loads and ranks, and the update goes again."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from memberwise import bundle
from memberwise.fresh.update import update
from memberwise.project import Project
from memberwise.recommender import Recommender
from support.killing import update_and_die

MOMENTS = 50


def run(project: Path, events: Path, where: str, moment: int | None) -> int | None:
    """An update killed when it touches such files for so many times; without a moment, how often it does."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    arguments = (str(project), str(events), where, moment, theirs)
    process = context.Process(target=update_and_die, args=arguments)
    process.start()
    theirs.close()
    process.join()
    try:
        return int(mine.recv())
    except EOFError:  # it said nothing before it died
        return None


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
    moments = run(path, events, ".partial", None)
    assert moments is not None
    after = ranked()
    assert after != before
    rng = random.Random(0)
    outcomes = {"before": 0, "after": 0, "half written": 0}
    for k in range(MOMENTS):
        shutil.rmtree(project.bundles)
        shutil.copytree(kept, project.bundles, symlinks=True)
        # The moments are spread evenly, and shaken.
        moment = 1 + int(moments * (k + rng.random()) / MOMENTS)
        assert run(path, events, ".partial", moment) is None
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
    assert outcomes["before"] > 0
