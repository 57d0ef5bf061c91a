"""What the encoder reads of every node: rows of the id table, and a matrix of features by type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import combine, hash_text
from memberwise.errors import DataError
from memberwise.graph.node_input import IdRows, type_counts
from memberwise.graph.nodes import Nodes
from memberwise.graph.queries import Arrays, NodeNumbers
from memberwise.graph.store import HeteroGraph

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NodeTable:
    """Inputs of all nodes of a graph.

    Attributes
    ----------
    numbers : NodeNumbers
        One numbering over all types.
    ids : ndarray of int32, [N, hashes]
        Rows of the id table.
    features : dict of ndarray float32, [n, F]
        By type, if it has any.
    """

    numbers: NodeNumbers
    ids: npt.NDArray[np.int32]
    features: Mapping[str, F32]

    @classmethod
    def of(cls, graph: HeteroGraph, rows: IdRows | None) -> NodeTable:
        """Read a graph."""
        numbers = NodeNumbers.of({t: graph.count(t) for t in graph.node_types})
        found = {t: feature_matrix(graph.nodes[t]) for t in numbers.types}
        ids = np.zeros((numbers.total, 1), np.int32)
        table = cls(numbers, ids, {t: x for t, x in found.items() if x.shape[1]})
        return table if rows is None else table.knowing(graph, rows)

    def knowing(self, graph: HeteroGraph, rows: IdRows) -> NodeTable:
        """The same inputs with other ids known."""
        parts = [
            rows.of(typed_hashes(graph.nodes[t]), np.full(graph.count(t), i))
            for i, t in enumerate(self.numbers.types)
        ]
        return replace(self, ids=np.concatenate(parts))

    @property
    def widths(self) -> dict[str, int]:
        """Width of the features of every type, 0 for none."""
        return {t: self.features[t].shape[1] if t in self.features else 0 for t in self.numbers.types}

    def gather(self, nodes: I64) -> Arrays:
        """Inputs of distinct nodes, sorted by number."""
        counts = type_counts(nodes, self.numbers.offsets)
        out: Arrays = {"ids": self.ids[nodes], "counts": np.array(counts, np.int64)}
        at = 0
        for i, (name, n) in enumerate(zip(self.numbers.types, counts, strict=True)):
            if name in self.features:
                out[f"features.{name}"] = self.features[name][nodes[at : at + n] - self.numbers.offsets[i]]
            at += n
        return out


def typed_hashes(nodes: Nodes) -> npt.NDArray[np.uint64]:
    """Hashed ids that differ between types: member 7 is not item 7."""
    return combine(nodes.hashes, np.full(len(nodes), hash_text(nodes.type), np.uint64))


def feature_matrix(nodes: Nodes) -> F32:
    """Numeric features and content vectors side by side, ``[n, F]``; what is missing (NaN) is zero.

    Raises
    ------
    DataError
        If a feature holds no numbers.
    """
    columns = []
    for name, array in nodes.features.items():
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise DataError(
                f"feature {name!r} holds {array.dtype}, numbers are expected",
                where=f"nodes of type {nodes.type!r}",
                fix="make nodes of its values, joined by edges",
            )
        columns.append(np.nan_to_num(array.astype(np.float32)).reshape(len(nodes), -1))
    if nodes.content is not None:
        columns.append(nodes.content.astype(np.float32))
    return np.concatenate(columns, 1) if columns else np.zeros((len(nodes), 0), np.float32)
