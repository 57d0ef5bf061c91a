"""Orders and their probabilities against closed forms, quadrature and counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from memberwise.errors import ConfigError
from memberwise.ranking.exploration import Spread
from memberwise.ranking.policies import best, first_probability, rank, thompson_propensity

ONE = np.ones(1)


def spread(n: int, seed: int = 0, shared: float = 0.5, own: float = 0.4, tasks: int = 1) -> Spread:
    rng = np.random.default_rng(seed)
    return Spread(
        rng.normal(0, 0.5, (n, tasks)), shared * rng.normal(size=(tasks, 3, n)), np.full((n, tasks), own)
    )


def independent(mean, deviation, nodes: int = 2_001):
    """Probability of being the largest of independent normals, by quadrature in one dimension."""
    x = np.linspace(-9, 9, nodes)
    at = mean[:, None] + deviation[:, None] * x
    below = ndtr((at[:, None, :] - mean[None, :, None]) / deviation[None, :, None])
    below[np.arange(len(mean)), np.arange(len(mean))] = 1.0
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    return (below.prod(1) * density).sum(1)


def test_the_first_place_of_two_is_the_normal_distribution_function():
    s = spread(2)
    gap, cov = s.mean[0, 0] - s.mean[1, 0], s.covariance(0)
    deviation = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    assert first_probability(s, 0, 2.0, 0) == pytest.approx(ndtr(gap / (2.0 * deviation)))


@given(st.integers(0, 500), st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_without_a_shared_layer_it_is_the_quadrature(seed: int, n: int):
    s = spread(n, seed, shared=0.0, own=0.3)
    wanted = independent(s.mean[:, 0], s.own[:, 0])
    found = [first_probability(s, 0, 1.0, a) for a in range(n)]
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_first_places_sum_to_one_and_agree_with_counting():
    s = spread(6, 3)
    exact = np.array([first_probability(s, 0, 1.0, a) for a in range(6)])
    assert exact.sum() == pytest.approx(1.0, abs=1e-4)
    drawn = s.draw(60_000, ONE, np.random.default_rng(0))[:, :, 0].argmax(1)
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 60_000, exact, atol=0.01)


def test_candidates_that_move_together_are_decided_by_their_means():
    s = Spread(np.array([[0.2], [0.1], [0.2]]), np.ones((1, 2, 3)), np.zeros((3, 1)))
    assert [first_probability(s, 0, 1.0, a) for a in range(3)] == [1.0, 0.0, 0.0]


def test_every_place_is_counted_as_often_as_it_comes():
    s, draws = spread(5, 4, tasks=2), 4_000
    utilities, temperature = np.array([1.0, 0.5]), np.array([1.0, 2.0])
    orders = np.array(
        [rank(s, utilities, temperature=temperature, draws=1, seed=seed).order for seed in range(draws)]
    )
    order = np.array([2, 0, 4, 1, 3])
    found = thompson_propensity(s, utilities, temperature, order, draws, np.random.default_rng(9))
    wanted = (orders == order).mean(0)
    assert (np.abs(found - wanted) < 5 * np.sqrt(wanted.clip(0.01) / draws)).all()


def test_what_was_done_never_had_no_chance():
    s = Spread(np.array([[5.0], [-5.0]]), np.zeros((1, 1, 2)), np.full((2, 1), 1e-3))
    found = thompson_propensity(s, np.ones(1), ONE, np.array([1, 0]), 99, np.random.default_rng(0))
    assert found[1] == pytest.approx(0.01)
    found = thompson_propensity(s, -np.ones(1), ONE, np.array([0, 1]), 99, np.random.default_rng(0))
    np.testing.assert_allclose(found, [0.01, 0.01])


def test_the_same_seed_gives_the_same_order_and_another_one_explores():
    s = spread(30, 5)
    orders = {tuple(rank(s, ONE, temperature=ONE, k=5, draws=2, seed=seed).order) for seed in range(20)}
    assert len(orders) > 10
    assert np.array_equal(
        rank(s, ONE, temperature=ONE, draws=2, seed=3).order,
        rank(s, ONE, temperature=ONE, draws=2, seed=3).order,
    )


def test_no_temperature_is_greedy_and_a_bound_prefers_the_uncertain():
    s = Spread(np.array([[0.5], [0.4], [0.0]]), np.zeros((1, 1, 3)), np.array([[0.01], [0.5], [0.0]]))
    greedy = rank(s, ONE, policy="greedy", temperature=ONE)
    cold = rank(s, ONE, policy="thompson", temperature=np.zeros(1))
    bound = rank(s, ONE, policy="ucb", temperature=ONE)
    assert greedy.order.tolist() == cold.order.tolist() == [0, 1, 2]
    assert bound.order.tolist() == [1, 0, 2]
    assert (bound.propensity == 1).all()
    assert rank(s, ONE, policy="ucb", temperature=np.zeros(1)).order.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="not a policy"):
        rank(s, ONE, policy="softmax", temperature=ONE)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 14))
def test_the_best_are_those_of_a_stable_sort(values: list[int], k: int):
    scores = np.array(values, float)
    assert best(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


def test_a_utility_below_zero_turns_the_order():
    s = Spread(np.array([[1.0], [0.0]]), np.zeros((1, 1, 2)), np.full((2, 1), 0.1))
    assert rank(s, -ONE, policy="greedy", temperature=ONE).order.tolist() == [1, 0]
