"""How much one column says about another, measured on rows that were not used to learn it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.hashing import hash_values
from memberwise.metrics import auc

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
FIT_SHARE = 0.7
_STRENGTH = 10.0
_BINS = 64


def codes(values: pl.Series) -> I64:
    """Values as small integers, missing ones as a value of their own. Shape [n]."""
    _, inverse = np.unique(hash_values(values), return_inverse=True)
    return inverse.astype(np.int64)


def bins(values: npt.NDArray[np.floating]) -> I64:
    """Numbers as quantile bins that the first rows decide; frequent numbers and NaN have their own.

    Parameters
    ----------
    values : ndarray, shape [n]
        In time order.
    """
    fit = values[: max(1, int(len(values) * FIT_SHARE))]
    fit = fit[np.isfinite(fit)]
    if len(fit) == 0:
        return np.isfinite(values).astype(np.int64)
    edges = np.unique(np.quantile(fit, np.linspace(0, 1, _BINS + 1), method="nearest"))
    # Both sides of every edge: a mass at one number (zero, most often) is not mixed with its neighbours.
    place = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
    return np.where(np.isfinite(values), place + 1, 0).astype(np.int64)


def held_out_auc(keys: I64, labels: npt.NDArray[np.floating]) -> float:
    """AUC of a column's value alone: label rates by value in the first rows, judged on the later ones.

    Parameters
    ----------
    keys : ndarray of int64, shape [n]
        The column as codes, rows in time order.
    labels : ndarray, shape [n]
        0 or 1; NaN rows are left out.

    Returns
    -------
    float
        NaN where either part has one class only.
    """
    defined = np.isfinite(labels)
    keys, y = keys[defined], (labels[defined] > 0.5).astype(np.float64)
    cut = int(len(y) * FIT_SHARE)
    if cut == 0 or cut == len(y):
        return float("nan")
    size = int(keys.max()) + 1
    positives = np.bincount(keys[:cut], y[:cut], size)
    seen = np.bincount(keys[:cut], minlength=size)
    prior = y[:cut].mean()
    rate = (positives + _STRENGTH * prior) / (seen + _STRENGTH)
    return float(auc(y[cut:], rate[keys[cut:]]))


def tells_missing(missing: npt.NDArray[np.bool_], labels: npt.NDArray[np.floating]) -> float:
    """Share of rows in which "a value is there" agrees with the label, or with its opposite, balanced.

    0.5 says nothing, 1 says that the value exists for one of the labels only. Shape of both: [n].
    """
    defined = np.isfinite(labels)
    there, y = ~missing[defined], labels[defined] > 0.5
    if y.all() or not y.any() or there.all() or not there.any():
        return 0.5
    balanced = (there[y].mean() + (~there[~y]).mean()) / 2
    return float(max(balanced, 1 - balanced))


def dependence(keys: I64, on: I64) -> float:
    """How much better a column is guessed from another than blindly, in [0, 1].

    The most frequent value under each value of `on` is learned from every second row and tried on the
    others; 0 is no better than the most frequent value of all, 1 is always right.
    """
    fit, trial = slice(0, None, 2), slice(1, None, 2)
    if len(keys) < 4:
        return 0.0
    pairs = pl.DataFrame({"on": on[fit], "key": keys[fit]}).group_by("on", "key").len()
    best = pairs.sort("len", "key", descending=[True, False]).group_by("on", maintain_order=True).first()
    overall = np.bincount(keys[fit]).argmax()
    guess = np.full(int(on.max()) + 1, -1, np.int64)
    guess[best["on"].to_numpy()] = best["key"].to_numpy()
    known = guess[on[trial]] >= 0
    if not known.any():
        return 0.0
    truth = keys[trial][known]
    right, blind = (guess[on[trial]][known] == truth).mean(), (truth == overall).mean()
    return float(max(0.0, (right - blind) / (1 - blind))) if blind < 1 else 0.0


def determined(keys: I64, by: I64) -> bool:
    """Whether one column's value follows from another's: at least 98 % of repeated values agree."""
    repeated = pl.DataFrame({"by": by, "key": keys}).group_by("by").agg(pl.len(), pl.col("key").n_unique())
    repeated = repeated.filter(pl.col("len") > 1)
    return len(repeated) > 0 and float((repeated["key"] == 1).mean() or 0.0) >= 0.98  # type: ignore[arg-type]
