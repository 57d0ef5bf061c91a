"""What a graph is built from: tables of nodes and edges, checked before a single edge is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.hashing import hash_values
from memberwise.data.times import parse_time
from memberwise.errors import ConfigError, DataError
from memberwise.graph.adjacency import Coo
from memberwise.graph.types import EdgeType, edge_name

MAX_EDGES = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class EdgeTable:
    """Edges of one type by the ids of their ends, one row each, in any order.

    Attributes
    ----------
    edge_type
        Source type, relation, target type.
    source, target : polars.Series, shape [E]
        Ids; a missing one is an error.
    time : polars.Series or ndarray, shape [E], optional
        Moment of the edge: a time, or an integer in microseconds since 1970. Without it the edges are
        timeless: they hold at every moment. A table has times for all of its rows or for none.
    weight : ndarray of float, shape [E], optional
        Strength, finite and not negative; 1 if not given. An edge of weight 0 is never drawn by weight.
    features : ndarray, E rows, optional
    reverse
        Also follow the edges backwards, under the relation ``rev_...``.
    duplicates
        ``keep``: every row is an edge (two ratings of one film are two). ``merge``: rows with the same ends
        become one, their weights added; only without times, where it cannot carry a later event into an
        earlier edge. ``error``: refuse them.
    self_loops
        What to do with edges from a node to itself, between nodes of one type.
    unknown_ids
        What to do with ids that the table of nodes does not hold; ``add`` makes new nodes of them.
    """

    edge_type: EdgeType
    source: pl.Series
    target: pl.Series
    time: pl.Series | npt.NDArray[Any] | None = None
    weight: npt.NDArray[Any] | None = None
    features: npt.NDArray[Any] | None = None
    reverse: bool = True
    duplicates: Literal["keep", "merge", "error"] = "keep"
    self_loops: Literal["error", "drop", "keep"] = "error"
    unknown_ids: Literal["error", "drop", "add"] = "error"


@dataclass(frozen=True)
class EdgeArrays:
    """Edges of one type by the numbers of their ends: `EdgeTable` after ids were looked up.

    Attributes
    ----------
    source, target : ndarray of int, shape [E]
    time : ndarray of int64, shape [E], optional
        Microseconds since 1970, not negative.
    """

    edge_type: EdgeType
    source: npt.NDArray[Any]
    target: npt.NDArray[Any]
    time: npt.NDArray[Any] | None = None
    weight: npt.NDArray[Any] | None = None
    features: npt.NDArray[Any] | None = None
    reverse: bool = True
    duplicates: Literal["keep", "merge", "error"] = "keep"
    self_loops: Literal["error", "drop", "keep"] = "error"

    def checked(self, sources: int, targets: int) -> tuple[Coo, npt.NDArray[Any] | None]:
        """Edges and their features after every rule was applied.

        Raises
        ------
        DataError
            Names what is wrong, and in how many edges.
        """
        where = f"edges {edge_name(self.edge_type)}"
        count = len(self.source)
        columns = {"target": self.target, "time": self.time, "weight": self.weight, "features": self.features}
        for name, column in columns.items():
            if column is not None and len(column) != count:
                raise DataError(f"{name}: {len(column)} rows for {count} edges", where=where)
        if count > MAX_EDGES:
            raise DataError(f"{count:,} edges of one type; at most {MAX_EDGES:,} are supported", where=where)
        for name, ends, nodes in (("source", self.source, sources), ("target", self.target, targets)):
            if count and (int(ends.min()) < 0 or int(ends.max()) >= nodes):
                bad = int(((ends < 0) | (ends >= nodes)).sum())
                raise DataError(f"{bad:,} edges whose {name} is not a node", where=where)
        edges = Coo(
            np.asarray(self.source, np.int32),
            np.asarray(self.target, np.int32),
            None if self.time is None else _check_times(np.asarray(self.time), where),
            None if self.weight is None else _check_weights(np.asarray(self.weight), where),
            np.arange(count, dtype=np.int32),
        )
        edges = self._without_loops(edges, where)
        edges = self._without_duplicates(edges, where, targets)
        return _renumbered(edges, count, self.features)

    def _without_loops(self, edges: Coo, where: str) -> Coo:
        if self.edge_type[0] != self.edge_type[2] or self.self_loops == "keep":
            return edges
        loops = edges.source == edges.target
        if not loops.any():
            return edges
        if self.self_loops == "error":
            raise DataError(
                f"{int(loops.sum()):,} edges lead from a node to itself",
                where=where,
                fix="remove them, or set self_loops to drop or keep",
            )
        return edges.take(np.flatnonzero(~loops))

    def _without_duplicates(self, edges: Coo, where: str, targets: int) -> Coo:
        if self.duplicates == "keep" or not len(edges.source):
            return edges
        if self.duplicates == "merge" and edges.time is not None:
            raise ConfigError(
                "edges with times cannot be merged: a later event would enter an earlier edge",
                where=where,
                fix="keep duplicates, or give the edges without time",
            )
        pair = edges.source.astype(np.int64) * targets + edges.target
        _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
        if len(first) == len(pair):
            return edges
        if self.duplicates == "error":
            raise DataError(
                f"{len(pair) - len(first):,} edges repeat the ends of another",
                where=where,
                fix="remove them, or set duplicates to keep or merge",
            )
        ones = np.ones(len(pair), np.float32)
        weight = np.bincount(inverse, ones if edges.weight is None else edges.weight)
        merged = edges.take(first)._replace(weight=weight.astype(np.float32))
        return merged.take(np.argsort(first))  # in the order of the first of each


def _renumbered(
    edges: Coo, given: int, features: npt.NDArray[Any] | None
) -> tuple[Coo, npt.NDArray[Any] | None]:
    """Edges numbered without gaps, features alike."""
    if len(edges.source) == given:
        return edges, features
    kept = edges.edge
    numbers = np.arange(len(kept), dtype=np.int32)
    return edges._replace(edge=numbers), None if features is None else features[kept]


def _check_times(time: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    if not np.issubdtype(time.dtype, np.integer):
        raise DataError(f"times are {time.dtype}, microseconds as integers are expected", where=where)
    time = time.astype(np.int64, copy=False)
    if bad := int((time < 0).sum()):
        raise DataError(
            f"{bad:,} edges have no time or one before 1970", where=where, fix="drop them or mend the time"
        )
    return time


def _check_weights(weight: npt.NDArray[Any], where: str) -> npt.NDArray[np.float32]:
    weight = weight.astype(np.float32, copy=False)
    if bad := int((~(np.isfinite(weight) & (weight >= 0))).sum()):
        raise DataError(f"{bad:,} weights are not numbers >= 0", where=where)
    return weight


def micros(time: pl.Series | npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """Times of a column in microseconds, -1 where missing; an integer is microseconds already."""
    if isinstance(time, pl.Series):
        return parse_time(time, "us").fill_null(-1).to_numpy()
    if np.issubdtype(time.dtype, np.datetime64):
        return np.where(np.isnat(time), -1, time.astype("datetime64[us]").astype(np.int64))
    if not np.issubdtype(time.dtype, np.integer):
        raise DataError(f"times are {time.dtype}, microseconds as integers are expected", where=where)
    return time.astype(np.int64, copy=False)


def check_ids(ids: pl.Series, where: str) -> npt.NDArray[np.uint64]:
    """Hashed ids, none of them missing."""
    hashes = hash_values(ids)
    if missing := int((hashes == 0).sum()):
        raise DataError(f"{missing:,} ids are missing", where=where, fix="drop these edges")
    return hashes
