"""The gate: what it refuses, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest

from memberwise.fresh.gate import GateError, quality, reasons, refuse, size_reason
from memberwise.project import FreshConfig

CONFIG = FreshConfig()
TASKS = ("y",)


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, (n, 1))
    return (rng.random((n, 1)) < p).astype(float), p


def test_the_same_predictions_pass() -> None:
    y, p = rows(2000)
    assert reasons(CONFIG, TASKS, y, p, p) == []
    refuse([])


def test_a_ranking_turned_round_is_refused() -> None:
    y, p = rows(2000)
    why = reasons(CONFIG, TASKS, y, p, 1 - p)
    assert any("log-loss grows" in w for w in why)
    with pytest.raises(GateError, match="--force"):
        refuse(why)


def test_probabilities_too_high_are_refused_for_their_calibration() -> None:
    y, p = rows(4000)
    high = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + 1.0)))
    why = reasons(CONFIG.model_copy(update={"log_loss": 10.0}), TASKS, y, p, high)
    assert len(why) == 1
    assert "observed over expected goes from 1." in why[0] or "observed over expected goes from 0.9" in why[0]
    assert reasons(CONFIG, TASKS, y, high, p) == []  # getting better is never refused


def test_noise_on_few_rows_refuses_nothing() -> None:
    """Two equally good models differ by chance: not one of 200 pairs is refused."""
    refused = 0
    for seed in range(200):
        y, p = rows(250, seed)
        noise = np.random.default_rng(1000 + seed).normal(0, 0.3, p.shape)
        one, two = (1 / (1 + np.exp(-(np.log(p / (1 - p)) + sign * noise))) for sign in (1, -1))
        refused += bool(reasons(CONFIG, TASKS, y, one, two))
    assert refused <= 4
    y, p = rows(199)
    assert reasons(CONFIG, TASKS, y, p, 1 - p) == []  # too few to say anything


def test_what_is_no_number_is_refused_however_few_rows() -> None:
    y, p = rows(5)
    bad = p.copy()
    bad[3] = np.nan
    assert reasons(CONFIG, TASKS, y, p, bad) == ["some of its predictions are not numbers"]


def test_a_task_is_judged_where_it_is_defined() -> None:
    y, p = rows(3000)
    both, labels = np.hstack([p, p]), np.hstack([y, y])
    labels[:, 1] = np.nan
    turned = np.hstack([p, 1 - p])
    assert reasons(CONFIG, ("y", "z"), labels, both, turned) == []
    assert quality(labels, both, 1) is None


def test_quality_by_hand() -> None:
    found = quality(np.array([[1.0], [0.0], [np.nan]]), np.array([[0.8], [0.4], [0.9]]), 0)
    assert found is not None
    assert found.rows == 2
    assert found.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert found.observed_over_expected == pytest.approx(1 / 1.2)
    assert found.auc == 1.0
    one = quality(np.array([[1.0]]), np.array([[0.8]]), 0)
    assert one is not None
    assert one.auc is None


def test_size() -> None:
    old = {"a": {"bytes": 100}, "b": {"bytes": 100}}
    assert size_reason(CONFIG, old, {"a": {"bytes": 400}}) is None
    assert "grow" in (size_reason(CONFIG, old, {"a": {"bytes": 401}}) or "")
    assert size_reason(CONFIG, {}, {"a": {"bytes": 401}}) is None
