"""The nodes of one type: ids, features and content vectors, by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.hashing import U64, HashIndex, as_text, hash_values
from memberwise.errors import DataError

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Nodes:
    """Nodes of one type; row `v` is node `v` everywhere in the graph.

    Attributes
    ----------
    type
        Name of the node type: an entity (``member``), or an attribute (``item.genres``).
    ids : polars.Series of str, shape [n]
        Distinct and not empty. ``17`` and ``"17"`` are the same id.
    features : mapping of str to ndarray, n rows each
        Named inputs of the encoder.
    content : ndarray of float32, shape [n, d], optional
        Vectors made elsewhere from what the node contains (text, profile); zero where there is none.

    Raises
    ------
    DataError
        If ids repeat or are missing, or an array has not one row per id.
    """

    type: str
    ids: pl.Series
    features: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    content: F32 | None = None

    def __post_init__(self) -> None:
        where = f"nodes of type {self.type!r}"
        hashes = hash_values(self.ids)
        if missing := int((hashes == 0).sum()):
            raise DataError(f"{missing} ids are missing", where=where, fix="drop these rows")
        index = HashIndex(hashes)
        if len(index) != len(hashes):
            raise DataError(f"{len(hashes) - len(index)} ids repeat", where=where, fix="keep one row per id")
        arrays = dict(self.features) | ({"content": self.content} if self.content is not None else {})
        for name, array in arrays.items():
            if len(array) != len(hashes):
                raise DataError(f"{name}: {len(array)} rows for {len(hashes)} ids", where=where)
        if self.content is not None and not np.isfinite(self.content).all():
            raise DataError(
                "a content vector is not finite", where=where, fix="use zeros where there is none"
            )
        object.__setattr__(self, "ids", as_text(self.ids).alias("id"))
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hashes(self) -> U64:
        """Hashed ids. Shape [n]."""
        return self._index.keys  # type: ignore[attr-defined]

    def rows(self, hashes: U64) -> I32:
        """Node of each hashed id (`memberwise.data.hashing.hash_values`), -1 where unknown."""
        return self._index.find(hashes)  # type: ignore[attr-defined]

    def find(self, ids: pl.Series) -> I32:
        """Node of each id, -1 where unknown."""
        return self.rows(hash_values(ids))

    def extended(self, ids: pl.Series) -> Nodes:
        """With new ids behind the old ones; their features and content are zero."""
        more = len(ids)

        def pad(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])

        features = {name: pad(a) for name, a in self.features.items()}
        content = None if self.content is None else pad(self.content)
        return Nodes(self.type, pl.concat([self.ids, as_text(ids).alias("id")]), features, content)


def numbered(type: str, count: int, **arrays: Any) -> Nodes:
    """Nodes whose ids are their numbers, ``"0"`` to ``"count - 1"``."""
    return Nodes(type, pl.int_range(count, eager=True).cast(pl.String), **arrays)
