"""Who is new to a version and who is rare: train rows of each member and item, and what came since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64
from memberwise.data.pipeline import FeaturePipeline

RARE = 5
"""A member with at most so many train rows is infrequent."""


class Seen:
    """Train rows of each member and item.

    Parameters
    ----------
    arrays
        ``<entity>.ids`` (sorted hashes) and ``<entity>.rows`` for ``member`` and ``item``.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    @classmethod
    def of(cls, train: Mapping[str, npt.NDArray[Any]]) -> Seen:
        """Count the rows of train."""
        arrays: Arrays = {}
        for entity in ("member", "item"):
            ids, rows = np.unique(train[entity], return_counts=True)
            arrays[f"{entity}.ids"], arrays[f"{entity}.rows"] = ids, rows
        return cls(arrays)

    def rows(self, entity: str, ids: U64) -> npt.NDArray[np.int64]:
        """Train rows of each id."""
        known, rows = self._arrays[f"{entity}.ids"], np.asarray(self._arrays[f"{entity}.rows"], np.int64)
        place = np.searchsorted(known, ids)
        hit = np.append(known, 0)[place] == ids
        return np.where(hit, np.append(rows, 0)[place], 0)

    def most(self, entity: str, count: int) -> U64:
        """Ids with most train rows, most first."""
        rows = np.asarray(self._arrays[f"{entity}.rows"], np.int64)
        ids: U64 = self._arrays[f"{entity}.ids"][np.argsort(-rows, kind="stable")[:count]]
        return ids

    def segments(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.bool_]]:
        """Rows to look at apart."""
        members = self.rows("member", np.asarray(arrays["member"], np.uint64))
        items = self.rows("item", np.asarray(arrays["item"], np.uint64))
        found = {
            "new members": members == 0,
            f"infrequent members (1-{RARE} train rows)": (members > 0) & (members <= RARE),
            f"frequent members (> {RARE})": members > RARE,
            "new items": items == 0,
        }
        return {name: mask for name, mask in found.items() if mask.any()}

    def to_arrays(self) -> Arrays:
        """For saving."""
        return self._arrays


def known(
    pipeline: FeaturePipeline, seen: Seen, entity: Literal["member", "item"], ids: U64
) -> npt.NDArray[np.bool_]:
    """Which of these ids a version has anything of their own about: rows of train, a row of the entity's
    table, counts under the id alone, a history or a vector."""
    column = pipeline.schema.entities[entity].id
    found = seen.rows(entity, ids) > 0
    for aggregate in pipeline.aggregates:
        if aggregate.spec.by == [column]:
            found |= aggregate.knows(ids)
    if entity == "member":
        for history in pipeline.histories.values():
            found |= history.knows(ids)
    if entity in pipeline.tables:
        found |= pipeline.tables[entity].rows(ids) >= 0
    for line in pipeline.vectors.values():
        if line.entity == entity:
            found |= np.isin(ids, np.asarray(line.keys, np.uint64))
    return found
