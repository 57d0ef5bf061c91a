"""Binary logistic regression that learns batch by batch."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from memberwise.bayes.inputs import (
    InputError,
    SeparationWarning,
    per_row,
    read_labels,
)
from memberwise.bayes.likelihood import (
    BernoulliLikelihood,
    FloatArray,
    Likelihood,
    logistic_normal_mean,
)
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
        tags.input_tags.sparse = True
        return tags

    def fit(
        self,
        X: Any,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        offset: npt.ArrayLike | None = None,
        batch: str | None = None,
    ) -> Self:
        """Fit from the prior.

        Parameters
        ----------
        X : array, CSR or data frame [n, p]
            Features.
        y : [n]
            Two distinct labels.
        sample_weight, offset : [n], optional
            Weights enter loss and Hessian alike (for down-sampled negatives: one over the rate).
        batch : str, optional
            Key of the data, so that it is never absorbed twice.

        Raises
        ------
        InputError
            One class only, shapes that disagree, or numbers that are not finite.
        """
        labels = binary_labels(y)
        self.classes_ = np.unique(labels)
        if self.classes_.size == 1:
            raise InputError(
                "y holds one class only", fix="use partial_fit with classes=, or rows of the other class too"
            )
        encoded = (labels == self.classes_[-1]).astype(float)
        objective = self._learn(X, encoded, sample_weight, offset, batch=batch, reset=True)
        self._warn_if_separated(objective)
        return self

    def partial_fit(
        self,
        X: Any,
        y: npt.ArrayLike,
        classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        *,
        offset: npt.ArrayLike | None = None,
        batch: str | None = None,
    ) -> Self:
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
        labels = binary_labels(y)
        first = not hasattr(self, "posterior_")
        if first:
            self.classes_ = np.unique(labels if classes is None else np.asarray(classes))
            if self.classes_.size != 2:
                raise InputError(
                    f"{self.classes_.size} classes, expected 2", fix="pass classes=[negative, positive]"
                )
        if not np.isin(labels, self.classes_).all():
            raise InputError(f"labels outside the classes {self.classes_.tolist()}")
        encoded = (labels == self.classes_[-1]).astype(float)
        self._learn(X, encoded, sample_weight, offset, batch=batch, reset=first)
        return self

    def decision_function(self, X: Any, *, offset: npt.ArrayLike | None = None) -> FloatArray:
        """Return the logit at the posterior mean, [n]."""
        design = self._predict_design(X)
        return design.dot(self.posterior_.mean) + per_row(offset, design.n_rows, 0.0, "offset")

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

    def _warn_if_separated(self, objective: Objective) -> None:
        margin = (2.0 * objective.y - 1.0) * objective.design.dot(self.posterior_.mean)
        if objective.design.n_rows > objective.design.size and margin.min() > 0:
            warnings.warn(
                "a hyperplane separates the classes; only the prior keeps the coefficients finite",
                SeparationWarning,
                stacklevel=3,
            )


def binary_labels(y: npt.ArrayLike) -> npt.NDArray[Any]:
    """Check that labels are of at most two kinds, and return them as an array [n].

    Raises
    ------
    InputError
        Empty, or more than two classes.
    """
    labels = read_labels(y, numeric=False)
    check_classification_targets(labels)
    kind = type_of_target(labels, input_name="y", raise_unknown=True)
    if kind != "binary":
        raise InputError(f"Only binary classification is supported. The type of the target is {kind}.")
    return labels
