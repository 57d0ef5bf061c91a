"""The models that a ranker must beat, fitted on the same rows at the same freshness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from memberwise.data.layout import Layout
from memberwise.data.vocabulary import FIRST

Arrays = Mapping[str, npt.NDArray[Any]]
Scores = npt.NDArray[np.float64]
PRIOR_STRENGTH = 10.0
PENALTIES = (0.03, 0.1, 0.3, 1.0)
MAX_ROWS = 2_000_000
"""Rows of train that the logistic regressions see at most (the latest)."""


@dataclass(frozen=True)
class Baseline:
    """A name and what fits it: ``fit(train, valid, layout) -> predict``, probabilities ``[n, T]``."""

    name: str
    fit: Callable[[Arrays, Arrays, Layout], Callable[[Arrays], Scores]]


def _column(arrays: Arrays, task: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    labels = np.asarray(arrays["labels"], np.float64)[:, task]
    return ~np.isnan(labels), labels


def global_prior(train: Arrays, valid: Arrays, layout: Layout) -> Callable[[Arrays], Scores]:
    """The label rate of train, for every row."""
    rates = np.nanmean(np.asarray(train["labels"], np.float64), axis=0)
    return lambda rows: np.tile(rates, (len(rows["labels"]), 1))


def item_popularity(train: Arrays, valid: Arrays, layout: Layout) -> Callable[[Arrays], Scores]:
    """The smoothed label rate of the item in train, ``(s + a p) / (n + a)``."""
    items, codes = np.unique(train["item"], return_inverse=True)
    rates = np.zeros((len(items) + 1, len(layout.tasks)))
    for t in range(len(layout.tasks)):
        defined, y = _column(train, t)
        prior = float(y[defined].mean())
        s = np.bincount(codes[defined], y[defined], len(items))
        n = np.bincount(codes[defined], minlength=len(items))
        rates[:, t] = np.append((s + PRIOR_STRENGTH * prior) / (n + PRIOR_STRENGTH), prior)

    def predict(rows: Arrays) -> Scores:
        place = np.searchsorted(items, rows["item"])
        place = np.where(np.append(items, 0)[place] == rows["item"], place, len(items))
        return rates[place]

    return predict


def _logistic(
    design: Callable[[Arrays], sparse.csr_matrix | npt.NDArray[np.float64]],
    train: Arrays,
    valid: Arrays,
    layout: Layout,
) -> Callable[[Arrays], Scores]:
    """Logistic regressions per task; the penalty with the least log-loss on valid."""
    last = {k: a[-MAX_ROWS:] for k, a in train.items()}
    x, x_valid = design(last), design(valid)
    models = []
    for t in range(len(layout.tasks)):
        defined, y = _column(last, t)
        there, y_valid = _column(valid, t)
        best: tuple[float, LogisticRegression] | None = None
        for penalty in PENALTIES:
            # lbfgs at its default tolerance stops far too early on one-hots: newton-cg goes to the optimum.
            model = LogisticRegression(C=penalty, solver="newton-cg", tol=1e-4, max_iter=200)
            model.fit(x[defined], y[defined] > 0.5)
            p = np.clip(model.predict_proba(x_valid[there])[:, 1], 1e-7, 1 - 1e-7)
            loss = -np.mean(y_valid[there] * np.log(p) + (1 - y_valid[there]) * np.log(1 - p))
            if best is None or loss < best[0]:
                best = loss, model
        assert best is not None
        models.append(best[1])
    return lambda rows: np.stack([m.predict_proba(design(rows))[:, 1] for m in models], axis=1)


def one_hot(arrays: Arrays, layout: Layout, sizes: Mapping[str, int]) -> sparse.csr_matrix:
    """Id fields as indicators; several values of a field share weight one. Unseen ids are all zero."""
    ids = np.asarray(arrays["ids"])
    rows, columns, values = [], [], []
    at = 0
    for field in layout.ids:
        block = ids[:, field.start : field.start + field.width]
        # A table may have fewer rows in this split than in train: the width comes from train.
        known = (block >= FIRST) & (block < sizes[field.name])
        r, c = np.nonzero(known)
        share = 1.0 / np.maximum(known.sum(1), 1)
        rows.append(r)
        columns.append(at + block[r, c])
        values.append(share[r])
        at += sizes[field.name]
    shape = (len(ids), at)
    if not rows:
        return sparse.csr_matrix((len(ids), 1))
    data = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(data, shape=shape)


def logistic_on_ids(train: Arrays, valid: Arrays, layout: Layout) -> Callable[[Arrays], Scores]:
    """Logistic regression on one-hot ids."""
    ids = np.asarray(train["ids"])
    sizes = {f.name: int(ids[:, f.start : f.start + f.width].max(initial=FIRST)) + 1 for f in layout.ids}
    return _logistic(lambda rows: one_hot(rows, layout, sizes), train, valid, layout)


def logistic_on_counts(train: Arrays, valid: Arrays, layout: Layout) -> Callable[[Arrays], Scores]:
    """Logistic regression on all numeric columns: the aggregates and whatever else the project declares."""
    return _logistic(lambda rows: np.asarray(rows["dense"], np.float64), train, valid, layout)


BASELINES = {
    b.name: b
    for b in (
        Baseline("label rate", global_prior),
        Baseline("item popularity", item_popularity),
        Baseline("logistic on ids", logistic_on_ids),
        Baseline("logistic on counts", logistic_on_counts),
    )
}
"""By name, from weak to strong."""


def applicable(layout: Layout) -> list[str]:
    """Baselines that this layout has the columns for."""
    names = ["label rate", "item popularity"]
    names += ["logistic on ids"] if layout.ids else []
    names += ["logistic on counts"] if layout.dense else []
    return names
