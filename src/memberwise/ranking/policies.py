"""From what is known of the candidates' logits to an order, and to the probability of that order's places.

A policy that explores must be able to say how likely it was to do what it did: without that propensity its
log cannot be evaluated (`memberwise.fresh.offpolicy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr
from scipy.stats import multivariate_normal

from memberwise.errors import ConfigError
from memberwise.ranking.exploration import Spread

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXACT_UP_TO = 3
"""Candidates up to which the probability of the first place is integrated, in less than a millisecond; for
twelve that takes a second, where a thousand draws take five milliseconds."""


@dataclass(frozen=True)
class Ranking:
    """An order and its probability.

    Attributes
    ----------
    order : int64 [k]
        Candidates, best first.
    scores : float64 [n]
        What they were ordered by.
    propensity : float64 [k]
        Probability that the policy puts this candidate at this place.
    """

    order: Ints
    scores: Floats
    propensity: Floats


def rank(
    spread: Spread,
    utilities: Floats,
    *,
    policy: Literal["greedy", "thompson", "ucb"] = "thompson",
    temperature: Floats,
    k: int | None = None,
    draws: int = 1000,
    seed: int | np.random.SeedSequence | None = None,
) -> Ranking:
    """Order candidates for one request.

    ``score = sum_t utility_t sigmoid(logit_t)``

    with logits at the posterior mean (greedy), at one draw of the posterior for all candidates (Thompson),
    or at the mean plus `temperature` standard deviations (UCB).

    Parameters
    ----------
    spread : Spread
        Posterior of the candidates' logits.
    utilities : float64 [T]
        Worth of a positive of each task.
    policy
        How to choose.
    temperature : float64 [T]
        Width of draws and bounds, by task; 0 does not explore.
    k : int, optional
        Places wanted; all by default.
    draws : int
        Draws behind the propensities of Thompson sampling.
    seed
        Of the draw; from the system's entropy if not given, as it must be for requests that differ.

    Returns
    -------
    Ranking
    """
    n = len(spread.mean)
    places = n if k is None else min(k, n)
    if policy == "thompson" and temperature.any():
        generator = np.random.default_rng(seed)
        scores = expit(spread.draw(1, temperature, generator)[0]) @ utilities
        order = best(scores, places)
        return Ranking(
            order, scores, thompson_propensity(spread, utilities, temperature, order, draws, generator)
        )
    if policy not in ("greedy", "thompson", "ucb"):
        raise ConfigError(f"{policy!r} is not a policy", fix="use greedy, thompson or ucb")
    width = temperature * spread.deviation() if policy == "ucb" else 0.0
    scores = expit(spread.mean + width) @ utilities
    order = best(scores, places)
    return Ranking(order, scores, np.ones(len(order)))


def best(scores: Floats, k: int) -> Ints:
    """The k best, best first; of equal ones, the first stands first."""
    if k < len(scores):
        # Ties at the edge must not depend on how a selection algorithm moves things about.
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        chosen = np.flatnonzero(scores >= edge)
        return chosen[np.argsort(-scores[chosen], kind="stable")][:k].astype(np.int64)
    return np.argsort(-scores, kind="stable").astype(np.int64)


def thompson_propensity(
    spread: Spread,
    utilities: Floats,
    temperature: Floats,
    order: Ints,
    draws: int,
    generator: np.random.Generator,
) -> Floats:
    """Probability that Thompson sampling puts each candidate at the place that it has, [k].

    Counted over `draws` further draws and the one that made the order, ``(count + 1) / (draws + 1)``: what
    was done has happened once, and no propensity is zero. The first place is integrated instead where one
    task decides and candidates are few.
    """
    found = np.ones(len(order))
    if not len(order):
        return found
    counts, block = np.zeros(len(order)), max(1, 2_000_000 // max(1, spread.mean.size))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        scores = expit(spread.draw(size, temperature, generator)) @ utilities
        counts += (_places(scores, len(order)) == order).sum(0)
    found = (counts + 1.0) / (draws + 1.0)
    alone = np.flatnonzero(utilities)
    if len(alone) == 1 and utilities[alone[0]] > 0 and len(spread.mean) <= EXACT_UP_TO:
        found[0] = first_probability(spread, int(alone[0]), float(temperature[alone[0]]), int(order[0]))
    return found


def _places(scores: Floats, k: int) -> Ints:
    """Candidates at the first k places of every draw, ``[size, n] -> [size, k]``."""
    if k == 1:
        return scores.argmax(1)[:, None]
    if k < scores.shape[1]:
        part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        inner = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
        return np.take_along_axis(part, inner, 1)
    return np.argsort(-scores, axis=1, kind="stable")


def first_probability(spread: Spread, task: int, temperature: float, candidate: int) -> float:
    r"""Probability that a candidate's logit is the largest of one task, exact up to quadrature.

    .. math:: P(x_a - x_j > 0 \text{ for all } j \ne a), \qquad x \sim N(\mu, s^2 \Sigma)

    an orthant of a normal distribution of n - 1 dimensions (Genz, 1992); for two candidates, the normal
    distribution function.
    """
    mean = spread.mean[:, task]
    n = len(mean)
    if n == 1:
        return 1.0
    others = np.delete(np.arange(n), candidate)
    contrast = np.zeros((n - 1, n))
    contrast[np.arange(n - 1), others], contrast[:, candidate] = 1.0, -1.0
    cov = temperature**2 * contrast @ spread.covariance(task) @ contrast.T
    gap = contrast @ mean
    certain = np.diagonal(cov) < 1e-18
    if certain.any():
        # Candidates that cannot be told apart, or no noise: decided by the means, ties by the order.
        lost = (gap[certain] > 0) | ((gap[certain] == 0) & (others[certain] < candidate))
        if lost.any():
            return 0.0
        if certain.all():
            return 1.0
        cov, gap = cov[np.ix_(~certain, ~certain)], gap[~certain]
    if len(gap) == 1:
        return float(ndtr(-gap[0] / np.sqrt(cov[0, 0])))
    normal = multivariate_normal(
        np.zeros(len(gap)), cov, allow_singular=True, seed=0, abseps=1e-6, releps=1e-6
    )
    return float(np.clip(normal.cdf(-gap), 0.0, 1.0))
