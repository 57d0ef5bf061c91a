"""The supports that a version keeps: the latest rows of every entity, so that a refresh needs no log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import U64

Arrays = dict[str, npt.NDArray[Any]]


class Supports:
    """The most recent rows of every key of every meta block, each row once.

    Parameters
    ----------
    arrays
        One row per event, in time order (`memberwise.data.pipeline.FeaturePipeline.encode`), with ``time``.
    keys : dict of ndarray of uint64, shape [n]
        Key of each row by meta block.
    size
        Rows kept per key.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], keys: Mapping[str, U64], size: int) -> None:
        self.size = size
        kept = np.zeros(len(arrays["time"]), bool)
        for values in keys.values():
            kept |= newest(values, size)
        rows = np.flatnonzero(kept)
        self.arrays: Arrays = {k: np.ascontiguousarray(a[rows]) for k, a in arrays.items()}
        self.keys: dict[str, U64] = {k: np.ascontiguousarray(v[rows]) for k, v in keys.items()}

    def __len__(self) -> int:
        return len(self.arrays["time"])

    def extended(self, arrays: Mapping[str, npt.NDArray[Any]], keys: Mapping[str, U64]) -> Supports:
        """With newer rows; what no key needs any more is dropped."""
        joined = {k: np.concatenate([a, arrays[k]]) for k, a in self.arrays.items()}
        return Supports(joined, {k: np.concatenate([v, keys[k]]) for k, v in self.keys.items()}, self.size)

    def without(self, array: str, value: np.uint64) -> Supports:
        """Without the rows whose `array` (``member``) is a value: what forgetting someone means here."""
        stay = self.arrays[array] != value
        return Supports(
            {k: a[stay] for k, a in self.arrays.items()},
            {k: v[stay] for k, v in self.keys.items()},
            self.size,
        )

    def to_arrays(self) -> Arrays:
        """For saving."""
        return {f"row.{k}": a for k, a in self.arrays.items()} | {f"key.{k}": v for k, v in self.keys.items()}

    @classmethod
    def from_arrays(cls, state: Mapping[str, npt.NDArray[Any]], size: int) -> Supports:
        """The inverse of `to_arrays`."""
        rows = {k[4:]: v for k, v in state.items() if k.startswith("row.")}
        return cls(rows, {k[4:]: v for k, v in state.items() if k.startswith("key.")}, size)


def newest(keys: U64, size: int) -> npt.NDArray[np.bool_]:
    """Whether a row is one of the last `size` of its key; rows are in time order, key 0 is none."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    kept = np.zeros(len(keys), bool)
    kept[order] = ends - np.arange(len(keys)) <= size
    return kept & (keys != 0)
