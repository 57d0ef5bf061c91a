"""The supports that a version keeps: the latest rows of every entity, so that a refresh needs no log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import U64

Arrays = dict[str, npt.NDArray[Any]]
MAX_PIECES = 16
"""Pieces after which supports are made one again; or when those behind the first hold half as much as it."""


@dataclass(frozen=True)
class Piece:
    """Rows in time order, which do not change.

    Attributes
    ----------
    arrays
        One row per event, with ``time``.
    keys : dict of ndarray of uint64, shape [n]
        Key of each row by meta block; 0 is none.
    """

    arrays: Arrays
    keys: dict[str, U64]

    def __len__(self) -> int:
        return len(self.arrays["time"])

    @cached_property
    def _by_key(self) -> dict[str, tuple[npt.NDArray[np.int64], U64]]:
        """Rows by key and time, and their keys."""
        orders = {name: np.argsort(values, kind="stable") for name, values in self.keys.items()}
        return {name: (order, self.keys[name][order]) for name, order in orders.items()}

    def rows_of(self, name: str, wanted: U64, size: int) -> npt.NDArray[np.int64]:
        """The last `size` rows of each wanted key, in time order; looks at no other row."""
        order, ordered = self._by_key[name]
        ends = np.searchsorted(ordered, wanted, side="right")
        starts = np.maximum(np.searchsorted(ordered, wanted, side="left"), ends - size)
        counts = ends - starts
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(order[np.repeat(starts, counts) + within])

    def prepared(self) -> Piece:
        """Itself, once it has put its rows in the order of its keys: later calls find that done."""
        assert self._by_key is not None
        return self


class Supports:
    """The most recent rows of every key of every meta block, each row once.

    New rows become a piece of their own behind the others, so that an update costs what it brings. Rows that
    no key needs any more are dropped when all pieces become one.

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
        self.pieces: tuple[Piece, ...] = (_newest_of(arrays, keys, size),)

    @classmethod
    def _of(cls, pieces: Sequence[Piece], size: int) -> Supports:
        found = cls.__new__(cls)
        found.size, found.pieces = size, tuple(pieces)
        return found

    def __len__(self) -> int:
        return sum(len(p) for p in self.pieces)

    @property
    def arrays(self) -> Arrays:
        """All rows, in time order."""
        return _joined([p.arrays for p in self.pieces])

    @property
    def keys(self) -> dict[str, U64]:
        """Their keys."""
        return _joined([p.keys for p in self.pieces])

    def of(self, name: str, wanted: U64) -> tuple[Arrays, U64]:
        """Rows of some keys of a meta block in time order, at least the last `size` of each, and their keys.

        The cost is that of these rows: no others are read.
        """
        rows = [p.rows_of(name, wanted, self.size) for p in self.pieces]
        some = [{k: a[r] for k, a in p.arrays.items()} for p, r in zip(self.pieces, rows, strict=True)]
        keys = [p.keys[name][r] for p, r in zip(self.pieces, rows, strict=True)]
        return _joined(some), np.concatenate(keys)

    def extended(self, arrays: Mapping[str, npt.NDArray[Any]], keys: Mapping[str, U64]) -> Supports:
        """With newer rows."""
        new = _newest_of(arrays, keys, self.size)
        behind = sum(len(p) for p in self.pieces[1:]) + len(new)
        if len(self.pieces) < MAX_PIECES and behind <= len(self.pieces[0]) // 2:
            return self._of([*self.pieces, new], self.size)
        joined = _joined([*(p.arrays for p in self.pieces), new.arrays])
        return Supports(joined, _joined([*(p.keys for p in self.pieces), new.keys]), self.size)

    def mapped(self, change: Callable[[Arrays], Arrays]) -> Supports:
        """With the arrays of every piece changed, row by row."""
        return self._of([Piece(change(p.arrays), p.keys).prepared() for p in self.pieces], self.size)

    def without(self, array: str, value: np.uint64) -> Supports:
        """Without the rows whose `array` (``member``) is a value: what forgetting someone means here."""
        arrays = self.arrays
        stay = arrays[array] != value
        return Supports(
            {k: a[stay] for k, a in arrays.items()}, {k: v[stay] for k, v in self.keys.items()}, self.size
        )

    def to_arrays(self) -> Arrays:
        """For saving; the arrays of a piece stay the same objects as long as it lives."""
        found: Arrays = {"pieces": np.array([len(self.pieces)])}
        for i, p in enumerate(self.pieces):
            found |= {f"{i}.row.{k}": a for k, a in p.arrays.items()}
            found |= {f"{i}.key.{k}": v for k, v in p.keys.items()}
        return found

    @classmethod
    def from_arrays(cls, state: Mapping[str, npt.NDArray[Any]], size: int) -> Supports:
        """The inverse of `to_arrays`."""

        def part(i: int, kind: str) -> Arrays:
            start = f"{i}.{kind}."
            return {k.removeprefix(start): a for k, a in state.items() if k.startswith(start)}

        pieces = range(int(state["pieces"][0]))
        return cls._of([Piece(part(i, "row"), part(i, "key")).prepared() for i in pieces], size)


def newest(keys: U64, size: int) -> npt.NDArray[np.bool_]:
    """Whether a row is one of the last `size` of its key; rows are in time order, key 0 is none."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    kept = np.zeros(len(keys), bool)
    kept[order] = ends - np.arange(len(keys)) <= size
    return kept & (keys != 0)


def _newest_of(arrays: Mapping[str, npt.NDArray[Any]], keys: Mapping[str, U64], size: int) -> Piece:
    """What any key needs."""
    kept = np.zeros(len(arrays["time"]), bool)
    for values in keys.values():
        kept |= newest(values, size)
    rows = np.flatnonzero(kept)
    return Piece(
        {k: np.ascontiguousarray(a[rows]) for k, a in arrays.items()},
        {k: np.ascontiguousarray(v[rows]) for k, v in keys.items()},
    ).prepared()


def _joined(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    if len(parts) == 1:
        return dict(parts[0])
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
