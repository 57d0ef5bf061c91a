"""GLMix: a fixed effect for all, and a small effect of its own for every member, item, or other entity."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from memberwise.bayes.block_descent import BlockDescent
from memberwise.bayes.design import Design
from memberwise.bayes.effect_rows import Designs, Groups, as_dense, effect_rows
from memberwise.bayes.entity_store import EntityStore
from memberwise.bayes.grouped_rows import GroupedRows
from memberwise.bayes.inputs import InputError, column_names, per_row, read_features, with_columns
from memberwise.bayes.labels import binary_labels, both_classes, zero_one
from memberwise.bayes.likelihood import BernoulliLikelihood, FloatArray, logistic_normal_mean
from memberwise.bayes.logistic import BayesianLogisticRegression
from memberwise.bayes.mixed_files import restore_mixed, save_mixed
from memberwise.bayes.persistence import read_arrays
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import FullPrecision
from memberwise.bayes.random_effect import EffectState, Plan, RandomEffect
from memberwise.errors import ConfigError


class MixedEffectsLogisticRegression(ClassifierMixin, BaseEstimator):
    r"""Logistic regression with a fixed effect and any number of random-effect blocks (GLMix).

    .. math:: \mathrm{logit}\, P(y = 1) = o + x'\beta + \sum_r z_r' b_{r, e_r}, \qquad
              b_{r, e} \sim N(0, \mathrm{diag}(\tau_r^2))

    Block coordinate descent: each block is solved with the scores of all others as its offset; all
    entities of a block are solved together by a batched Newton method. `fit` estimates the prior
    variances by empirical Bayes; `partial_fit` is one sweep in which every posterior is forgotten a
    little and absorbs the batch. An entity without data is carried over, and forgotten lazily when it is
    next seen; an entity never seen has the prior.

    Parameters
    ----------
    effects : sequence of RandomEffect
        The random-effect blocks.
    prior_precision, intercept_precision, fit_intercept, scale, forgetting, intercept_forgetting, \
covariance
        Of the fixed effect, as in `BayesianLogisticRegression`.
    max_sweeps : int
        Most sweeps over the blocks in `fit`.
    sweep_tol : float
        Stop when a sweep moves the logits by less than this (root mean square).
    tol : float
        Decrease of an entity's objective, in nats, that may be left before one last Newton step: 1e-4 is
        a hundredth of a posterior standard deviation, and that step squares it.
    max_iter : int
        Most Newton steps per solve.
    n_threads : int
        Threads for the entity kernels; the result does not depend on it.
    directory : str, optional
        Where to keep the entities' posteriors as memory-mapped files; in memory by default.

    Attributes
    ----------
    fixed_ : BayesianLogisticRegression
        The fixed effect.
    classes_ : array [2]
        The labels.
    n_sweeps_, converged_, n_failed_
        Sweeps of the last increment, whether they settled, and how many entities kept their previous
        posterior because their solve failed.

    Notes
    -----
    The Hessian between blocks is ignored, as in all GLMix systems: the fixed effect's posterior is
    conditional on the random effects, and the other way round.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> member = rng.integers(0, 30, 3000); taste = rng.standard_normal(30)
    >>> y = rng.random(3000) < 1 / (1 + np.exp(-taste[member]))
    >>> model = MixedEffectsLogisticRegression([RandomEffect(name="member")])
    >>> X = np.zeros((3000, 1))
    >>> model = model.fit(X, y, groups={"member": member})
    >>> found = [model.coefficients("member", str(m)).mean[0] for m in range(30)]
    >>> bool(np.corrcoef(found, taste)[0, 1] > 0.95)
    True

    References
    ----------
    .. [1] X. Zhang et al., "GLMix: Generalized Linear Mixed Models for Large-Scale Response Prediction"
       (KDD 2016).
    .. [2] "Incremental Learning for Personalized Recommender Systems", arXiv 2108.13299.
    """

    def __init__(
        self,
        effects: Sequence[RandomEffect] = (),
        *,
        prior_precision: float = 1.0,
        intercept_precision: float = 1e-4,
        fit_intercept: bool = True,
        scale: bool = False,
        forgetting: float = 1.0,
        intercept_forgetting: float | None = None,
        covariance: str = "auto",
        max_sweeps: int = 50,
        sweep_tol: float = 1e-3,
        tol: float = 1e-4,
        max_iter: int = 50,
        n_threads: int = 1,
        directory: str | None = None,
    ) -> None:
        self.effects = effects
        self.prior_precision = prior_precision
        self.intercept_precision = intercept_precision
        self.fit_intercept = fit_intercept
        self.scale = scale
        self.forgetting = forgetting
        self.intercept_forgetting = intercept_forgetting
        self.covariance = covariance
        self.max_sweeps = max_sweeps
        self.sweep_tol = sweep_tol
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.directory = directory

    def __sklearn_tags__(self) -> Tags:
        """Binary labels; sparse input."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    # --- learning -----------------------------------------------------------------------------

    def fit(
        self, X: Any, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, *,
        groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None, batch: str | None = None,
    ) -> Self:  # fmt: skip
        """Fit from the prior: sweeps to convergence, prior variances learnt.

        Parameters
        ----------
        X : array, CSR or data frame [n, p]
            Fixed-effect features. From a frame, each effect takes its ids and columns by name, and the
            fixed effect takes every column that holds no ids.
        y : [n]
            Two distinct labels.
        sample_weight, offset : [n], optional
            Case weights and known parts of the logit.
        groups : mapping of effect name to ids [n], optional
            Entity of each row, for effects that a frame does not hold.
        designs : mapping of effect name to array or CSR [n, q], optional
            Columns that the effect multiplies, its constant excluded; none by default.
        batch : str, optional
            Key of the data, so that it is never absorbed twice.

        Raises
        ------
        InputError
            One class only, missing ids, shapes that disagree, or numbers that are not finite.
        """
        labels = binary_labels(y)
        self._start(both_classes(labels))
        target = zero_one(labels, self.classes_)
        self._increment(X, target, sample_weight, groups, designs, offset, batch, frozen=(), first=True)
        return self

    def partial_fit(
        self, X: Any, y: npt.ArrayLike, classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None, *,
        groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None, batch: str | None = None, frozen: Collection[str] = (),
    ) -> Self:  # fmt: skip
        """Forget a little, then absorb one batch in one sweep; prior variances stay as they are.

        Parameters
        ----------
        X, y, sample_weight, groups, designs, offset, batch
            As for `fit`.
        classes : [2], optional
            Both labels, for a first batch that may hold one of them only.
        frozen : collection of str
            Blocks that contribute their scores but do not learn: names of effects, or "fixed".
        """
        labels = binary_labels(y)
        if not hasattr(self, "fixed_"):
            self._start(both_classes(labels, classes))
        target = zero_one(labels, self.classes_)
        unknown = set(frozen) - {"fixed", *(e.name for e in self.effects)}
        if unknown:
            raise ConfigError(f"no block is named {sorted(unknown)}")
        self._increment(X, target, sample_weight, groups, designs, offset, batch, frozen=frozen, first=False)
        return self

    def _start(self, classes: npt.NDArray[Any]) -> None:
        """Forget everything and set up empty blocks."""
        names = [effect.name for effect in self.effects]
        if len(set(names)) != len(names) or "fixed" in names:
            raise ConfigError(f"effect names {names} must be distinct, and none may be 'fixed'")
        for effect in self.effects:
            if effect.prior == "dirichlet_process" and (effect.columns or not effect.intercept):
                raise ConfigError(
                    f"effect {effect.name!r}: a Dirichlet-process prior is for an intercept alone"
                )
        self.classes_ = classes
        self.fixed_ = BayesianLogisticRegression(
            prior_precision=self.prior_precision, intercept_precision=self.intercept_precision,
            fit_intercept=self.fit_intercept, scale=self.scale, forgetting=self.forgetting,
            intercept_forgetting=self.intercept_forgetting, covariance=self.covariance,
            max_iter=self.max_iter,
        )  # fmt: skip
        self.fixed_.classes_ = classes
        self.states_: dict[str, EffectState] = {}
        self.step_ = 0

    def _increment(
        self, X: Any, y: FloatArray, sample_weight: npt.ArrayLike | None, groups: Groups | None,
        designs: Designs | None, offset: npt.ArrayLike | None, batch: str | None, *,
        frozen: Collection[str], first: bool,
    ) -> None:  # fmt: skip
        """Absorb one batch: explore until the blocks agree, then write all posteriors at once."""
        fixed = self.fixed_
        features, weights = fixed._read(
            self._fixed_part(X), y, sample_weight, batch=batch, reset=not hasattr(fixed, "posterior_")
        )
        self.n_features_in_ = fixed.n_features_in_
        if hasattr(fixed, "feature_names_in_"):
            self.feature_names_in_ = fixed.feature_names_in_
        n = y.size
        base = per_row(offset, n, 0.0, "offset")
        plans = self._plans(X, n, groups, designs, step=self.step_ + 1)
        learns = "fixed" not in frozen and fixed.n_steps_ > 0
        prior = fixed._forgotten() if learns else fixed.posterior_
        sweep = BlockDescent(self, features, y, weights, base, prior, plans, frozen)
        self.converged_, self.n_sweeps_ = (
            sweep.explore(self.max_sweeps, self.sweep_tol) if first else (True, 0)
        )
        if not sweep.commit(self.step_ + 1, batch):
            warnings.warn(
                "the fixed effect's solve did not converge; the previous posterior stays",
                ConvergenceWarning, stacklevel=3,
            )  # fmt: skip
            self.converged_ = False
            return
        self.step_ += 1
        self.n_sweeps_ = self.n_iter_ = self.n_sweeps_ + 1
        self.n_failed_ = sum(state.n_failed for state in self.states_.values())
        if self.n_failed_:
            warnings.warn(
                f"{self.n_failed_} entities did not converge; their previous posteriors stay",
                ConvergenceWarning, stacklevel=3,
            )  # fmt: skip
        if not self.converged_:
            warnings.warn(
                f"blocks still moved after {self.max_sweeps} sweeps", ConvergenceWarning, stacklevel=3
            )

    # --- reading ------------------------------------------------------------------------------

    def linear_predictor(
        self, X: Any, *, groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Return posterior mean and variance of the logit of each row, two arrays [n].

        The variance is the sum over blocks; it is what exploration needs. Arguments as for `fit`.
        """
        design = self._predict_design(X)
        mean = design.dot(self.fixed_.posterior_.mean) + per_row(offset, design.n_rows, 0.0, "offset")
        variance = self.fixed_.posterior_.precision.row_variances(design.matrix())
        for name, plan in self._plans(X, design.n_rows, groups, designs).items():
            score, spread = self.states_[name].scores(plan, variance=True)
            mean += score
            variance += spread
        return mean, variance

    def decision_function(
        self, X: Any, *, groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> FloatArray:  # fmt: skip
        """Return the logit at the posterior means, [n]. Arguments as for `fit`."""
        design = self._predict_design(X)
        total = design.dot(self.fixed_.posterior_.mean) + per_row(offset, design.n_rows, 0.0, "offset")
        for name, plan in self._plans(X, design.n_rows, groups, designs).items():
            total += self.states_[name].scores(plan)[0]
        return total

    def predict_proba(
        self, X: Any, *, groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> FloatArray:  # fmt: skip
        """Return the class probabilities at the posterior means, [n, 2]. Arguments as for `fit`."""
        eta = self.decision_function(X, groups=groups, designs=designs, offset=offset)
        positive = BernoulliLikelihood().mean(eta)
        return np.column_stack([1.0 - positive, positive])

    def predictive_proba(
        self, X: Any, *, groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> FloatArray:  # fmt: skip
        """Return the class probabilities averaged over the posterior, [n, 2]. Arguments as for `fit`."""
        positive = logistic_normal_mean(
            *self.linear_predictor(X, groups=groups, designs=designs, offset=offset)
        )
        return np.column_stack([1.0 - positive, positive])

    def predict(
        self, X: Any, *, groups: Groups | None = None, designs: Designs | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> npt.NDArray[Any]:  # fmt: skip
        """Return the more probable label of each row, [n]. Arguments as for `fit`."""
        eta = self.decision_function(X, groups=groups, designs=designs, offset=offset)
        labels: npt.NDArray[Any] = self.classes_[(eta > 0).astype(int)]
        return labels

    def coefficients(self, effect: str, entity: str) -> GaussianPosterior:
        """Return the posterior of one entity, forgotten as far as it has been silent.

        Raises
        ------
        KeyError
            The entity was never seen, or was forgotten.
        """
        state = self.states_[effect]
        feature, mean, matrix = state.store.record(str(entity))
        silent = self.step_ - int(state.store.last_step.data[state.store.slots[str(entity)]])
        labels = state.effect.columns
        names = tuple("(intercept)" if f < 0 else (labels[f] if labels else f"z{f}") for f in feature)
        floor = np.where(
            feature < 0, 1 / state.constant_variance, np.append(1 / state.variance, 0.0)[feature]
        )
        posterior = GaussianPosterior(names, mean, FullPrecision(matrix))
        return posterior.forget(state.effect.forgetting, floor, steps=silent)

    def prior_variances(self, effect: str) -> dict[str, float]:
        """Return the prior variance of each coefficient of a block, by name."""
        state = self.states_[effect]
        own = {"(intercept)": state.constant_variance} if state.effect.intercept else {}
        labels = state.effect.columns or [f"z{i}" for i in range(state.variance.size)]
        return own | dict(zip(labels, state.variance.tolist(), strict=True))

    def forget(self, effect: str, entity: str) -> bool:
        """Remove all that is known of one entity, numbers and id; False if it was not known.

        What its rows once taught the fixed effect and the prior variances stays: those are sums over all.
        """
        return self.states_[effect].store.forget(str(entity))

    # --- assembling the blocks ----------------------------------------------------------------

    def _id_columns(self) -> set[str]:
        return {effect.group or effect.name for effect in self.effects}

    def _fixed_part(self, X: Any) -> Any:
        """Return the columns of the fixed effect: all of an array, the non-id columns of a frame."""
        names = column_names(X)
        if names is None:
            return X
        kept = [name for name in names if name not in self._id_columns()]
        return with_columns(X, kept, fill=False)

    def _predict_design(self, X: Any) -> Design:
        check_is_fitted(self, "fixed_")
        if column_names(X) is None:
            return Design(read_features(self, X, reset=False), self.fit_intercept)
        return self.fixed_._predict_design(self._fixed_part(X))

    def _plans(
        self,
        X: Any,
        n: int,
        groups: Groups | None,
        designs: Designs | None,
        *,
        step: int | None = None,
    ) -> dict[str, Plan]:
        """Group the rows of every effect and look its entities up, forgotten up to ``step``.

        Without a step beliefs are those after the last one, as prediction needs them; the next increment
        forgets once more before it learns.
        """
        plans = {}
        for effect in self.effects:
            ids, design = effect_rows(effect, X, n, groups, designs)
            state = self.states_.get(effect.name)
            if state is None:
                state = self.states_[effect.name] = self._empty_state(effect, design)
            if design.shape[1] != state.variance.size:
                raise InputError(
                    f"effect {effect.name!r}: {design.shape[1]} columns, expected {state.variance.size}"
                )
            design = scipy.sparse.csr_array(design) if state.sparse else as_dense(design)
            rows = GroupedRows.build(ids, design, n, effect.name)
            plans[effect.name] = state.plan(rows, self.step_ if step is None else step)
        return plans

    def _empty_state(self, effect: RandomEffect, design: Any) -> EffectState:
        directory = None if self.directory is None else Path(self.directory) / effect.name
        store = EntityStore(full=effect.covariance == "full", directory=directory)
        variance = np.full(design.shape[1], effect.variance)
        sparse = bool(scipy.sparse.issparse(design))
        return EffectState(effect, store, variance, effect.variance, sparse=sparse, n_threads=self.n_threads)

    # --- files --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model to one file (safetensors, checksum, atomic)."""
        check_is_fitted(self, "fixed_")
        save_mixed(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, directory: str | None = None) -> Self:
        """Read a model back from `save`; with ``directory`` its entities go to memory-mapped files there."""
        header, arrays = read_arrays(path, cls.__name__)
        params = header["params"]
        effects = [RandomEffect(**(e | {"columns": tuple(e["columns"])})) for e in params["effects"]]
        model = cls(**(params | {"effects": effects, "directory": directory}))
        model._start(np.array(header["classes"], dtype=np.dtype(header["class_type"])))
        restore_mixed(model, header, arrays)
        return model
