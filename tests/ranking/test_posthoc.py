"""Isotonic regression after the fact, per task."""

from __future__ import annotations

import numpy as np
import pytest

from memberwise import metrics
from memberwise.ranking.posthoc import posthoc_isotonic


def distorted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are too sure, and the labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    y = (rng.random((n, 2)) < 1 / (1 + np.exp(-z))).astype(np.float32)
    return (1 / (1 + np.exp(-3 * z - 1))).astype(np.float32), y


def test_it_takes_a_distortion_back_and_keeps_the_order() -> None:
    p, y = distorted(20_000, 0)
    q, z = distorted(20_000, 1)
    after = posthoc_isotonic(p, y)(q)
    for t in range(2):
        before_ece = metrics.expected_calibration_error(z[:, t], q[:, t])
        assert metrics.expected_calibration_error(z[:, t], after[:, t]) < before_ece / 5
        assert metrics.auc(z[:, t], after[:, t]) == pytest.approx(metrics.auc(z[:, t], q[:, t]), abs=2e-3)
        order = np.argsort(q[:, t])
        assert (np.diff(after[order, t]) >= 0).all()


def test_rows_without_a_label_or_weight_say_nothing() -> None:
    p, y = distorted(500, 2)
    hidden = y.copy()
    hidden[::2, 0] = np.nan
    weights = np.ones_like(y)
    weights[::2, 0] = 0.0
    q, _ = distorted(50, 3)
    by_mask, by_weight = posthoc_isotonic(p, hidden)(q), posthoc_isotonic(p, y, weights)(q)
    np.testing.assert_allclose(by_mask[:, 0], by_weight[:, 0])
    np.testing.assert_allclose(by_mask[:, 0], posthoc_isotonic(p[1::2], y[1::2])(q)[:, 0])


def test_a_task_without_labels_keeps_its_scores() -> None:
    p, y = distorted(100, 4)
    y[:, 1] = np.nan
    after = posthoc_isotonic(p, y)(p)
    np.testing.assert_array_equal(after[:, 1], p[:, 1])
    assert not np.array_equal(after[:, 0], p[:, 0])
