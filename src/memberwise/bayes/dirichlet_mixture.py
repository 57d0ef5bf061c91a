r"""Variational inference for a Dirichlet-process mixture of normal means with an atom at zero.

.. math:: G \sim DP(\alpha, G_0), \quad G_0 = w\,\delta_0 + (1 - w)\, N(0, \sigma^2), \quad
          \theta_i \sim G, \quad x_i \sim N(\theta_i, s_i^2)

The spike is inside the base measure: every cluster's location is itself zero with probability w.
Truncated at T clusters, with q = prod Beta(V_t) prod [p_t delta_0 + (1 - p_t) N(m_t, v_t)] prod Mult(phi_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaln, expit, psi, xlogy

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.mixture_kernels import expectation
from memberwise.bayes.normal_means import Points


@dataclass(frozen=True)
class BaseMeasure:
    """Hyper-parameters: concentration alpha, null weight w, slab variance sigma^2."""

    concentration: float
    null_weight: float
    slab_variance: float


@dataclass(frozen=True)
class Statistics:
    """What the clusters need of the data; sums over shards, one number per cluster.

    Parameters
    ----------
    N, B, A : float64 [T]
        Expected count, precision, and precision times value of each cluster.
    log_mass : float
        Summed log normaliser of the responsibilities.
    """

    N: FloatArray
    B: FloatArray
    A: FloatArray
    log_mass: float = 0.0


@dataclass(frozen=True)
class Clusters:
    """The variational factors of sticks and locations.

    Parameters
    ----------
    stick_one, stick_two : float64 [T - 1]
        Beta parameters of V_t.
    null : float64 [T]
        p_t, the probability that cluster t sits at zero.
    mean, variance : float64 [T]
        m_t and v_t of its location otherwise.
    """

    stick_one: FloatArray
    stick_two: FloatArray
    null: FloatArray
    mean: FloatArray
    variance: FloatArray

    def log_sticks(self) -> tuple[FloatArray, FloatArray]:
        """``E log V_t`` and ``E log (1 - V_t)``, [T - 1]."""
        both = psi(self.stick_one + self.stick_two)
        return psi(self.stick_one) - both, psi(self.stick_two) - both

    def log_weights(self) -> FloatArray:
        """``E log pi_t``, [T]."""
        log_v, log_rest = self.log_sticks()
        result = np.zeros(self.null.size)
        result[:-1] = log_v
        result[1:] += np.cumsum(log_rest)
        return result

    def scores(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Slope, level and constant of ``log phi_it = r_i (slope_t x_i - level_t) + constant_t``."""
        alive = 1.0 - self.null
        return alive * self.mean, 0.5 * alive * (self.mean**2 + self.variance), self.log_weights()


def update_clusters(statistics: Statistics, base: BaseMeasure) -> Clusters:
    """Maximise the bound over sticks and locations given the responsibilities."""
    N, precision = statistics.N, 1.0 / base.slab_variance
    after = np.cumsum(N[::-1])[::-1]
    tau = precision + statistics.B
    odds = (
        np.log(base.null_weight / (1.0 - base.null_weight))
        + 0.5 * np.log(tau / precision)
        - statistics.A**2 / (2.0 * tau)
    )
    return Clusters(1.0 + N[:-1], base.concentration + after[1:], expit(odds), statistics.A / tau, 1.0 / tau)


def update_responsibilities(clusters: Clusters, shards: list[Points]) -> Statistics:
    """Maximise the bound over the responsibilities; returns only their sums, added up over shards."""
    slope, level, constant = clusters.scores()
    N, B, A = np.zeros(slope.size), np.zeros(slope.size), np.zeros(slope.size)
    log_mass = 0.0
    for points in shards:
        log_mass += expectation(points.x, points.noise**-2.0, points.count, slope, level, constant, N, B, A)
    return Statistics(N, B, A, log_mass)


def update_base(clusters: Clusters, base: BaseMeasure, learn: tuple[str, ...]) -> BaseMeasure:
    """Maximise the bound over the hyper-parameters named in ``learn``."""
    if "concentration" in learn:
        total = -float(clusters.log_sticks()[1].sum())
        base = replace(base, concentration=float(np.clip((clusters.null.size - 1) / total, 1e-3, 1e3)))
    if "null_weight" in learn:
        base = replace(base, null_weight=float(np.clip(clusters.null.mean(), 1e-3, 1 - 1e-3)))
    if "slab_scale" in learn:
        alive = 1.0 - clusters.null
        second = float(alive @ (clusters.mean**2 + clusters.variance))
        base = replace(base, slab_variance=max(second / max(float(alive.sum()), 1e-12), 1e-6))
    return base


def lower_bound(clusters: Clusters, statistics: Statistics, base: BaseMeasure, constant: float) -> float:
    """Return the evidence lower bound right after the responsibilities were updated.

    ``constant`` is the part that no factor changes: ``-sum log(2 pi s^2)/2 - sum x^2 / (2 s^2)``.
    """
    log_v, log_rest = clusters.log_sticks()
    a, b, alpha = clusters.stick_one, clusters.stick_two, base.concentration
    sticks = np.log(alpha) + (alpha - 1.0) * log_rest
    sticks -= -betaln(a, b) + (a - 1.0) * log_v + (b - 1.0) * log_rest
    p, w, slab = clusters.null, base.null_weight, base.slab_variance
    ratio = clusters.variance / slab
    slabs = 0.5 * (ratio + clusters.mean**2 / slab - 1.0 - np.log(ratio))
    locations = xlogy(p, p / w) + xlogy(1.0 - p, (1.0 - p) / (1.0 - w)) + (1.0 - p) * slabs
    return statistics.log_mass + constant + float(sticks.sum()) - float(locations.sum())


def data_constant(shards: list[Points]) -> float:
    """Return the part of the bound that depends on the data alone."""
    total = 0.0
    for points in shards:
        terms = np.log(2.0 * np.pi * points.noise**2) + (points.x / points.noise) ** 2
        total -= 0.5 * float(points.count @ terms)
    return total


def grid_start(shards: list[Points], centres: FloatArray) -> Statistics:
    """Return the statistics of responsibilities that are plain likelihoods around fixed centres.

    Equal centres are a fixed point from which uniform responsibilities hardly move; distinct ones are
    what makes the updates work on sparse data.
    """
    N, B, A = np.zeros(centres.size), np.zeros(centres.size), np.zeros(centres.size)
    for points in shards:
        expectation(
            points.x,
            points.noise**-2.0,
            points.count,
            centres,
            0.5 * centres**2,
            np.zeros(centres.size),
            N,
            B,
            A,
        )
    return Statistics(N, B, A)


def uniform_start(shards: list[Points], T: int) -> Statistics:
    """Return the statistics of equal responsibilities, the authors' initialisation."""
    n = sum(points.total for points in shards)
    b = sum(float(points.count @ points.noise**-2.0) for points in shards)
    a = sum(float(points.count @ (points.x * points.noise**-2.0)) for points in shards)
    return Statistics(np.full(T, n / T), np.full(T, b / T), np.full(T, a / T))


@dataclass(frozen=True)
class Fit:
    """A variational fit: factors, statistics, hyper-parameters and the bound after each sweep."""

    clusters: Clusters
    statistics: Statistics
    base: BaseMeasure
    bounds: tuple[float, ...]
    converged: bool


def fit_mixture(
    shards: list[Points], start: Statistics, base: BaseMeasure, *,
    learn: tuple[str, ...] = (), tol: float = 1e-8, min_iter: int = 15, max_iter: int = 1000,
    gained: Callable[[float, float], None] = lambda gain, limit: None,
) -> Fit:  # fmt: skip
    """Sweep until the bound gains less than ``tol`` per observation.

    Parameters
    ----------
    shards : list of Points
        The data.
    start : Statistics
        Of the initial responsibilities.
    base : BaseMeasure
        Hyper-parameters, or their start where they are learnt.
    learn : tuple of {"concentration", "null_weight", "slab_scale"}
        Which of them to learn.
    tol, min_iter, max_iter
        When to stop.
    gained
        Told the gain of every sweep but the first, and below which gain the sweeps stop.
    """
    statistics, constant = start, data_constant(shards)
    n = sum(points.total for points in shards)
    bounds: list[float] = []
    for sweep in range(max_iter):
        clusters = update_clusters(statistics, base)
        base = update_base(clusters, base, learn)
        statistics = update_responsibilities(clusters, shards)
        bounds.append(lower_bound(clusters, statistics, base, constant))
        if sweep >= min_iter and bounds[-1] - bounds[-2] < tol * n:
            return Fit(clusters, statistics, base, tuple(bounds), True)
        if sweep:
            gained(bounds[-1] - bounds[-2], tol * n)
    return Fit(clusters, statistics, base, tuple(bounds), False)
