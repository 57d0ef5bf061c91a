"""Replays: what each arm may see, what it pays, and that arms which learn nothing are the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memberwise.errors import DataError
from memberwise.fresh.replay import Arm, Ground, Retrained, Stale, Updated, WarmStarted, cold_start, replay
from memberwise.fresh.study import fitted_version, study
from memberwise.fresh.update import update
from memberwise.project import Project
from memberwise.ranking.incremental import IncrementalConfig, Memory
from memberwise.recommender import Recommender
from memberwise.recommender.fitting import prepared_rows
from memberwise.recommender.parts.incremental import IncrementalPart


@pytest.fixture(scope="module")
def rec(published: Project) -> Recommender:
    return Recommender.load(published.bundles)


@pytest.fixture(scope="module")
def ground(published: Project) -> Ground:
    return Ground(published, prepared_rows(published))


def bounds(ground: Ground) -> tuple[int, int]:
    return ground.prepared.packed.splits["train"][1], ground.prepared.packed.splits["test"][1]


def arms(rec: Recommender, ground: Ground) -> list[Arm]:
    config = IncrementalConfig(every=1, batch_size=32, recent_rows=50)
    memory = Memory.of(rec.ranker, ground.loader(0, bounds(ground)[0], 32), ground.task_weights, config)
    parts = {"incremental": IncrementalPart(config, memory, {}), "effects": rec.parts["effects"]}
    return [
        Stale("stale", rec.ranker),
        Updated("nothing", rec.ranker, {}),
        Updated("all", rec.ranker, parts),
        Retrained("retrain", rec.ranker, 200, 0.02),
        WarmStarted("warm", rec.ranker),
    ]


def test_no_prediction_sees_its_own_slice_or_later(rec: Recommender, ground: Ground) -> None:
    """With other labels from the third slice on, predictions up to the third stay, and later ones move."""
    cuts = ground.cuts(*bounds(ground), 5)
    whole = replay(ground, arms(rec, ground), cuts, measure=False)
    labels = ground.prepared.packed.arrays["labels"]
    turned = dict(ground.prepared.packed.arrays)
    turned["labels"] = np.array(labels)
    turned["labels"][cuts[2] :] = 1 - turned["labels"][cuts[2] :]
    original = ground.prepared.packed.arrays
    try:
        ground.prepared.packed.arrays = turned
        other = replay(ground, arms(rec, ground), cuts, measure=False)
    finally:
        ground.prepared.packed.arrays = original
    at = cuts[3] - cuts[0]
    for name, scores in whole.scores.items():
        np.testing.assert_allclose(other.scores[name][:at], scores[:at], atol=1e-6, err_msg=name)
        if name not in ("stale", "nothing"):
            assert np.abs(other.scores[name][at:] - scores[at:]).max() > 1e-4, name
    np.testing.assert_array_equal(whole.scores["stale"], whole.scores["nothing"])


def test_records(rec: Recommender, ground: Ground) -> None:
    cuts = ground.cuts(*bounds(ground), 4)
    found = replay(ground, arms(rec, ground), cuts, quiet_until=cuts[1])
    mine = found.of_task("y")
    assert {r["slice"] for r in mine} == {0, 1, 2}
    assert [r["rows"] for r in mine if r["arm"] == "all"] == np.diff(cuts)[1:].tolist()
    assert found.scores["all"].shape == (cuts[-1] - cuts[1], 2)
    weights = sum(t.numel() * 4 for t in rec.ranker.state_dict().values())
    assert all(r["bytes"] == 0 for r in mine if r["arm"] in ("stale", "nothing"))
    assert all(r["bytes"] >= weights for r in mine if r["arm"] in ("all", "retrain"))
    first = next(r for r in mine if r["arm"] == "stale")
    labels = np.asarray(ground.prepared.packed.arrays["labels"][cuts[1] : cuts[2], 0])
    expected = found.scores["stale"][: cuts[2] - cuts[1], 0].sum()
    assert first["observed_over_expected"] == pytest.approx(labels.sum() / expected, rel=1e-5)


def test_cuts_stand_between_moments(ground: Ground) -> None:
    times = np.asarray(ground.prepared.packed.arrays["time"])
    for cuts in (ground.cuts(*bounds(ground), 7), ground.days(*bounds(ground))):
        assert all(times[c - 1] < times[c] for c in cuts[1:-1])
        assert (cuts[0], cuts[-1]) == bounds(ground)
    with pytest.raises(DataError, match="fewer slices"):
        ground.cuts(*bounds(ground), 10_000)


def test_a_retrain_on_train_is_a_cold_start(rec: Recommender, ground: Ground) -> None:
    """On the same rows, seeds and steps it gives the same weights."""
    train_end = bounds(ground)[0]
    rows = ground.loader(0, train_end, rec.project.config.training.batch_size, 3, shuffle=True)
    one = cold_start(ground, rows, 10, 3)
    two = cold_start(ground, rows, 10, 3)
    other = cold_start(ground, rows, 10, 4)
    assert all((a == b).all() for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all((a == b).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_study_of_a_project(copy: Callable[..., Project], batches: list[object]) -> None:
    project = copy()
    update(project, batches[0])  # type: ignore[arg-type]
    assert fitted_version(project).version == "000001"
    report = study(project, slices=3)
    assert set(report.arms) == {
        "stale", "full retrain", "sliding-window retrain", "warm start only", "incremental",
        "incremental, cold weight .3", "incremental, forgetting .9", "effects only", "everything",
    }  # fmt: skip
    assert report.arms[-1] == "stale"
    assert "refresh" in report.answer().lower() or "did not lose" in report.answer()
