"""Binary logistic regression that learns batch by batch."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags

from memberwise.bayes.inputs import SeparationWarning
from memberwise.bayes.labels import binary_labels, both_classes, zero_one
from memberwise.bayes.likelihood import BernoulliLikelihood, FloatArray, Likelihood, logistic_normal_mean
from memberwise.bayes.objective import Objective
from memberwise.bayes.sequential import SequentialRegression


class BayesianLogisticRegression(ClassifierMixin, SequentialRegression):
    r"""Binary logistic regression with a Gaussian posterior that is carried from batch to batch.

    .. math:: F_t(w) = \sum_i c_i\left[\log(1+e^{z_i}) - y_i z_i\right]
                       + \tfrac12 (w-m)'\Lambda (w-m), \quad z_i = x_i'w + o_i

    `fit` starts from the prior; `partial_fit` takes the last posterior, forgets a little, and absorbs
    one batch. With no forgetting and no drift a sequence of batches ends where one fit on all of them
    would; with drift, forgetting is worth more than any other setting.

    Parameters
    ----------
    prior_precision : float
        Precision of each coefficient before any data (the L2 strength on a summed loss). It enters
        once, in the prior, and again only in the measure in which forgetting removes it.
    intercept_precision : float
        The same for the intercept; small, so that it is hardly penalised.
    fit_intercept : bool
        Whether to add a constant.
    scale : bool
        State the prior in units of each feature's root mean square in the first batch (frozen then).
    forgetting : float
        Forgetting factor delta in [0, 1]; 1/(1-delta) is the effective memory in batches.
    intercept_forgetting : float, optional
        Its own factor for the intercept, whose precision accumulates fastest; base rates move.
    covariance : {"auto", "full", "diagonal", "low_rank"}
        Storage of the precision; auto is full below 2,000 features.
    rank : int
        Directions of the low-rank form.
    variance_probes : int
        Probes for the variances of a large diagonal posterior; 0 uses 1/diag(H).
    tol : float, optional
        Relative tolerance of the solve on the objective.
    max_iter : int
        Largest number of Newton steps.

    Attributes
    ----------
    posterior_ : GaussianPosterior
        Belief about ``(intercept)`` and every feature, by name.
    coef_, intercept_ : arrays
        Posterior means.
    classes_ : array [2]
        The two labels; the second is the positive one.
    converged_, n_iter_, n_steps_
        How the last solve ended, its Newton steps, and how many batches are in the posterior.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((400, 2)); y = (X[:, 0] + rng.logistic(size=400) > 0).astype(int)
    >>> whole = BayesianLogisticRegression().fit(X, y)
    >>> parts = BayesianLogisticRegression().fit(X[:200], y[:200]).partial_fit(X[200:], y[200:])
    >>> bool(np.abs(whole.coef_ - parts.coef_).max() < 0.02)
    True

    References
    ----------
    .. [1] "Incremental Learning for Personalized Recommender Systems", arXiv 2108.13299.
    """

    def _likelihood(self) -> Likelihood:
        return BernoulliLikelihood()

    def __sklearn_tags__(self) -> Tags:
        """Binary labels; sparse input."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _target(self, y: npt.ArrayLike, *, fresh: bool, classes: npt.ArrayLike | None = None) -> FloatArray:
        labels = binary_labels(y)
        if fresh:
            self.classes_ = both_classes(labels, classes)
        return zero_one(labels, self.classes_)

    def partial_fit(
        self, X: Any, y: npt.ArrayLike, classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None, *,
        offset: npt.ArrayLike | None = None, batch: str | None = None,
    ) -> Self:  # fmt: skip
        """Forget a little, then absorb one batch.

        Columns of a frame that are new get the prior; known columns that are absent count as zero. A
        solve that does not converge leaves the posterior as it was, with a ConvergenceWarning.

        Parameters
        ----------
        X, y, sample_weight, offset, batch
            As for `fit`.
        classes : [2], optional
            Both labels, needed in the first batch if it may hold one of them only.
        """
        first = not hasattr(self, "posterior_")
        target = self._target(y, fresh=first, classes=classes)
        self._learn(X, target, sample_weight, offset, batch=batch, reset=first)
        return self

    def decision_function(self, X: Any, *, offset: npt.ArrayLike | None = None) -> FloatArray:
        """Return the logit at the posterior mean, [n]."""
        return self._eta(self._predict_design(X), offset)

    def predict_proba(self, X: Any, *, offset: npt.ArrayLike | None = None) -> FloatArray:
        """Return the class probabilities at the posterior mean, [n, 2]."""
        positive = BernoulliLikelihood().mean(self.decision_function(X, offset=offset))
        return np.column_stack([1.0 - positive, positive])

    def predictive_proba(self, X: Any, *, offset: npt.ArrayLike | None = None) -> FloatArray:
        """Return the class probabilities averaged over the posterior, [n, 2].

        Nearer to one half than `predict_proba` wherever the coefficients are uncertain.
        """
        positive = logistic_normal_mean(*self.linear_predictor(X, offset=offset))
        return np.column_stack([1.0 - positive, positive])

    def predict(self, X: Any, *, offset: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """Return the more probable label of each row, [n]."""
        positive = self.decision_function(X, offset=offset) > 0
        labels: npt.NDArray[Any] = self.classes_[positive.astype(int)]
        return labels

    def _inspect(self, objective: Objective) -> None:
        margin = (2.0 * objective.y - 1.0) * objective.design.dot(self.posterior_.mean)
        if objective.design.n_rows > objective.design.size and margin.min() > 0:
            warnings.warn(
                "a hyperplane separates the classes; only the prior keeps the coefficients finite",
                SeparationWarning,
                stacklevel=3,
            )
