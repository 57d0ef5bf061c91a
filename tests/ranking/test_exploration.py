"""The exploring head against regressions, forgetting and normal distributions whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from memberwise.bayes import GaussianPosterior
from memberwise.errors import DataError
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.exploration import (
    Directions,
    ExplorationConfig,
    ExplorationHead,
    Rows,
    principal_directions,
)
from memberwise.ranking.id_intercepts import IdIntercepts, solve
from memberwise.ranking.predict import predict_logits, predict_with_hidden
from memberwise.ranking.ranker import Ranker

DAY = 86_400_000_000


def rows(n: int, seed: int, *, width: int = 4, w=None, items: int = 10, own=None, tasks: int = 1) -> Rows:
    """Rows of a logistic world: ``logit = offset + h'w + own[item]``."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, tasks, width)).astype(np.float32)
    offset = rng.normal(size=(n, tasks)).astype(np.float32)
    item = rng.integers(0, items, n).astype(np.uint64)
    eta = offset + (hidden @ (np.zeros(width) if w is None else w))
    if own is not None:
        eta = eta + own[item.astype(int)][:, None]
    labels = (rng.random((n, tasks)) < expit(eta)).astype(np.float32)
    return Rows(hidden, offset, labels, np.ones((n, tasks), np.float32), item)


def whole(width: int = 4, tasks: int = 1) -> Directions:
    return Directions(np.zeros((tasks, width)), np.tile(np.eye(width), (tasks, 1, 1)))


def prior_head(precision: float, width: int = 4, tasks: int = 1, item_precision=None, **settings):
    """A head that has seen nothing."""
    config = ExplorationConfig(items=item_precision is not None, **settings)
    names = (*(f"direction {i}" for i in range(width)), "constant")
    posterior = GaussianPosterior.isotropic(names, precision=precision)
    floor = np.full(tasks, item_precision or np.inf)
    half_life = None if config.half_life is None else float(config.half_life)
    items = IdIntercepts.empty(floor, half_life)
    return ExplorationHead(
        config, whole(width, tasks), (posterior,) * tasks, np.full(tasks, precision), items, 0
    )


def test_an_update_is_the_map_of_logistic_regression_with_an_offset():
    batch = rows(800, 0, w=np.array([1.0, -1.0, 0.5, 0.0]))
    batch = batch._replace(offset=np.zeros_like(batch.offset))
    head = prior_head(2.0).update(batch, 1)
    z = np.column_stack([batch.z[:, 0], np.ones(800)])
    oracle = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(z, batch.labels[:, 0])
    np.testing.assert_allclose(head.posteriors[0].mean, oracle.coef_[0], atol=1e-5)
    p = oracle.predict_proba(z)[:, 1]
    hessian = (z * (p * (1 - p))[:, None]).T @ z + 2.0 * np.eye(5)
    np.testing.assert_allclose(head.posteriors[0].precision.dense(), hessian, rtol=1e-5)


def test_increments_in_turn_end_where_one_update_ends():
    w = np.array([0.8, -0.6, 0.4, 0.2])
    batches = [rows(1_000, seed, w=w) for seed in range(4)]
    head = prior_head(1.0)
    for i, batch in enumerate(batches):
        head = head.update(batch, i, key=str(i))
    together = Rows(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    once = prior_head(1.0).update(together, 3)
    np.testing.assert_allclose(head.posteriors[0].mean, once.posteriors[0].mean, atol=0.02)
    np.testing.assert_allclose(head.posteriors[0].variances(), once.posteriors[0].variances(), rtol=0.05)
    with pytest.raises(DataError, match="already absorbed"):
        head.update(batches[0], 5, key="2")
    with pytest.raises(DataError, match="older"):
        head.update(batches[0], 1, key="new")


def test_the_posterior_covers_the_truth_as_often_as_it_says():
    hits, tries = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        w, own = rng.normal(0, 0.5, 4), rng.normal(0, 0.7, 10)
        head = prior_head(4.0, item_precision=1 / 0.49).update(rows(400, seed, w=w, own=own), 1)
        gap = np.abs(head.posteriors[0].mean[:4] - w) / np.sqrt(head.posteriors[0].variances()[:4])
        mean, precision = head.items.read(np.arange(10, dtype=np.uint64), 1)
        gaps = np.append(gap, np.abs(mean[:, 0] - own) * np.sqrt(precision[:, 0]))
        hits, tries = hits + int((gaps < 1.96).sum()), tries + gaps.size
    # The curvature between items and the constant is ignored, which costs a little coverage.
    assert 0.90 < hits / tries < 0.97


def test_an_item_hardly_shown_is_uncertain_and_a_silent_one_becomes_so_again():
    batch = rows(2_000, 1, own=np.linspace(-1, 1, 10))
    batch = batch._replace(items=np.where(batch.items == 9, np.uint64(8), batch.items))
    head = prior_head(1.0, item_precision=2.0, half_life="1d").update(batch, DAY)
    known, new = head.spread(batch.z[:2], np.array([3, 9], np.uint64), batch.offset[:2]).own[:, 0]
    assert new == pytest.approx(1 / np.sqrt(2.0))
    assert known < 0.3
    late, late_precision = head.items.read(np.array([3], np.uint64), 41 * DAY)
    assert late_precision[0, 0] == pytest.approx(2.0, rel=1e-6)
    assert abs(late[0, 0]) < 1e-6


def test_ids_fade_as_the_one_posterior_forgets():
    floor, mean, precision = 2.0, 0.7, 11.0
    items = IdIntercepts.empty(np.array([floor]), half_life=float(DAY))
    items = items.write(np.array([5], np.uint64), np.array([[mean]]), np.array([[precision]]), 0)
    found = items.read(np.array([5], np.uint64), 3 * DAY)
    oracle = GaussianPosterior.isotropic(["u"], precision=precision, mean=mean).forget(0.5, floor, steps=3)
    assert found[0][0, 0] == pytest.approx(oracle.mean[0])
    assert found[1][0, 0] == pytest.approx(oracle.precision.diagonal()[0])


def test_intercepts_of_many_ids_are_each_their_own_minimum():
    rng = np.random.default_rng(2)
    codes, n = rng.integers(0, 6, 200), 200
    y, w, o = rng.integers(0, 2, n).astype(float), rng.uniform(0, 2, n), rng.normal(0, 2, n)
    y[codes == 0] = 1.0  # one class only
    mean, precision = rng.normal(size=6), rng.uniform(0.1, 3, 6)
    mode, hessian = solve(codes, y, w, o, mean, precision)
    for e in range(6):
        mine = codes == e

        def loss(u: float, mine=mine, e=e) -> float:
            eta = u + o[mine]
            return float(
                w[mine] @ (np.logaddexp(0, eta) - y[mine] * eta) + precision[e] / 2 * (u - mean[e]) ** 2
            )

        found = minimize_scalar(loss, bracket=(-3, 3), tol=1e-12).x
        assert mode[e] == pytest.approx(found, abs=1e-5)
        p = expit(found + o[mine])
        assert hessian[e] == pytest.approx(w[mine] @ (p * (1 - p)), rel=1e-4)


def test_writing_ids_keeps_the_others_and_their_order():
    items = IdIntercepts.empty(np.array([1.0, 1.0]))
    rng = np.random.default_rng(0)
    truth: dict[int, np.ndarray] = {}
    for moment in range(5):
        ids = rng.choice(50, 12, replace=False).astype(np.uint64)
        mean, precision = rng.normal(size=(12, 2)), rng.uniform(1, 5, (12, 2))
        items = items.write(ids, mean, precision, moment)
        truth |= {int(i): m for i, m in zip(ids, mean, strict=True)}
    assert (np.diff(items.ids.astype(np.int64)) > 0).all()
    found, _ = items.read(np.array(list(truth), np.uint64), 9)
    np.testing.assert_allclose(found, np.stack(list(truth.values())))
    again = IdIntercepts.from_arrays(items.to_arrays(), None)
    np.testing.assert_allclose(again.mean, items.mean, rtol=1e-6)


def test_undefined_labels_and_an_empty_task_teach_nothing():
    batch = rows(300, 3, tasks=2)
    labels = batch.labels.copy()
    labels[:150, 0] = np.nan
    labels[:, 1] = np.nan
    head = prior_head(1.0, tasks=2).update(batch._replace(labels=labels), 1)
    half = Rows(*(a[150:, :1] if a.ndim > 1 else a[150:] for a in batch))
    one = prior_head(1.0).update(half, 1)
    np.testing.assert_allclose(head.posteriors[0].mean, one.posteriors[0].mean, atol=1e-8)
    assert not head.posteriors[1].mean.any()


def test_weights_count_as_repetitions():
    batch = rows(200, 4, items=5)
    weighted = batch._replace(weights=np.full_like(batch.weights, 3.0))
    repeated = Rows(*(np.concatenate([a, a, a]) for a in batch))
    one = prior_head(1.0, item_precision=1.0).update(weighted, 1)
    other = prior_head(1.0, item_precision=1.0).update(repeated, 1)
    np.testing.assert_allclose(one.posteriors[0].mean, other.posteriors[0].mean, atol=1e-8)
    np.testing.assert_allclose(one.items.precision, other.items.precision, rtol=1e-8)


@pytest.mark.parametrize("scale", [0.15, 0.6])
def test_the_evidence_finds_how_much_items_differ(scale: float):
    rng = np.random.default_rng(7)
    own = rng.normal(0, scale, 400)
    train, later = rows(2_000, 8, items=400), rows(12_000, 9, items=400, own=own)
    head = ExplorationHead.fit(ExplorationConfig(), [train], later, 0, whole())
    assert 1 / 3.5 < (1 / head.items.floor[0]) / scale**2 < 3.5


def test_a_layer_that_stays_right_is_trusted_and_one_that_moved_is_not():
    settings = ExplorationConfig(items=False)
    train = rows(20_000, 10)
    calm = ExplorationHead.fit(settings, [train], rows(8_000, 11), 0, whole())
    moved = ExplorationHead.fit(settings, [train], rows(8_000, 11, w=np.full(4, 0.5)), 0, whole())
    wide, narrow = moved.posteriors[0].variances(), calm.posteriors[0].variances()
    assert (wide > 5 * narrow).all()
    # The curvature of train stands in the precision: pieces of train are the same as all of it.
    parts = [Rows(*(a[:9_000] for a in train)), Rows(*(a[9_000:] for a in train))]
    again = ExplorationHead.fit(settings, parts, rows(8_000, 11), 0, whole())
    np.testing.assert_allclose(
        again.posteriors[0].precision.dense(), calm.posteriors[0].precision.dense(), rtol=1e-6
    )


def test_after_a_retraining_means_are_zero_and_less_is_certain():
    head = prior_head(1.0, item_precision=1.0).update(rows(500, 12, w=np.ones(4)), 1, key="a")
    after = head.retrained(2, 0.5)
    assert not after.posteriors[0].mean.any()
    assert not after.items.mean.any()
    assert (after.posteriors[0].variances() > head.posteriors[0].variances()).all()
    assert after.posteriors[0].batches == ("a",)


def test_principal_directions_hold_the_variance_and_all_of_them_lose_nothing():
    rng = np.random.default_rng(13)
    hidden = (rng.normal(size=(500, 1, 3)) @ rng.normal(size=(3, 8)) + 2.0).astype(np.float32)
    three = principal_directions([hidden[:200], hidden[200:]], rank=3)
    back = three(hidden)[:, 0] @ three.basis[0].T + three.centre[0]
    np.testing.assert_allclose(back, hidden[:, 0], atol=1e-4)
    everything = principal_directions([hidden], rank=None)
    assert everything.basis.shape == (1, 8, 8)
    with pytest.raises(DataError, match="no rows"):
        principal_directions([], rank=3)


def test_draws_have_the_covariance_and_share_one_layer():
    head = prior_head(1.0, item_precision=4.0).update(rows(300, 14), 1)
    batch = rows(7, 15)
    spread = head.spread(batch.z, batch.items, batch.offset)
    drawn = spread.draw(40_000, np.array([2.0]), np.random.default_rng(0))[:, :, 0]
    np.testing.assert_allclose(drawn.mean(0), spread.mean[:, 0], atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), 4.0 * spread.covariance(0), atol=0.06)
    np.testing.assert_allclose(spread.deviation()[:, 0] ** 2, np.diag(spread.covariance(0)))
    shift = head.shift(batch.z, batch.items)
    np.testing.assert_allclose(batch.offset + shift, spread.mean, atol=1e-6)
    layer = prior_head(1.0).spread(np.repeat(batch.z[:1], 3, 0), batch.items[:3], batch.offset[:3])
    noise = layer.draw(5, np.ones(1), np.random.default_rng(0))[:, :, 0] - layer.mean[:, 0]
    np.testing.assert_allclose(noise, np.repeat(noise[:, :1], 3, 1))


def test_hidden_times_the_last_layer_is_the_logit(layout, table_rows, rows):
    config = RankerConfig(wide=False, embedding_dim=4)
    ranker = Ranker(layout, table_rows, {}, config, seed=1)
    arrays = rows(50)
    logits, hidden = predict_with_hidden(ranker, arrays)
    np.testing.assert_array_equal(logits, predict_logits(ranker, arrays))
    weight = ranker.head_weight.detach().numpy()
    bias = ranker.wide_bias.detach().numpy()
    np.testing.assert_allclose((hidden * weight).sum(2) + bias, logits, atol=1e-5)
