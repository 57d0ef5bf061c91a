"""What meta learning needs to know of the rows of a log."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from memberwise.meta.episodes import I64, Tasks
from memberwise.meta.inner import Segment


class Rows(Protocol):
    """Rows by number, as tensors: a log in memory, memory-mapped, or the kept supports of a saved version."""

    def features(self, rows: I64) -> Any:
        """What the global block takes; nothing in it depends on z."""
        ...

    def entity(self, rows: I64) -> Tensor:
        """Meta features of the entity as they stood at these rows, ``[R, dim]``; none of its events since."""
        ...

    def labels(self, rows: I64) -> Tensor:
        """Labels ``[R, Y]``, NaN where a task is not defined."""
        ...

    def weights(self, rows: I64) -> Tensor | None:
        """Weights ``[R, Y]``."""
        ...


def segment(rows: Rows, tasks: Tasks, which: str) -> Segment:
    """The supports or the queries of tasks as tensors."""
    numbers, owner = tasks.rows(which)
    return Segment(
        rows.features(numbers), rows.labels(numbers), rows.weights(numbers), torch.from_numpy(owner)
    )


def entity_features(rows: Rows, tasks: Tasks) -> Tensor:
    """Meta features of each entity, as of its last support row; without support, of its first query row.

    Raises
    ------
    ValueError
        If a task has neither.
    """
    has_support = tasks.support_sizes > 0
    if not (has_support | (tasks.query_sizes > 0)).all():
        raise ValueError("a task without support and query has no row to read features from")
    place = np.where(has_support, tasks.support[:, 1] - 1, tasks.query[:, 0])
    return rows.entity(tasks.order[place])


class TensorRows:
    """Rows whose global features are one matrix.

    Parameters
    ----------
    x : Tensor, [n, d]
        Features of the global block.
    m : Tensor, [n, dim]
        Meta features.
    y : Tensor, [n, Y]
        Labels.
    w : Tensor, [n, Y], optional
        Weights.
    """

    def __init__(self, x: Tensor, m: Tensor, y: Tensor, w: Tensor | None = None) -> None:
        self.x, self.m, self.y, self.w = x, m, y, w

    def features(self, rows: I64) -> Tensor:
        """``[R, d]``"""
        return self.x[torch.from_numpy(rows)]

    def entity(self, rows: I64) -> Tensor:
        """``[R, dim]``"""
        return self.m[torch.from_numpy(rows)]

    def labels(self, rows: I64) -> Tensor:
        """``[R, Y]``"""
        return self.y[torch.from_numpy(rows)]

    def weights(self, rows: I64) -> Tensor | None:
        """``[R, Y]``"""
        return None if self.w is None else self.w[torch.from_numpy(rows)]
