"""Linear regression with known noise that learns batch by batch, exactly."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin

from memberwise.bayes.inputs import read_labels
from memberwise.bayes.likelihood import FloatArray, GaussianLikelihood, Likelihood
from memberwise.bayes.sequential import SequentialRegression
from memberwise.errors import ConfigError


class BayesianLinearRegression(RegressorMixin, SequentialRegression):
    r"""Linear regression with known noise: the twin of `BayesianLogisticRegression` that is exact.

    .. math:: F_t(w) = \sum_i \frac{c_i}{2\sigma^2}(y_i - x_i'w - o_i)^2 + \tfrac12 (w-m)'\Lambda (w-m)

    The posterior is Gaussian without approximation, so with full covariance and no forgetting any
    sequence of batches gives the ridge solution of their union to machine precision.

    Parameters
    ----------
    noise_variance : float
        Variance of the label around its mean.
    prior_precision, intercept_precision, fit_intercept, scale, forgetting, intercept_forgetting, \
covariance, rank, variance_probes, tol, max_iter
        As in `BayesianLogisticRegression`.
    """

    def __init__(
        self,
        *,
        noise_variance: float = 1.0,
        prior_precision: float = 1.0,
        intercept_precision: float = 1e-4,
        fit_intercept: bool = True,
        scale: bool = False,
        forgetting: float = 1.0,
        intercept_forgetting: float | None = None,
        covariance: str = "auto",
        rank: int = 16,
        variance_probes: int = 0,
        tol: float | None = None,
        max_iter: int = 100,
    ) -> None:
        super().__init__(
            prior_precision=prior_precision,
            intercept_precision=intercept_precision,
            fit_intercept=fit_intercept,
            scale=scale,
            forgetting=forgetting,
            intercept_forgetting=intercept_forgetting,
            covariance=covariance,
            rank=rank,
            variance_probes=variance_probes,
            tol=tol,
            max_iter=max_iter,
        )
        self.noise_variance = noise_variance

    def _likelihood(self) -> Likelihood:
        if not self.noise_variance > 0:
            raise ConfigError(f"noise_variance must be positive, got {self.noise_variance}")
        return GaussianLikelihood(self.noise_variance)

    def _target(self, y: npt.ArrayLike, *, fresh: bool) -> FloatArray:
        return read_labels(y, numeric=True)

    def partial_fit(
        self, X: Any, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, *,
        offset: npt.ArrayLike | None = None, batch: str | None = None,
    ) -> Self:  # fmt: skip
        """Forget a little, then absorb one batch. Arguments as for `fit`."""
        first = not hasattr(self, "posterior_")
        self._learn(X, self._target(y, fresh=first), sample_weight, offset, batch=batch, reset=first)
        return self

    def predict(
        self, X: Any, *, offset: npt.ArrayLike | None = None, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Return the posterior mean of the label, [n], and with ``return_std`` its standard deviation."""
        if return_std:
            mean, variance = self.linear_predictor(X, offset=offset)
            return mean, np.sqrt(variance + self.noise_variance)
        return self._eta(self._predict_design(X), offset)
