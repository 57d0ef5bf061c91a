"""Updates end to end: what they do, what they refuse, and that the version in service never suffers."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from memberwise import bundle
from memberwise.cli import app
from memberwise.errors import BundleError, DataError
from memberwise.fresh import update as module
from memberwise.fresh.gate import GateError
from memberwise.fresh.reference import fit_info
from memberwise.fresh.update import next_version, update
from memberwise.project import FreshConfig, Project
from memberwise.recommender import Recommender
from memberwise.recommender.parts.effects import EffectsPart

Copy = Callable[..., Project]
Batches = list[pl.DataFrame]


def served(project: Project) -> str | None:
    """The version in service, which loads."""
    Recommender.load(project.bundles)
    return bundle.current(project.bundles)


def test_an_update_says_what_it_did(copy: Copy, batches: Batches) -> None:
    project = copy()
    one = update(project, batches[0])
    assert one.rows == len(batches[0])
    assert one.plan is not None
    assert one.plan.learns == ("aggregates and histories", "effects")
    assert set(one.before) == {"y", "z"}
    assert one.before["y"].rows == len(batches[0])
    old, new = one.checked["y"]
    assert old.rows == new.rows <= 0.3 * len(batches[0]) + 10
    assert set(one.seconds) == {"load", "observe", "check", "learn", "publish"}
    two = update(project, batches[1])
    assert two.plan is not None
    assert two.plan.train
    assert two.plan.learns[-1] == "ranker"
    manifest = bundle.read_manifest(project.bundles / "current")
    assert manifest.parent == "000002"
    assert manifest.info["update"]["rows"] == len(batches[1])
    assert manifest.info["update"]["before"]["y"]["log_loss"] == pytest.approx(two.before["y"].log_loss)


def test_drift_is_measured_against_the_fit(copy: Copy, batches: Batches) -> None:
    project = copy()
    rec = Recommender.load(project.bundles)
    rec.save(project.bundles, info=fit_info(rec))
    calm = update(project, batches[0])
    assert calm.drift is not None
    # The batch, like valid of so short a log, knows few days of the week.
    assert "clock.weekday" in calm.drift.partial
    assert not calm.drift.advises_retraining
    moved = batches[1].with_columns(y=1)
    stirred = update(project, moved, force=True)
    assert stirred.drift is not None
    gone = {(c.measure, c.name) for c in stirred.drift.of("drifted")}
    assert {("label rate", "y"), ("calibration", "y")} <= gone
    assert stirred.plan is not None
    assert any("Train again" in advice for advice in stirred.plan.advice)
    profiles = [bundle.read_manifest(v).info.get("profile") for v in bundle.versions(project.bundles)]
    assert profiles[0] is None
    assert profiles[1] == profiles[2] == profiles[3]


def test_a_section_that_came_after_the_fit_is_answered_with_advice(copy: Copy, batches: Batches) -> None:
    project = copy()
    asks = Project.from_dict(project.to_dict() | {"exploration": {}}, project.base)
    outcome = update(asks, batches[0])
    assert outcome.plan is not None
    assert any("asks for exploration" in advice for advice in outcome.plan.advice)


def test_without_a_profile_the_first_update_makes_it(copy: Copy, batches: Batches) -> None:
    project = copy()
    assert update(project, batches[0]).drift is None
    assert update(project, batches[1]).drift is not None


def test_before_is_what_the_version_in_service_said(copy: Copy, batches: Batches) -> None:
    project = copy()
    rec = Recommender.load(project.bundles)
    report = rec.evaluate(batches[0], draws=20)
    _, outcome = next_version(rec, batches[0])
    found = report.metrics["memberwise"]["y"]
    assert outcome.before["y"].log_loss == pytest.approx(found["log_loss"]["value"], abs=1e-5)


def test_the_check_does_not_see_the_rows_that_it_predicts(copy: Copy, batches: Batches) -> None:
    """Turning the labels of the latest rows leaves what was predicted for them as it was."""
    rec = Recommender.load(copy().bundles)
    limits = FreshConfig(check=0.5, check_rows=20)
    seen: list[np.ndarray] = []

    def keep(config: Any, tasks: Any, labels: Any, before: Any, after: np.ndarray) -> list[str]:
        seen.append(after)
        return []

    turned = batches[0].with_columns(
        y=pl.when(pl.col("t") >= batches[0]["t"][60]).then(1 - pl.col("y")).otherwise(pl.col("y"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "reasons", keep)
        for events in (batches[0], turned):
            next_version(rec, events, train=True, limits=limits)
    cut = len(seen[0]) - int((batches[0]["t"] >= batches[0]["t"][60]).sum())
    assert cut >= 0
    np.testing.assert_allclose(seen[0][: cut + 1], seen[1][: cut + 1], atol=1e-6)


def test_the_same_batch_again_does_nothing(copy: Copy, batches: Batches) -> None:
    project = copy()
    first = update(project, batches[0])
    update(project, batches[1])
    again = update(project, batches[0].sample(fraction=1.0, shuffle=True, seed=1))
    assert first.version is not None
    assert again.known == first.version.name
    assert served(project) == "000003"


def test_old_and_overlapping_events_are_refused(copy: Copy, batches: Batches) -> None:
    project = copy()
    update(project, batches[0])
    both = pl.concat([batches[0].tail(20), batches[1]])
    with pytest.raises(DataError, match="only events that are newer"):
        update(project, both)
    with pytest.raises(DataError, match="only events that are newer"):
        update(project, batches[0].head(5))
    assert served(project) == "000002"


def test_one_class_and_only_new_members(copy: Copy, batches: Batches) -> None:
    project = copy()
    strange = batches[0].with_columns(m=pl.lit("new-") + pl.col("m"), i=pl.lit("new-") + pl.col("i"), y=1)
    update(project, strange, train=True)
    rec = Recommender.load(project.bundles)
    ask = {"cat": "u", "tags": ["g1"], "num": 0.0}
    liked, unknown = (rec.rank(m, ["i1"], context=ask)["y"][0] for m in ("new-m1", "nobody"))
    assert liked > unknown


def test_events_of_the_future_are_refused(copy: Copy, batches: Batches) -> None:
    project = copy()
    soon = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=3)
    ahead = batches[0].tail(1).with_columns(t=pl.lit(soon).cast(pl.Datetime("us")))
    with pytest.raises(DataError, match="ahead of this machine's clock"):
        update(project, pl.concat([batches[0], ahead]))
    assert served(project) == "000001"


@pytest.mark.parametrize("size", [0, 40, 2000])
def test_a_torn_file_is_refused(copy: Copy, batches: Batches, tmp_path: Path, size: int) -> None:
    project = copy()
    path = tmp_path / "torn.parquet"
    batches[0].write_parquet(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"torn\.parquet"):
        update(project, str(path))
    assert served(project) == "000001"


def test_an_empty_file_says_so(copy: Copy, batches: Batches, tmp_path: Path) -> None:
    project = copy()
    batches[0].head(0).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        update(project, str(tmp_path / "empty.parquet"))
    assert served(project) == "000001"


def test_a_worse_version_is_refused_unless_forced(
    copy: Copy, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy()
    monkeypatch.setattr(module, "reasons", lambda *_: ["y: log-loss grows by 9.0 % (30 rows)"])
    with pytest.raises(GateError, match=r"log-loss grows by 9\.0 %"):
        update(project, batches[0])
    assert served(project) == "000001"
    forced = update(project, batches[0], force=True)
    assert forced.why
    assert served(project) == "000002"


def test_a_version_that_predicts_no_numbers_is_refused_even_when_forced(
    copy: Copy, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy()

    class Broken(EffectsPart):
        def adjust(self, arrays: Any, logits: np.ndarray) -> np.ndarray:
            return logits * np.nan

    monkeypatch.setattr(EffectsPart, "update", lambda self, *_: Broken(self.effects))
    with pytest.raises(GateError, match="not numbers"):
        update(project, batches[0], force=True)
    monkeypatch.undo()
    assert served(project) == "000001"


def test_files_that_grow_too_much_are_refused(copy: Copy, batches: Batches) -> None:
    project = copy(size=1.0001)
    with pytest.raises(GateError, match="its files grow"):
        update(project, batches[0])
    assert served(project) == "000001"
    assert not list(project.bundles.glob(".partial-*"))


def test_two_at_once_one_waits_or_is_refused(copy: Copy, batches: Batches) -> None:
    project = copy()
    with bundle.writer(project.bundles):
        with pytest.raises(BundleError, match="another update is at work"):
            update(project, batches[0])
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(update(project, batches[0], wait=30.0)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(60)
    assert found[0].version.name == "000002"


def test_a_full_disk_leaves_the_version_before(
    copy: Copy, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy()
    whole = bundle.sync

    def full(path: Path) -> None:
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path)

    monkeypatch.setattr(bundle, "sync", full)
    with pytest.raises(BundleError, match="No space left on device"):
        update(project, batches[0])
    monkeypatch.undo()
    assert served(project) == "000001"
    assert not list(project.bundles.glob(".partial-*"))
    update(project, batches[0])
    assert served(project) == "000002"


def test_what_killed_writers_left_is_cleared_away_and_what_others_write_is_not(copy: Copy) -> None:
    project = copy()
    dead = project.bundles / ".partial-dead"
    (dead / "parts").mkdir(parents=True)

    def write(folder: Path) -> None:
        """A fit publishes without asking for the writer's lock; however old, its folder is not taken away."""
        os.utime(folder, (0, 0))
        with bundle.writer(project.bundles):
            assert folder.is_dir()
            assert not dead.exists()
        (folder / "a.json").write_text("{}")

    assert bundle.publish(project.bundles, write, {}).name == "000002"
    assert not list(project.bundles.glob(".partial-*"))


def test_a_draft_cleared_away_before_it_is_locked_is_made_again(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, seen = copy(), []
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and not seen:  # the writer's, just before it is locked
            monkeypatch.setattr(fcntl, "flock", lock)
            seen.extend(project.bundles.glob(".partial-*"))
            with bundle.writer(project.bundles):
                pass
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    version = bundle.publish(project.bundles, lambda folder: None, {})
    assert seen
    assert not seen[0].exists()
    bundle.verify(version)


def test_a_version_in_memory_is_not_read_again(copy: Copy, batches: Batches) -> None:
    project = copy()
    rec = Recommender.load(project.bundles)
    assert update(project, batches[0], rec=rec).seconds["load"] == 0.0
    assert update(project, batches[1], rec=rec).seconds["load"] > 0.0  # another version is in service by now


def test_command_line(copy: Copy, batches: Batches, tmp_path: Path) -> None:
    project = copy()
    (project.base / "project.yaml").write_text(yaml.safe_dump(project.to_dict()))
    batches[0].write_parquet(tmp_path / "new.parquet")
    run = CliRunner().invoke(app, ["update", str(project.base), str(tmp_path / "new.parquet"), "--train"])
    assert run.exit_code == 0, run.output
    assert "Learned: aggregates and histories, effects" in run.output
    assert "Published" in run.output
    again = CliRunner().invoke(app, ["update", str(project.base), str(tmp_path / "new.parquet"), "--json"])
    assert json.loads(again.output)["version"] == "000002"
