"""Sparse normal means by empirical Bayes: the prior is learnt from the observations themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from memberwise.bayes.dirichlet_mixture import (
    BaseMeasure,
    Clusters,
    Fit,
    Statistics,
    fit_mixture,
    grid_start,
    uniform_start,
)
from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.mixture_prior import MixturePrior, Seed
from memberwise.bayes.normal_means import Points, Shard, observations, summarise
from memberwise.bayes.npmle import npmle
from memberwise.bayes.persistence import read_arrays, write_arrays
from memberwise.bayes.progress import Converging, Progress, quiet
from memberwise.errors import ConfigError

_BLOCK = 16_384
_STAGE = "sparse means"


class SparseMeans(BaseEstimator):
    r"""Estimate many normal means of which most are zero.

    .. math:: x_i \sim N(\theta_i, s_i^2), \qquad \theta_i \sim G

    G is learnt from all x together, then each theta_i is estimated by its posterior under G. The default
    G comes from a Dirichlet-process mixture whose base measure holds an atom at zero [1]_: data decide
    how many clusters there are, where, and how much is exactly zero.

    Parameters
    ----------
    method : {"dirichlet", "npmle"}
        Dirichlet-process mixture, or the nonparametric maximum likelihood estimate.
    prior : {"auto", "hard", "soft"}
        How the mixture becomes G: "hard" puts an atom where each observation's most probable cluster
        is, "soft" keeps the variational mixture; "auto" takes the one under which the data are more
        probable.
    n_components : int
        Truncation T of the mixture, or grid size of the npmle when that is larger.
    concentration : float
        alpha of the Dirichlet process.
    null_weight : float
        w, the weight of zero in the base measure.
    slab_scale : float, optional
        sigma of the base measure; by default the root mean square of observations beyond three
        standard deviations, at least two.
    learn : tuple of {"concentration", "null_weight", "slab_scale"}
        Hyper-parameters to learn by maximising the bound.
    init : {"grid", "uniform"}
        Start; "uniform" is the published one, kept for replication: it stops at all zeros when the
        data are very sparse.
    n_restarts : int
        Further starts, from quantiles of the large observations. The start whose prior makes the data
        most probable wins; the bound would choose fewer clusters over better ones.
    tol : float
        Stop when the bound gains less than this per observation (npmle: largest gradient).
    min_iter, max_iter : int
        Sweeps.

    Attributes
    ----------
    prior_ : MixturePrior
        The learnt G.
    lower_bounds_ : float64 [sweeps]
        The bound after each sweep; it never decreases. ``lower_bound_`` is its last value.
    n_iter_ : int
        Sweeps.
    base_ : BaseMeasure
        Hyper-parameters, learnt or given.
    optimality_gap_ : float
        npmle only: certified distance to the optimum per observation.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> theta = np.where(np.arange(5000) < 100, 5.0, 0.0)
    >>> x = theta + rng.standard_normal(5000)
    >>> model = SparseMeans().fit(x)
    >>> float(((model.posterior_mean(x) - theta) ** 2).sum().round()), float(((x - theta) ** 2).sum().round())
    (57.0, 4954.0)

    References
    ----------
    .. [1] Y. Ouyang and F. Liang, "A Nonparametric Bayesian Approach for Sparse Sequence Estimation",
       arXiv 1702.04330.
    """

    def __init__(
        self,
        *,
        method: str = "dirichlet",
        prior: str = "auto",
        n_components: int = 10,
        concentration: float = 1.0,
        null_weight: float = 0.5,
        slab_scale: float | None = None,
        learn: tuple[str, ...] = (),
        init: str = "grid",
        n_restarts: int = 1,
        tol: float = 1e-7,
        min_iter: int = 15,
        max_iter: int = 1000,
    ) -> None:
        self.method = method
        self.prior = prior
        self.n_components = n_components
        self.concentration = concentration
        self.null_weight = null_weight
        self.slab_scale = slab_scale
        self.learn = learn
        self.init = init
        self.n_restarts = n_restarts
        self.tol = tol
        self.min_iter = min_iter
        self.max_iter = max_iter

    def fit(self, x: Any, noise: Any = 1.0, *, progress: Progress = quiet) -> Self:
        """Learn the prior.

        Parameters
        ----------
        x : [n]
            Observations.
        noise : float or [n]
            Standard deviation of each.
        progress
            Sees the fit go by, as that of ``ProgressBar.stage``.

        Raises
        ------
        InputError
            Empty, not finite, or a noise that is not positive.
        """
        return self.fit_shards([observations(x, noise)], progress=progress)

    def fit_shards(self, shards: Iterable[Shard], *, progress: Progress = quiet) -> Self:
        """Learn the prior from observations that come in parts.

        Equal noise: counts on a common lattice add up. Unequal noise: each sweep sums the clusters'
        statistics over the parts. Either way the answer is that of one pass over everything.

        Parameters
        ----------
        shards : iterable of x, or of (x, noise)
            The parts.
        progress
            Sees the fit go by.
        """
        self._check()
        points = summarise(shards)
        if self.method == "npmle":
            told = Converging(progress, _STAGE)
            self.prior_, self.optimality_gap_ = npmle(
                _single(points), n_grid=max(600, self.n_components), gained=told.gained
            )
            told.ended()
            return self
        starts = self._starts(points)
        told, fits = Converging(progress, _STAGE, len(starts)), []
        for start in starts:
            fits.append(self._run(points, start, told))
            told.ended()
        found = [
            (_log_likelihood(prior, points), prior, fit)
            for fit in fits
            for prior in self._priors(points, fit)
        ]
        _, self.prior_, best = max(found, key=lambda one: one[0])
        self.clusters_, self.base_ = best.clusters, best.base
        self.lower_bounds_, self.lower_bound_ = np.array(best.bounds), best.bounds[-1]
        self.n_iter_, self.converged_ = len(best.bounds), best.converged
        return self

    def posterior_mean(
        self, x: Any, noise: Any = 1.0, *, rule: str = "prior", threshold: float = 0.5
    ) -> FloatArray:
        """Return the estimate of each theta, [n].

        Parameters
        ----------
        x, noise : [n]
            Observations; those of `fit` or new ones.
        rule : {"prior", "sparse", "variational"}
            Posterior mean under the learnt prior; the same, but exactly zero where zero is more probable
            than ``threshold``; or the mean of the variational factors.
        threshold : float
            Of the sparse rule.
        """
        values, spread = self._values(x, noise)
        if rule == "variational":
            if self.method != "dirichlet":
                raise ConfigError("the variational mean needs method='dirichlet'")
            return _variational_mean(self.clusters_, values, spread)
        if rule not in ("prior", "sparse"):
            raise ConfigError(f"unknown rule {rule!r}", fix="choose prior, sparse or variational")
        mean = self.prior_.posterior_mean(values, spread)
        if rule == "sparse":
            mean[self.prior_.null_probability(values, spread) > threshold] = 0.0
        return mean

    def posterior_moments(self, x: Any, noise: Any = 1.0) -> tuple[FloatArray, FloatArray]:
        """Return posterior mean and variance of each theta, two arrays [n]."""
        values, spread = self._values(x, noise)
        return self.prior_.posterior_mean(values, spread), self.prior_.posterior_variance(values, spread)

    def null_probability(self, x: Any, noise: Any = 1.0) -> FloatArray:
        """Return the probability that each theta is exactly zero, [n]."""
        return self.prior_.null_probability(*self._values(x, noise))

    def false_sign_rate(self, x: Any, noise: Any = 1.0) -> FloatArray:
        """Return the probability that the sign of each estimate is wrong, [n]."""
        return self.prior_.false_sign_rate(*self._values(x, noise))

    def sample(self, x: Any, noise: Any = 1.0, *, size: int = 1, seed: Seed = 0) -> FloatArray:
        """Return posterior draws of every theta, [size, n]."""
        values, spread = self._values(x, noise)
        return self.prior_.sample(values, spread, size=size, seed=seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and learnt prior to one file (safetensors, checksum, atomic)."""
        check_is_fitted(self, "prior_")
        p = self.prior_
        arrays = {"weights": p.weights, "means": p.means, "variances": p.variances}
        if self.method == "dirichlet":
            arrays |= {f"cluster_{k}": v for k, v in vars(self.clusters_).items()}
            arrays["lower_bounds"] = self.lower_bounds_
        write_arrays(path, type(self).__name__, {"params": self.get_params()}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator back from `save`."""
        header, arrays = read_arrays(path, cls.__name__)
        model = cls(**(header["params"] | {"learn": tuple(header["params"]["learn"])}))
        model.prior_ = MixturePrior(arrays["weights"], arrays["means"], arrays["variances"])
        if model.method == "dirichlet":
            own = {k.removeprefix("cluster_"): v for k, v in arrays.items() if k.startswith("cluster_")}
            model.clusters_, model.lower_bounds_ = Clusters(**own), arrays["lower_bounds"]
            model.lower_bound_, model.n_iter_ = float(model.lower_bounds_[-1]), model.lower_bounds_.size
        return model

    # --- inside -------------------------------------------------------------------------------

    def _check(self) -> None:
        choices = {
            "method": ("dirichlet", "npmle"), "prior": ("auto", "hard", "soft"), "init": ("grid", "uniform"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}", fix=f"choose one of {allowed}")
        unknown = set(self.learn) - {"concentration", "null_weight", "slab_scale"}
        if unknown or not (0 < self.null_weight < 1 and self.concentration > 0 and self.n_components >= 2):
            raise ConfigError("null_weight in (0, 1), concentration > 0, n_components >= 2, learn by name")

    def _values(self, x: Any, noise: Any) -> tuple[FloatArray, FloatArray]:
        check_is_fitted(self, "prior_")
        return observations(x, noise)

    def _run(self, points: list[Points], start: Statistics, told: Converging) -> Fit:
        scale = self.slab_scale if self.slab_scale is not None else _slab_scale(points)
        base = BaseMeasure(self.concentration, self.null_weight, scale**2)
        return fit_mixture(
            points, start, base, learn=tuple(self.learn), tol=self.tol, min_iter=self.min_iter,
            max_iter=self.max_iter, gained=told.gained,
        )  # fmt: skip

    def _starts(self, points: list[Points]) -> list[Statistics]:
        """Return the sums of the initial responsibilities of each start."""
        T = self.n_components
        if self.init == "uniform":
            return [uniform_start(points, T)]
        low, high = min(p.x.min() for p in points), max(p.x.max() for p in points)
        starts = [grid_start(points, np.append(0.0, np.linspace(low, high, T - 1)))]
        large = np.concatenate([p.x[np.abs(p.x) > 2.0 * p.noise] for p in points])
        for k in range(self.n_restarts if large.size else 0):
            levels = (np.arange(T - 1) + (k + 1) / (self.n_restarts + 1)) / (T - 1)
            starts.append(grid_start(points, np.append(0.0, np.quantile(large, np.minimum(levels, 1.0)))))
        return starts

    def _priors(self, points: list[Points], fit: Fit) -> list[MixturePrior]:
        """Return the priors that a fit offers and ``prior`` allows."""
        found = [] if self.prior == "soft" else [hard_prior(fit.clusters, points)]
        return found if self.prior == "hard" else [*found, soft_prior(fit.clusters, fit.statistics.N)]


def _log_likelihood(prior: MixturePrior, shards: list[Points]) -> float:
    """Log-density of all observations under a prior."""
    return sum(float(points.count @ prior.log_marginal(points.x, points.noise)) for points in shards)


def soft_prior(clusters: Clusters, N: FloatArray) -> MixturePrior:
    """Return the variational mixture itself: each cluster at zero with p_t, else normal around m_t."""
    share, alive = N / N.sum(), 1.0 - clusters.null
    weights = np.append(share @ clusters.null, share * alive)
    kept = weights > 1e-12
    means, variances = np.append(0.0, clusters.mean), np.append(0.0, clusters.variance)
    return MixturePrior(weights[kept] / weights[kept].sum(), means[kept], variances[kept])


def hard_prior(clusters: Clusters, shards: list[Points]) -> MixturePrior:
    """Return the distribution of each observation's most probable location among 0, m_1 .. m_T."""
    counts = np.zeros(clusters.null.size + 1)
    for points in shards:
        for start in range(0, points.x.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            phi = _responsibilities(clusters, points.x[part], points.noise[part])
            alternatives = np.column_stack([phi @ clusters.null, phi * (1.0 - clusters.null)])
            counts += np.bincount(
                alternatives.argmax(axis=1), weights=points.count[part], minlength=counts.size
            )
    kept = counts > 0
    means = np.append(0.0, clusters.mean)[kept]
    return MixturePrior(counts[kept] / counts.sum(), means, np.zeros(means.size))


def _responsibilities(clusters: Clusters, x: FloatArray, noise: FloatArray) -> FloatArray:
    """Return phi [n, T] for the given observations."""
    slope, level, constant = clusters.scores()
    score = (x[:, None] * slope - level) / noise[:, None] ** 2 + constant
    score -= score.max(axis=1, keepdims=True)
    np.exp(score, out=score)
    return score / score.sum(axis=1, keepdims=True)


def _variational_mean(clusters: Clusters, x: FloatArray, noise: FloatArray) -> FloatArray:
    """Return ``sum_t phi_it (1 - p_t) m_t``, [n]."""
    mean, own = np.empty(x.size), (1.0 - clusters.null) * clusters.mean
    for start in range(0, x.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        mean[part] = _responsibilities(clusters, x[part], noise[part]) @ own
    return mean


def _slab_scale(shards: list[Points]) -> float:
    """Root mean square of the observations beyond three standard deviations; at least two deviations."""
    squares, count = 0.0, 0.0
    least = min(float(points.noise.min()) for points in shards)
    for points in shards:
        far = np.abs(points.x) > 3.0 * points.noise
        squares += float(points.count[far] @ points.x[far] ** 2)
        count += float(points.count[far].sum())
    return max(2.0 * least, float(np.sqrt(squares / count)) if count else 0.0)


def _single(shards: list[Points]) -> Points:
    """Return all shards as one set of points, thinned to cells of (x, noise) when they are many."""
    x = np.concatenate([p.x for p in shards])
    noise = np.concatenate([p.noise for p in shards])
    count = np.concatenate([p.count for p in shards])
    if x.size <= 20_000:
        return Points(x, noise, count)
    level = np.round(np.log(noise) * 32)
    cell = np.stack([level, np.floor(x / np.exp(level / 32) * 32)]).astype(np.int64)
    _, inverse = np.unique(cell, axis=1, return_inverse=True)
    total = np.bincount(inverse, weights=count).astype(np.float64)
    return Points(
        np.bincount(inverse, weights=count * x) / total,
        np.bincount(inverse, weights=count * noise) / total,
        total,
    )
