"""Edges that events make: which events, how strong, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import broadcast, evaluate, refuse_other_rows, sql
from memberwise.graph.edges import Affinity, Engagement
from memberwise.graph.tables import EdgeArrays

I32 = npt.NDArray[np.int32]


class TimedEdges:
    """Edges of one family gathered chunk by chunk."""

    def __init__(self, edge: Engagement | Affinity, where: str) -> None:
        self.edge, self.where = edge, where
        self.condition = None if edge.where is None else sql(edge.where, f"{where}.where")
        self.weight = sql(edge.weight, f"{where}.weight") if isinstance(edge.weight, str) else None
        self.parts: list[tuple[I32, I32, npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
        self.tried = False

    def columns(self, tasks: Iterable[str]) -> list[str]:
        """Event columns that the expressions read."""
        named = [e for e in (self.condition, self.weight) if e is not None]
        return [c for e in named for c in e.meta.root_names() if c not in set(tasks)]

    def rows_and_weights(self, rows: pl.DataFrame, tasks: Sequence[str]) -> tuple[Any, Any]:
        """Which events become edges, and how strong each event is."""
        if not self.tried and len(rows) > 1:
            for part, e in (("where", self.condition), ("weight", self.weight)):
                if e is not None:
                    refuse_other_rows(rows, e, f"{self.where}.{part}")
            self.tried = True
        if self.condition is None:
            keep = rows.select(pl.any_horizontal(pl.col(t) > 0 for t in tasks).fill_null(False)).to_series()
        else:
            found = broadcast(evaluate(rows, self.condition, f"{self.where}.where"), len(rows))
            keep = found.cast(pl.Boolean, strict=False).fill_null(False)
        if self.weight is None:
            weight = np.full(len(rows), self.edge.weight, np.float32)
        else:
            strength = broadcast(evaluate(rows, self.weight, f"{self.where}.weight"), len(rows))
            weight = strength.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy()
        return keep.to_numpy(), weight

    def arrays(self, edge_type: tuple[str, str, str]) -> EdgeArrays:
        """All of them."""
        empty = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32))
        columns = zip(*(self.parts or [empty]), strict=True)
        source, target, time, weight = (np.concatenate(c) for c in columns)
        plain = self.weight is None and self.edge.weight == 1.0
        return EdgeArrays(
            edge_type,
            source,
            target,
            time,
            None if plain else weight,
            reverse=self.edge.reverse,
            self_loops="drop",
        )
