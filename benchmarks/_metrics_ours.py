"""The metrics of `memberwise`, and the same done with scikit-learn, on rows read once."""

from __future__ import annotations

import itertools

import numpy as np
from sklearn.metrics import roc_auc_score

import _child
from memberwise import metrics

_rows: dict[str, np.ndarray] = {}
_few: dict[str, np.ndarray] = {}


def warm_up(path: str, rows: int) -> None:
    """Read the rows and compile the kernel."""
    with np.load(path) as stored:
        _rows.update(stored)
    _few.update({name: column[:rows] for name, column in _rows.items()})
    bootstrap(draws=1)


def auc() -> float:
    """AUC of all rows."""
    return metrics.auc(_rows["labels"], _rows["scores"])


def auc_by_scikit_learn() -> float:
    """The same."""
    return float(roc_auc_score(_rows["labels"], _rows["scores"]))


def grouped_auc() -> float:
    """AUC within members, weighted by their rows."""
    return metrics.grouped_auc(_rows["labels"], _rows["scores"], _rows["member"]).value


def grouped_auc_by_scikit_learn() -> float:
    """The same, a call for each member on a slice of sorted rows."""
    order = np.argsort(_rows["member"], kind="stable")
    labels, scores, member = (_rows[name][order] for name in ("labels", "scores", "member"))
    total = weight = 0.0
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(member)) + 1, [len(member)]])
    for begin, end in itertools.pairwise(bounds):
        y = labels[begin:end]
        if 0 < y.sum() < len(y):
            total += len(y) * roc_auc_score(y, scores[begin:end])
            weight += len(y)
    return float(total / weight)


def bootstrap(draws: int) -> float:
    """Standard error of AUC over draws of members."""
    found = metrics.bootstrap(_few["labels"], _few["scores"], _few["member"], metrics=["auc"], draws=draws)
    return found["auc"].se if draws > 1 else 0.0


def bootstrap_by_scikit_learn(draws: int) -> float:
    """The same by copying the rows of the members drawn."""
    order = np.argsort(_few["member"], kind="stable")
    labels, scores, member = (_few[name][order] for name in ("labels", "scores", "member"))
    _, starts, sizes = np.unique(member, return_index=True, return_counts=True)
    generator = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        drawn = generator.integers(0, len(starts), len(starts))
        # Row numbers of all drawn members, without a loop over them.
        ends = np.cumsum(sizes[drawn])
        rows = np.arange(ends[-1]) + np.repeat(starts[drawn] - (ends - sizes[drawn]), sizes[drawn])
        values.append(roc_auc_score(labels[rows], scores[rows]))
    return float(np.std(values, ddof=1))


if __name__ == "__main__":
    _child.serve(
        {
            "warm_up": warm_up,
            "auc": auc,
            "auc_by_scikit_learn": auc_by_scikit_learn,
            "grouped_auc": grouped_auc,
            "grouped_auc_by_scikit_learn": grouped_auc_by_scikit_learn,
            "bootstrap": bootstrap,
            "bootstrap_by_scikit_learn": bootstrap_by_scikit_learn,
        }
    )
