"""Where the edge that happened stands among all items, for anybody who gives scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from _graph_data import Log
from memberwise.graph.evaluation import ColdNodes
from memberwise.graph.types import reverse_of

F64 = npt.NDArray[np.float64]
Scores = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""From rows of the asked edges to scores of all items, ``[n] -> [n, items]``."""


def ranks(log: Log, scores: Scores, part: str = "test") -> F64:
    """For every asked edge the share of other items that it beats, and its rank from 1. ``[E, 2]``

    Ties count half. Where members do not choose again, what they chose before is left out.
    """
    asked, _ = log.asked(part)
    out = np.empty((len(asked), 2))
    adjacency = log.graph.adjacency[log.relation]
    for first in range(0, len(asked), 250):
        rows = np.arange(first, min(first + 250, len(asked)))
        found = np.asarray(scores(rows), np.float64)
        for i, row in enumerate(rows):
            mine = found[i, asked.destinations[row]]
            others = np.ones(found.shape[1], bool)
            others[asked.destinations[row]] = False
            if not log.repeats:
                others[adjacency.neighbours(int(asked.sources[row]), int(asked.times[row]))] = False
            theirs = found[i, others]
            above = np.count_nonzero(theirs > mine) + 0.5 * np.count_nonzero(theirs == mine)
            out[row] = 1.0 - above / max(len(theirs), 1), 1.0 + above
    return out


def figures(found: F64) -> dict[str, float]:
    """AUC, MRR and recall@50 of `ranks`."""
    return {
        "AUC": float(found[:, 0].mean()),
        "MRR": float((1 / found[:, 1]).mean()),
        "recall@50": float((found[:, 1] <= 50).mean()),
    }


def cold(log: Log) -> ColdNodes:
    """Nodes with few edges in train."""
    there, back = (log.graph.adjacency[e] for e in (log.relation, reverse_of(log.relation)))
    return ColdNodes.of(there.degrees(log.train_end), back.degrees(log.train_end))
