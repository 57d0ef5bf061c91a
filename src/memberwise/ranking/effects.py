"""Effects on top: what single members and items have lately shown beyond what the ranker says.

They are found by the hash of the id, so that an id that came after the fit, for which no embedding exists,
has its own coefficient after its first event.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning

from memberwise.bayes.mixed import MixedEffectsLogisticRegression
from memberwise.bayes.random_effect import RandomEffect
from memberwise.errors import BundleError, DataError
from memberwise.schema import Model

Arrays = Mapping[str, npt.NDArray[Any]]
F64 = npt.NDArray[np.float64]
Variances = dict[str, dict[str, float]]
"""By task, then by entity."""
KEYS_KEPT = 1000
"""Keys of updates that are remembered; older events are refused by their time."""
_FEWEST = 100
"""Rows of each class from which prior variances can be learned."""


class EffectsConfig(Model):
    """Coefficients of single members and items, learned from what the ranker got wrong."""

    by: list[Literal["member", "item"]] = Field(["member", "item"], min_length=1)
    tasks: list[str] | None = Field(None, description="Tasks that have them; default: all.")
    variance: float = Field(0.05, gt=0, description="Prior variance until it is learned from valid.")
    forgetting: float = Field(1.0, gt=0, le=1, description="What an update leaves of earlier evidence.")
    level_precision: float = Field(
        250.0, gt=0, description="How firmly the ranker's own level and slope are trusted against new rows."
    )


@dataclass(frozen=True)
class Effects:
    r"""Posteriors of member and item effects, one model per task, on top of fixed logits.

    .. math:: \mathrm{logit}\, P(y_t = 1) = z_t + a_t + b_t z_t + u_{t,\mathrm{member}} + v_{t,\mathrm{item}}

    with :math:`z_t` the logit of the ranker that serves. The effects are Gaussian with a variance learned
    once, by empirical Bayes, on rows that the ranker was not trained on: on its own train rows its errors
    are too small. Objects do not change; `updated` returns a new one.

    Parameters
    ----------
    config
        What to fit.
    tasks
        Names of all tasks, in the order of the logits.
    variances
        Prior variances; `learned` finds them.
    models
        By task; a task without one has seen no rows yet and changes nothing.
    applied
        Keys of the updates, oldest first.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.10 (root-object effects on the residual); GLMix (KDD 2016).
    """

    config: EffectsConfig
    tasks: tuple[str, ...]
    variances: Variances = field(default_factory=dict)
    models: dict[str, MixedEffectsLogisticRegression] = field(default_factory=dict)
    applied: tuple[str, ...] = ()

    @classmethod
    def learned(cls, config: EffectsConfig, tasks: Sequence[str], rows: Arrays, logits: F64) -> Effects:
        """Effects that are all zero, with prior variances from rows that the ranker has not learned from.

        Parameters
        ----------
        rows
            ``member`` and ``item`` uint64 [n], ``labels`` and ``weights`` float32 [n, T].
        logits : ndarray, [n, T]
            Of the ranker on these rows.
        """
        effects = cls(config, tuple(tasks))
        for task, t in effects._own():
            part = _Part.of(rows, logits, t)
            if min(part.y.sum(), len(part.y) - part.y.sum()) < _FEWEST:
                continue
            model = effects._empty(task, learn=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a variance need not be exact
                model.fit(part.x, part.y, part.weights, groups=part.ids, offset=part.offset)
            effects.variances[task] = {name: model.prior_variances(name)["(intercept)"] for name in config.by}
        return effects

    def adjusted(self, rows: Arrays, logits: F64) -> F64:
        """The logits with the effects added, ``[n, T]``."""
        logits = np.asarray(logits, np.float64)
        found = logits.copy()
        for task, t in self._own():
            if task in self.models and len(logits):
                z = logits[:, t]
                ids: dict[str, pl.Series] = {name: _text(rows[name]) for name in self.config.by}
                found[:, t] = self.models[task].decision_function(z[:, None], groups=ids, offset=z)
        return found

    def updated(self, rows: Arrays, logits: F64, key: str) -> Effects:
        """Absorb new rows, each once.

        Parameters
        ----------
        rows, logits
            As in `learned`; the logits are those of the ranker that serves these effects.
        key
            Names the rows.

        Raises
        ------
        DataError
            If rows of this name were absorbed before.
        """
        self._check(key)
        models = dict(self.models)
        for task, t in self._own():
            part = _Part.of(rows, logits, t)
            if len(part.y) == 0:
                continue
            model = copy.deepcopy(models[task]) if task in models else self._empty(task)
            model.partial_fit(
                part.x, part.y, [0, 1], part.weights, groups=part.ids, offset=part.offset
            )  # fmt: skip
            models[task] = model
        return replace(self, models=models, applied=self._with(key))

    def refitted(self, rows: Arrays, logits: F64, key: str) -> Effects:
        """Start again from the prior with these rows: what a new ranker needs, whose errors are others.

        Parameters
        ----------
        rows, logits
            The latest rows, with the logits of the new ranker.
        key
            Names those of them that are new; the keys of what was absorbed before stay.
        """
        self._check(key)
        fresh = replace(self, models={}, applied=()).updated(rows, logits, key)
        return replace(fresh, applied=self._with(key))

    def forgotten(self, entity: str, hashes: Sequence[int]) -> Effects:
        """Without some members or items."""
        if entity not in self.config.by:
            return self
        models = {task: copy.deepcopy(model) for task, model in self.models.items()}
        for model in models.values():
            for hashed in hashes:
                model.forget(entity, str(hashed))
        return replace(self, models=models)

    def _check(self, key: str) -> None:
        if key in self.applied:
            raise DataError(f"the rows {key} were absorbed before; each counts once", where="effects")

    def _with(self, key: str) -> tuple[str, ...]:
        return (*self.applied, key)[-KEYS_KEPT:]

    def _own(self) -> list[tuple[str, int]]:
        """The tasks that have effects, with their columns."""
        wanted = self.tasks if self.config.tasks is None else self.config.tasks
        return [(task, t) for t, task in enumerate(self.tasks) if task in wanted]

    def _empty(self, task: str, learn: bool = False) -> MixedEffectsLogisticRegression:
        own = self.variances.get(task, {})
        effects = [
            RandomEffect(
                name=name,
                variance=own.get(name, self.config.variance),
                learn_variance=learn,
                forgetting=self.config.forgetting,
            )
            for name in self.config.by
        ]
        firm = self.config.level_precision
        return MixedEffectsLogisticRegression(
            effects, prior_precision=firm, intercept_precision=firm, forgetting=self.config.forgetting
        )

    # -- files ------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """``effects.json``, and one file per task."""
        about = {"variances": self.variances, "applied": list(self.applied), "models": list(self.models)}
        (folder / "effects.json").write_text(json.dumps(about))
        for task, model in self.models.items():
            model.save(folder / f"{task}.safetensors")

    @classmethod
    def read(cls, config: EffectsConfig, tasks: Sequence[str], folder: Path) -> Effects:
        """The inverse of `write`.

        Raises
        ------
        BundleError
            If a file is missing or damaged.
        """
        try:
            about = json.loads((folder / "effects.json").read_text())
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot be read: {error}", where=str(folder / "effects.json")) from error
        models = {
            task: MixedEffectsLogisticRegression.load(folder / f"{task}.safetensors")
            for task in about["models"]
        }
        return cls(config, tuple(tasks), about["variances"], models, tuple(about["applied"]))


@dataclass(frozen=True)
class _Part:
    """The rows on which a task is defined, as the regression takes them."""

    x: F64
    y: npt.NDArray[np.int64]
    weights: F64
    offset: F64
    ids: dict[str, pl.Series]

    @classmethod
    def of(cls, rows: Arrays, logits: F64, task: int) -> _Part:
        labels = np.asarray(rows["labels"], np.float64)[:, task]
        weights = np.asarray(rows["weights"], np.float64)[:, task]
        there = np.flatnonzero(~np.isnan(labels) & (weights > 0))
        z = np.asarray(logits, np.float64)[there, task]
        ids = {name: _text(rows[name])[there] for name in ("member", "item")}
        return cls(z[:, None], (labels[there] > 0.5).astype(np.int64), weights[there], z, ids)


def _text(hashes: npt.NDArray[Any]) -> pl.Series:
    """Hashes as the regression's ids."""
    return pl.Series(np.asarray(hashes, np.uint64)).cast(pl.String)
