"""Effects on top: against the regression itself, and on residuals whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from memberwise.bayes.mixed import MixedEffectsLogisticRegression
from memberwise.bayes.random_effect import RandomEffect
from memberwise.errors import BundleError, DataError
from memberwise.ranking.effects import Effects, EffectsConfig

TASKS = ("click", "like")
BIG = np.uint64(2**63)  # hashes fill all 64 bits


def residuals(n: int, seed: int = 0, spread: float = 0.8) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
    """Rows whose logit is off by an effect of the item; the second task is defined on half of them."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).normal(0, spread, 40)
    item, member = rng.integers(0, 40, n), rng.integers(0, 30, n)
    z = rng.normal(0, 1, (n, 2))
    y = (rng.random((n, 2)) < 1 / (1 + np.exp(-z - truth[item][:, None]))).astype(np.float32)
    y[rng.random(n) < 0.5, 1] = np.nan
    rows = {
        "member": member.astype(np.uint64) + BIG,
        "item": item.astype(np.uint64) + BIG,
        "labels": y,
        "weights": np.ones((n, 2), np.float32),
    }
    return rows, z


def test_the_variance_of_each_entity_is_learned() -> None:
    rows, z = residuals(20_000)
    effects = Effects.learned(EffectsConfig(), TASKS, rows, z)
    for task in TASKS:
        assert effects.variances[task]["item"] == pytest.approx(0.64, rel=0.45)
        assert effects.variances[task]["member"] < 0.02
    np.testing.assert_array_equal(effects.adjusted(rows, z), z)  # nothing is known yet


def test_equals_the_regression_on_the_same_rows() -> None:
    rows, z = residuals(800)
    config = EffectsConfig(by=["item"], variance=0.3)
    found = Effects(config, TASKS).updated(rows, z, "a").adjusted(rows, z)
    effect = RandomEffect(name="item", variance=0.3, learn_variance=False)
    model = MixedEffectsLogisticRegression([effect], prior_precision=250.0, intercept_precision=250.0)
    there = ~np.isnan(rows["labels"][:, 1])
    ids = pl.Series(rows["item"]).cast(pl.String)
    x, y = z[there][:, 1:], rows["labels"][there, 1]
    model.partial_fit(x, y, [0.0, 1.0], groups={"item": ids.filter(there)}, offset=x[:, 0])
    expected = model.decision_function(z[:, 1:], groups={"item": ids}, offset=z[:, 1])
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-5)


def test_updates_in_pieces_come_near_one_fit_of_all() -> None:
    rows, z = residuals(6000)
    blank = Effects(EffectsConfig(variance=0.3), TASKS)
    pieces = blank
    for k in range(6):
        part = slice(1000 * k, 1000 * (k + 1))
        pieces = pieces.updated({n: a[part] for n, a in rows.items()}, z[part], str(k))
    whole = blank.refitted(rows, z, "all")
    gap = pieces.adjusted(rows, z) - whole.adjusted(rows, z)
    assert np.sqrt(np.mean(gap**2)) < 0.1  # blocks do not know of each other's uncertainty
    assert np.std(whole.adjusted(rows, z) - z) > 0.5


def test_an_id_never_seen_has_no_effect_and_one_event_later_it_has() -> None:
    rows, z = residuals(500)
    effects = Effects(EffectsConfig(by=["item"], variance=1.0, level_precision=1e9), TASKS)
    effects = effects.updated(rows, z, "a")
    new = {k: a[:1].copy() for k, a in rows.items()} | {"item": np.array([7], np.uint64)}
    new["labels"][:] = 1.0
    np.testing.assert_allclose(effects.adjusted(new, z[:1]), z[:1], atol=1e-4)
    newer = effects.updated(new, z[:1], "b")
    assert (newer.adjusted(new, z[:1]) > z[:1] + 0.1).all()
    np.testing.assert_allclose(effects.adjusted(new, z[:1]), z[:1], atol=1e-4)  # the older stays
    gone = newer.forgotten("item", [7])
    np.testing.assert_allclose(gone.adjusted(new, z[:1]), z[:1], atol=1e-4)


def test_keys_count_once() -> None:
    rows, z = residuals(100)
    effects = Effects(EffectsConfig(), TASKS).updated(rows, z, "a")
    with pytest.raises(DataError, match="absorbed before"):
        effects.updated(rows, z, "a")
    with pytest.raises(DataError, match="absorbed before"):
        effects.refitted(rows, z, "b").updated(rows, z, "a")


def test_one_class_and_no_rows_are_no_trouble() -> None:
    rows, z = residuals(50)
    rows["labels"][:, 0], rows["labels"][:, 1] = 1.0, np.nan
    effects = Effects.learned(EffectsConfig(), TASKS, rows, z)
    assert effects.variances == {}
    effects = effects.updated(rows, z, "a")
    assert (effects.adjusted(rows, z)[:, 0] > z[:, 0]).all()
    np.testing.assert_array_equal(effects.adjusted(rows, z)[:, 1], z[:, 1])
    none = {k: a[:0] for k, a in rows.items()}
    assert effects.updated(none, z[:0], "b").adjusted(none, z[:0]).shape == (0, 2)


def test_files(tmp_path: Path) -> None:
    rows, z = residuals(300)
    config = EffectsConfig(tasks=["click"])
    effects = Effects.learned(config, TASKS, rows, z).updated(rows, z, "a")
    effects.write(tmp_path)
    read = Effects.read(config, TASKS, tmp_path)
    np.testing.assert_allclose(read.adjusted(rows, z), effects.adjusted(rows, z), atol=1e-6)
    np.testing.assert_array_equal(read.adjusted(rows, z)[:, 1], z[:, 1])
    assert read.applied == ("a",)
    (tmp_path / "effects.json").write_text("{")
    with pytest.raises(BundleError):
        Effects.read(config, TASKS, tmp_path)
