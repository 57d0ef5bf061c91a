"""kill -9 while an update writes: what is in service loads and ranks, and the update goes again."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from collections import Counter
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
TAIL = 5
"""The last touches: the draft is renamed (and looked for), the pointer is made, renamed (and looked for)."""
TOUCHED = ("/.partial-", "/.current-")
"""In the path of every file of a draft, a version that is being written, and of the pointer's."""


def run(project: Path, events: Path, moment: int | None) -> int | None:
    """An update killed at its so-manieth touch of draft or pointer; without a moment, how often it does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memberwise.fresh.update"])
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=update_and_die, args=(str(project), str(events), TOUCHED, moment, theirs)
    )
    process.start()
    theirs.close()
    process.join()
    # An update that fails in good order, or ends, would prove nothing.
    assert process.exitcode == (0 if moment is None else -signal.SIGKILL)
    return None if moment is not None else int(mine.recv())


def left_behind(project: Project) -> list[Path]:
    """Drafts of versions."""
    return list(project.bundles.glob(".partial-*"))


def killed(copy: Callable[..., Project], events: pl.DataFrame, work: Path, moments: int) -> Counter[str]:
    """Kill so many updates, check each time that nothing is lost; what was in service, and lay there."""
    project = copy()
    path, file = project.base / "project.yaml", work / "new.parquet"
    path.write_text(yaml.safe_dump(project.to_dict()))
    events.write_parquet(file)
    kept = work / "kept"
    shutil.copytree(project.bundles, kept, symlinks=True)
    ask = {"cat": "u", "tags": ["g1"], "num": 0.0}

    def ranked() -> list[float]:
        return Recommender.load(project.bundles).rank("m1", ["i1", "i2"], context=ask)["y"].to_list()

    before = ranked()
    touches = run(path, file, None)
    assert touches is not None
    assert touches > moments
    after = ranked()
    assert after != before
    # Spread evenly over the writing, and shaken; the first touch is the making of the draft itself. The short
    # moments of the end would be missed, so all of them are taken.
    rng, tail = random.Random(0), TAIL if moments > TAIL else 0
    spread, width = moments - tail, touches - tail - 1
    plan = [2 + int(width * (k + rng.random()) / spread) for k in range(spread)]
    plan += range(touches - tail + 1, touches + 1)
    outcomes = Counter[str]()
    for moment in plan:
        shutil.rmtree(project.bundles)
        shutil.copytree(kept, project.bundles, symlinks=True)
        run(path, file, moment)
        for version in bundle.versions(project.bundles):
            bundle.verify(version)
        found, drafts = ranked(), left_behind(project)
        assert found in (before, after)
        state = "the old version" if found == before else "the new version"
        outcomes[f"{state}, {'a' if drafts else 'no'} draft left"] += 1
        outcomes["whole manifest"] += any((d / bundle.MANIFEST).is_file() for d in drafts)
        # And the same update goes through afterwards: the locks died with their holder.
        again = update(project, str(file), train=True)
        assert (again.known is not None) == (found == after)
        assert ranked() == after
        assert left_behind(project) == []
    print(touches, dict(outcomes))
    return outcomes


def test_killed_in_the_middle_of_writing(
    copy: Callable[..., Project], batches: list[pl.DataFrame], tmp_path: Path
) -> None:
    assert killed(copy, batches[0], tmp_path, 1)["the old version, a draft left"] == 1


@pytest.mark.slow
def test_what_is_in_service_survives_any_moment(
    copy: Callable[..., Project], batches: list[pl.DataFrame], tmp_path: Path
) -> None:
    outcomes = killed(copy, batches[0], tmp_path, MOMENTS)
    assert outcomes["the old version, a draft left"] >= MOMENTS - TAIL
    assert outcomes["the old version, no draft left"] >= 1  # renamed, and the pointer not yet moved
    assert outcomes["the new version, no draft left"] >= 1
