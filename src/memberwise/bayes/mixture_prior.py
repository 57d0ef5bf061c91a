"""A prior made of atoms and normals, and everything that one normal observation tells under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, ndtr

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.mixture_kernels import posterior_means

_BLOCK = 16_384
Seed = int | np.random.SeedSequence | np.random.Generator


@dataclass(frozen=True)
class MixturePrior:
    r"""``G = sum_k weight_k N(mean_k, variance_k)``; a variance of 0 is an atom.

    .. math:: \theta_i \sim G, \qquad x_i \mid \theta_i \sim N(\theta_i, s_i^2)

    Parameters
    ----------
    weights, means, variances : float64 [K]
        Weights are positive and sum to one.

    Examples
    --------
    >>> prior = MixturePrior(np.array([0.9, 0.1]), np.array([0.0, 4.0]), np.zeros(2))
    >>> prior.posterior_mean(np.array([0.0, 2.0, 4.0])).round(3)
    array([0.   , 0.4  , 3.988])
    """

    weights: FloatArray
    means: FloatArray
    variances: FloatArray

    @property
    def null_weight(self) -> float:
        """Prior probability of exactly zero."""
        return float(self.weights[self._null].sum())

    @property
    def _null(self) -> npt.NDArray[np.bool_]:
        result: npt.NDArray[np.bool_] = (self.means == 0.0) & (self.variances == 0.0)
        return result

    def moments(self) -> tuple[float, float]:
        """Return mean and variance of the prior."""
        mean = float(self.weights @ self.means)
        return mean, float(self.weights @ (self.variances + (self.means - mean) ** 2))

    def symmetrised(self) -> MixturePrior:
        """Return the average of the prior and its mirror image."""
        return MixturePrior(
            np.concatenate([self.weights, self.weights]) / 2,
            np.concatenate([self.means, -self.means]),
            np.concatenate([self.variances, self.variances]),
        )

    def log_marginal(self, x: FloatArray, s: float | FloatArray = 1.0) -> FloatArray:
        """Return the log-density of each observation, [n]."""
        return self._blockwise(x, s, lambda x, s: logsumexp(self._log_joint(x, s), axis=1))

    def posterior_mean(self, x: FloatArray, s: float | FloatArray = 1.0) -> FloatArray:
        """Return ``E[theta_i | x_i]``, [n]."""
        x = np.array(x, dtype=np.float64)
        noise, result = np.array(np.broadcast_to(np.asarray(s, dtype=np.float64), x.shape)), np.empty(x.size)
        posterior_means(x, noise, np.log(self.weights), self.means, self.variances, result)
        return result

    def posterior_variance(self, x: FloatArray, s: float | FloatArray = 1.0) -> FloatArray:
        """Return ``Var[theta_i | x_i]``, [n]."""

        def block(x: FloatArray, s: FloatArray) -> FloatArray:
            share, (centre, spread) = self._share(x, s), self._centres(x, s)
            mean = (share * centre).sum(axis=1, keepdims=True)
            return np.asarray((share * (spread + (centre - mean) ** 2)).sum(axis=1))

        return self._blockwise(x, s, block)

    def null_probability(self, x: FloatArray, s: float | FloatArray = 1.0) -> FloatArray:
        """Return the probability that theta_i is exactly zero (local false discovery rate), [n]."""
        return self._blockwise(x, s, lambda x, s: self._share(x, s)[:, self._null].sum(axis=1))

    def false_sign_rate(self, x: FloatArray, s: float | FloatArray = 1.0) -> FloatArray:
        """Return the local false sign rate, ``min(P(theta_i <= 0), P(theta_i >= 0))``, [n]."""

        def block(x: FloatArray, s: FloatArray) -> FloatArray:
            share, (centre, spread) = self._share(x, s), self._centres(x, s)
            sd = np.sqrt(np.where(spread > 0, spread, 1.0))
            below = np.where(spread > 0, ndtr(-centre / sd), (centre <= 0).astype(float))
            above = np.where(spread > 0, ndtr(centre / sd), (centre >= 0).astype(float))
            return np.minimum((share * below).sum(axis=1), (share * above).sum(axis=1))

        return self._blockwise(x, s, block)

    def sample(
        self, x: FloatArray, s: float | FloatArray = 1.0, *, size: int = 1, seed: Seed = 0
    ) -> FloatArray:
        """Return draws from the posterior of every theta_i, [size, n]."""
        rng = np.random.default_rng(seed)
        x = np.asarray(x, dtype=float)
        noise = np.broadcast_to(np.asarray(s, dtype=float), x.shape)
        draws = np.empty((size, x.size))
        for start in range(0, x.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            steps = np.cumsum(self._share(x[part], noise[part]), axis=1)
            centre, spread = self._centres(x[part], noise[part])
            spread = np.broadcast_to(spread, centre.shape)
            rows = np.arange(steps.shape[0])
            for k in range(size):
                chosen = (rng.random(rows.size)[:, None] * steps[:, -1:] > steps).sum(axis=1)
                noise_k = rng.standard_normal(rows.size)
                draws[k, part] = centre[rows, chosen] + np.sqrt(spread[rows, chosen]) * noise_k
        return draws

    def _log_joint(self, x: FloatArray, s: FloatArray) -> FloatArray:
        """Log of weight times marginal density of each component, [n, K]."""
        total = self.variances + s[:, None] ** 2
        gap = (x[:, None] - self.means) ** 2 / total
        result: FloatArray = np.log(self.weights) - 0.5 * (gap + np.log(2.0 * np.pi * total))
        return result

    def _share(self, x: FloatArray, s: FloatArray) -> FloatArray:
        """Posterior probability of each component, [n, K]."""
        joint = self._log_joint(x, s)
        joint -= joint.max(axis=1, keepdims=True)
        np.exp(joint, out=joint)
        joint /= joint.sum(axis=1, keepdims=True)
        return joint

    def _centres(self, x: FloatArray, s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and variance within each component, [n, K]."""
        noise = s[:, None] ** 2
        gain = self.variances / (self.variances + noise)
        return self.means + gain * (x[:, None] - self.means), gain * noise

    def _blockwise(
        self, x: FloatArray, s: float | FloatArray, work: Callable[[FloatArray, FloatArray], FloatArray]
    ) -> FloatArray:
        x = np.asarray(x, dtype=float)
        noise = np.broadcast_to(np.asarray(s, dtype=float), x.shape)
        result = np.empty(x.size)
        for start in range(0, x.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            result[part] = work(x[part], noise[part])
        return result
