"""A slope and a shift fitted after training: known answers, an independent library, little from little."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from memberwise.ranking.platt import platt_scaling


def _world(n: int, slope: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.3, 1.5, (n, 1))
    labels = (rng.random((n, 1)) < 1 / (1 + np.exp(-(slope * logits + shift)))).astype(np.float32)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize(("slope", "shift"), [(0.6, 0.4), (1.0, 0.0), (1.7, -0.8)])
def test_finds_what_was_done_to_the_logits(slope: float, shift: float) -> None:
    a, b = platt_scaling(*_world(200_000, slope, shift))
    assert a[0] == pytest.approx(slope, abs=0.02)
    assert b[0] == pytest.approx(shift, abs=0.02)


def test_agrees_with_an_independent_library_where_the_prior_is_drowned() -> None:
    logits, labels = _world(50_000, 0.7, 0.2)
    weights = np.random.default_rng(1).uniform(0.1, 3.0, labels.shape).astype(np.float32)
    a, b = platt_scaling(logits, labels, weights)
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(logits, labels[:, 0], weights[:, 0])
    assert a[0] == pytest.approx(other.coef_[0, 0], abs=2e-3)
    assert b[0] == pytest.approx(other.intercept_[0], abs=2e-3)


def test_few_rows_move_little() -> None:
    # Ten rows, all told apart: without a prior the slope has no end.
    logits = np.linspace(-2, 2, 10, dtype=np.float32)[:, None]
    a, b = platt_scaling(logits, (logits > 0).astype(np.float32))
    assert 1.0 < a[0] < 1.5
    assert abs(b[0]) < 0.25


def test_tasks_stand_alone_and_undefined_labels_count_for_nothing() -> None:
    logits, labels = _world(20_000, 0.5, 0.1)
    first = platt_scaling(logits, labels)
    both = np.concatenate([labels, np.full_like(labels, np.nan), np.ones_like(labels)], axis=1)
    both[:5000, 0] = np.nan
    slope, shift = platt_scaling(np.repeat(logits, 3, axis=1), both)
    alone = platt_scaling(logits[5000:], labels[5000:])
    assert slope[0] == pytest.approx(alone[0][0], rel=1e-9)
    assert shift[0] == pytest.approx(alone[1][0], rel=1e-9)
    assert slope[0] != first[0][0]
    # No label, or one class: as it was.
    assert slope[1:].tolist() == [1.0, 1.0]
    assert shift[1:].tolist() == [0.0, 0.0]


def test_an_order_is_never_turned() -> None:
    logits, labels = _world(20_000, -0.8, 0.0)
    slope, shift = platt_scaling(logits, labels)
    assert (slope[0], shift[0]) == (1.0, 0.0)


def test_wild_logits_stay_finite() -> None:
    logits, labels = _world(2_000, 0.01, 0.0)
    slope, shift = platt_scaling(logits * 400, labels)
    assert np.isfinite([slope, shift]).all()
    assert 0 < slope[0] < 0.2
