"""Classification with few samples and many features, by empirical Bayes estimates of the differences."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from memberwise.bayes.inputs import InputError, read_features, read_labels
from memberwise.bayes.likelihood import BoolArray, FloatArray
from memberwise.bayes.linear_rules import (
    LinearRules,
    centroid_rules,
    independence_rule,
    selected_rules,
    shrinkage_rule,
)
from memberwise.bayes.mixture_prior import MixturePrior
from memberwise.bayes.persistence import read_arrays, write_arrays
from memberwise.bayes.progress import Counted, Progress, quiet
from memberwise.bayes.sparse_means import SparseMeans
from memberwise.bayes.two_sample import GUARD, TwoSample, compare, empirical_null
from memberwise.errors import ConfigError

_FAMILIES = ("shrinkage", "centroids", "independent", "selected")
_CANDIDATES = _FAMILIES[:3]
_MARGIN = 2.0
_STAGE = "classifier"
_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class EmpiricalBayesClassifier(ClassifierMixin, BaseEstimator):
    r"""Linear classifier for n << p whose weights are empirical Bayes estimates.

    .. math:: z_j \sim N(\delta_j, 1), \quad \delta_j \sim G, \quad
              \hat\delta_j = E[\delta_j \mid z_j], \qquad
              \hat y = 1 \iff x'\hat w > c

    z are the normalised differences of the two groups' means (Welch); G is learnt from all features by
    `SparseMeans`. With ``covariance="independent"`` the weights are :math:`\hat\delta_j / S_j`, the
    published rule, which is optimal for independent features. Real measurements are correlated; the
    other rules put the estimate into a discriminant that knows covariance, and "auto" chooses by
    cross-validation among all but "selected", whose error there is flattered: it picks both features and
    their number by the labels. More than two classes are taken one against the rest.

    Parameters
    ----------
    covariance : {"auto", "independent", "shrinkage", "selected", "centroids"}
        "shrinkage": linear discriminant analysis with Ledoit-Wolf covariance, the mean difference
        replaced by the estimate; "selected": the same on the m features with the largest estimates, m
        by cross-validation; "centroids": nearest shrunken centroids, threshold by cross-validation.
    means : SparseMeans, optional
        Estimator of the prior; by default `SparseMeans` with one start, stopped early: the rule does not
        feel the last digits of the prior.
    symmetric : bool
        Learn a prior symmetric about zero: a shift common to all features is then no signal.
    guard : float
        Standard errors below this quantile of all are raised to it; 0 is the published rule.
    null : {"theoretical", "empirical"}
        Whether to rescale z by the spread of its middle half first.
    weights : {"mean", "sparse"}
        Posterior means, or zero where zero is more probable than not.
    priors : {"empirical", "equal"}
        Class probabilities in the threshold: training frequencies, or none.
    per_sample : bool
        Standardise every sample over its features first, in training and prediction alike.
    cv, n_repeats : int
        Folds and repetitions of the inner cross-validation.
    seed : int
        Of the folds.

    Attributes
    ----------
    coef_, intercept_ : float64 [1 or K, p], [1 or K]
        The chosen rule; the score is the log-odds of the class (of the second class if there are two).
    rule_ : list of str
        Which family each rule came from.
    feature_importances_ : float64 [p]
        One minus the probability that the feature makes no difference (the largest over classes).
    z_values_ : float64 [1 or K, p]
        Normalised differences; ``prior_`` is the learnt prior of the first rule.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = rng.standard_normal((40, 500))
    >>> X[:, :20] += 1.5 * y[:, None]
    >>> model = EmpiricalBayesClassifier(covariance="independent").fit(X[:20], y[:20])
    >>> float(model.score(X[20:], y[20:]))
    0.85

    References
    ----------
    .. [1] Y. Ouyang and F. Liang, "An Empirical Bayes Approach for High Dimensional Classification",
       arXiv 1702.05056.
    """

    def __init__(
        self,
        *,
        covariance: str = "auto",
        means: SparseMeans | None = None,
        symmetric: bool = True,
        guard: float = GUARD,
        null: str = "theoretical",
        weights: str = "mean",
        priors: str = "empirical",
        per_sample: bool = False,
        cv: int = 5,
        n_repeats: int = 2,
        seed: int = 0,
    ) -> None:
        self.covariance = covariance
        self.means = means
        self.symmetric = symmetric
        self.guard = guard
        self.null = null
        self.weights = weights
        self.priors = priors
        self.per_sample = per_sample
        self.cv = cv
        self.n_repeats = n_repeats
        self.seed = seed

    def __sklearn_tags__(self) -> Tags:
        """Sparse input is accepted; it is small enough to be made dense."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: npt.ArrayLike, *, progress: Progress = quiet) -> Self:
        """Learn the prior, the estimates and the rule.

        Parameters
        ----------
        X : array, CSR or data frame [n, p]
            Samples.
        y : [n]
            At least two classes.
        progress
            Sees the fit go by, as that of ``ProgressBar.stage``: a step for every prior that is learned.

        Raises
        ------
        InputError
            One class only, shapes that disagree, or numbers that are not finite.
        """
        self._check()
        samples = self._samples(X, reset=True)
        labels = read_labels(y, numeric=False)
        check_classification_targets(labels)
        if labels.shape[0] != samples.shape[0]:
            raise InputError(f"{samples.shape[0]} samples but {labels.size} labels")
        self.classes_ = np.unique(labels)
        if self.classes_.size < 2:
            raise InputError("y holds one class only: there is nothing to tell apart")
        centre, scale = samples.mean(axis=0), samples.std(axis=0)
        scale[scale <= 1e-12 * np.maximum(1.0, np.abs(centre))] = 1.0
        standard = (samples - centre) / scale
        targets = self.classes_[1:] if self.classes_.size == 2 else self.classes_
        steps = [1 + self._folds(labels == target) * self.n_repeats for target in targets]
        told = Counted(progress, _STAGE, sum(steps))
        found = [self._fit_one(standard, labels == target, told) for target in targets]
        self.coef_ = np.stack([coef for coef, _, _, _ in found]) / scale
        self.intercept_ = np.array([intercept for _, intercept, _, _ in found]) - self.coef_ @ centre
        self.rule_ = [name for _, _, name, _ in found]
        self.z_values_ = np.stack([estimate.two.z for _, _, _, estimate in found])
        self.prior_ = found[0][3].prior
        self.feature_importances_ = np.max([1.0 - e.null_probability() for _, _, _, e in found], axis=0)
        return self

    def decision_function(self, X: Any) -> FloatArray:
        """Return log-odds: [n] of the second of two classes, [n, K] of each class against the rest."""
        check_is_fitted(self, "coef_")
        scores = self._samples(X, reset=False) @ self.coef_.T + self.intercept_
        return scores[:, 0] if self.classes_.size == 2 else scores

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the class with the largest log-odds, [n]."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> FloatArray:
        """Return class probabilities, [n, K]; with few samples they are far too sure of themselves."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([expit(-scores), expit(scores)])
        each = np.maximum(expit(scores), 1e-300)
        return each / each.sum(axis=1, keepdims=True)

    def feature_list(self, threshold: float = 0.5) -> npt.NDArray[np.intp]:
        """Return the features whose null probability is below ``threshold``, most certain first."""
        check_is_fitted(self, "coef_")
        order = np.argsort(-self.feature_importances_, kind="stable")
        return order[self.feature_importances_[order] > 1.0 - threshold]

    # --- one class against the rest -----------------------------------------------------------

    def _fit_one(
        self, X: FloatArray, positive: BoolArray, told: Counted
    ) -> tuple[FloatArray, float, str, Estimate]:
        """Return weights, constant, family and estimate of one binary rule."""
        estimate = self._estimate(X, positive)
        told.step()
        names = _CANDIDATES if self.covariance == "auto" else (self.covariance,)
        name, row = names[0], 0
        if self._tuned:
            name, row = self._select(X, positive, names, told)
        rules = self._rules(X, positive, estimate, name)
        return rules.coef[row], float(rules.intercept[row]), name, estimate

    def _estimate(self, X: FloatArray, positive: BoolArray) -> Estimate:
        two = compare(X, positive, guard=self.guard)
        spread = empirical_null(two.z)[1] if self.null == "empirical" else 1.0
        z = two.z / spread
        means = clone(self.means) if self.means is not None else SparseMeans(n_restarts=0, tol=1e-5)
        means.fit(np.concatenate([z, -z]) if self.symmetric else z)
        prior = means.prior_.symmetrised() if self.symmetric else means.prior_
        effect = spread * prior.posterior_mean(z)
        if self.weights == "sparse":
            effect[prior.null_probability(z) > 0.5] = 0.0
        effect[~np.isfinite(two.scale)] = 0.0
        return Estimate(two, effect, spread, prior)

    def _rules(self, X: FloatArray, positive: BoolArray, estimate: Estimate, name: str) -> LinearRules:
        """Return the rules of one family, one per tuning value."""
        two = estimate.two
        log_prior = two.log_prior if self.priors == "empirical" else 0.0
        if name == "independent":
            return independence_rule(two, estimate.effect, log_prior)
        if name == "shrinkage":
            return shrinkage_rule(X, positive, two, estimate.difference(), log_prior)
        if name == "centroids":
            return centroid_rules(X, positive, 30, log_prior)
        difference = X[positive].mean(axis=0) - X[~positive].mean(axis=0)
        sizes = tuple(m for m in _SIZES if m < X.shape[1]) or (X.shape[1],)
        return selected_rules(X, positive, two, difference, np.abs(estimate.effect), sizes, log_prior)

    @property
    def _tuned(self) -> bool:
        """Whether the family, or a value of it, is chosen by cross-validation."""
        return self.covariance not in ("independent", "shrinkage")

    def _folds(self, positive: BoolArray) -> int:
        """Folds of the cross-validation, 0 without one."""
        folds = min(self.cv, int(positive.sum()), int((~positive).sum()))
        return folds if self._tuned and folds >= 2 else 0

    def _select(
        self, X: FloatArray, positive: BoolArray, names: tuple[str, ...], told: Counted
    ) -> tuple[str, int]:
        """Return the family and the tuning value with the smallest cross-validated error.

        Within a family ties go to the simplest tuning value (most shrunk, fewest features). Between
        families, one that is tuned has looked at the folds more often: it must be better than the first
        by `_MARGIN` samples.
        """
        folds = self._folds(positive)
        if not folds:
            return names[0], 0
        errors: dict[str, FloatArray] = {}
        for repeat in range(self.n_repeats):
            split = StratifiedKFold(folds, shuffle=True, random_state=self.seed + repeat)
            for train, test in split.split(X, positive):
                centre, scale = X[train].mean(axis=0), X[train].std(axis=0)
                scale[scale <= 1e-12] = 1.0
                inner, outer = (X[train] - centre) / scale, (X[test] - centre) / scale
                estimate = self._estimate(inner, positive[train])
                told.step()
                for name in names:
                    rules = self._rules(inner, positive[train], estimate, name)
                    wrong = (rules.scores(outer) > 0) != positive[test][:, None]
                    errors[name] = errors.get(name, 0.0) + wrong.sum(axis=0).astype(float)
        best = {name: _simplest_best(total, last=name == "centroids") for name, total in errors.items()}
        handicap = {n: 0.0 if n == names[0] else _MARGIN * self.n_repeats for n in names}
        name = min(names, key=lambda n: errors[n][best[n]] + handicap[n])
        return name, best[name]

    # --- inside -------------------------------------------------------------------------------

    def _check(self) -> None:
        choices = {
            "covariance": ("auto", *_FAMILIES), "null": ("theoretical", "empirical"),
            "weights": ("mean", "sparse"), "priors": ("empirical", "equal"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}", fix=f"choose one of {allowed}")
        if not 0.0 <= self.guard < 1.0:
            raise ConfigError(f"guard is a quantile in [0, 1), got {self.guard}")

    def _samples(self, X: Any, *, reset: bool) -> FloatArray:
        features = read_features(self, X, reset=reset)
        dense = features.toarray() if scipy.sparse.issparse(features) else features
        dense = np.asarray(dense, dtype=np.float64)
        if not self.per_sample:
            return dense
        spread = dense.std(axis=1, keepdims=True)
        spread[spread == 0] = 1.0
        return (dense - dense.mean(axis=1, keepdims=True)) / spread

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and rule to one file (safetensors, checksum, atomic)."""
        check_is_fitted(self, "coef_")
        arrays = {
            "coef": self.coef_, "intercept": self.intercept_, "z_values": self.z_values_,
            "importances": self.feature_importances_, "prior_weights": self.prior_.weights,
            "prior_means": self.prior_.means, "prior_variances": self.prior_.variances,
        }  # fmt: skip
        params = self.get_params(deep=False)
        params["means"] = None if self.means is None else self.means.get_params()
        header = {
            "params": params, "rule": self.rule_, "classes": self.classes_.tolist(),
            "class_type": self.classes_.dtype.str,
            "names": [str(n) for n in getattr(self, "feature_names_in_", ())],
        }  # fmt: skip
        write_arrays(path, type(self).__name__, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a classifier back from `save`."""
        header, arrays = read_arrays(path, cls.__name__)
        params = header["params"]
        if params["means"] is not None:
            params["means"] = SparseMeans(**(params["means"] | {"learn": tuple(params["means"]["learn"])}))
        model = cls(**params)
        model.coef_, model.intercept_, model.rule_ = arrays["coef"], arrays["intercept"], header["rule"]
        model.z_values_, model.feature_importances_ = arrays["z_values"], arrays["importances"]
        model.prior_ = MixturePrior(arrays["prior_weights"], arrays["prior_means"], arrays["prior_variances"])
        model.classes_ = np.array(header["classes"], dtype=np.dtype(header["class_type"]))
        model.n_features_in_ = model.coef_.shape[1]
        if header["names"]:
            model.feature_names_in_ = np.array(header["names"], dtype=object)
        return model


class Estimate:
    """One comparison of two groups and the estimates made from it.

    Parameters
    ----------
    two : TwoSample
        The comparison.
    effect : float64 [p]
        Estimated normalised differences.
    spread : float
        Scale of the null by which z was divided.
    prior : MixturePrior
        Learnt from z / spread.
    """

    def __init__(self, two: TwoSample, effect: FloatArray, spread: float, prior: MixturePrior) -> None:
        self.two, self.effect, self.spread, self.prior = two, effect, spread, prior

    def difference(self) -> FloatArray:
        """Estimated differences in the features' own units, [p]."""
        return self.effect * np.where(np.isfinite(self.two.scale), self.two.scale, 0.0)

    def null_probability(self) -> FloatArray:
        """Probability that each feature makes no difference, [p]; one where it does not vary."""
        null = self.prior.null_probability(self.two.z / self.spread)
        return np.where(np.isfinite(self.two.scale), null, 1.0)


def _simplest_best(errors: FloatArray, *, last: bool) -> int:
    """Return the first (or last) position of the smallest error."""
    best = np.flatnonzero(errors == errors.min())
    return int(best[-1] if last else best[0])
