"""Rows that versions share until one of them changes some: a copy costs nothing, a change what it touches.

The state of a version is large, and an update moves few of its rows. Its copy therefore reads the same
arrays, which nobody writes to any more (the *base*), and keeps the rows that it changes or adds beside them.
Kernels see none of this: they get the rows that they will touch, gathered, under codes of their own. What
nobody shares is handed to them as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memberwise.data import hashing
from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64, HashIndex
from memberwise.data.times import I64

AnyArray = npt.NDArray[Any]
Codes = npt.NDArray[np.integer[Any]]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layered:
    """An array told as a base that is shared and what differs from it; numpy reads it as the whole array.

    Attributes
    ----------
    base : ndarray, shape [B, ...]
        Nobody writes to it.
    rows : ndarray of int64, shape [r]
        In order, below B: those that may differ.
    values : ndarray, shape [r, ...]
        What they are.
    tail : ndarray, shape [t, ...]
        Rows behind the base.
    """

    base: AnyArray
    rows: I64
    values: AnyArray
    tail: AnyArray

    @classmethod
    def of(cls, array: AnyArray | Layered) -> Layered:
        """An array of which nothing differs from itself."""
        if isinstance(array, Layered):
            return array
        return cls(array, np.zeros(0, np.int64), array[:0], array[:0])

    def __len__(self) -> int:
        return len(self.base) + len(self.tail)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (len(self), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the whole array."""
        return self.base.dtype

    @property
    def nbytes(self) -> int:
        """Of the whole array."""
        return self.base.nbytes + self.tail.nbytes

    def at(self, rows: I64) -> AnyArray:
        """Rows of the base as they stand now. ``rows`` in order, all those that differ among them."""
        found = self.base[rows]
        found[np.searchsorted(rows, self.rows)] = self.values
        return found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        whole = np.concatenate([self.base, self.tail])
        whole[self.rows] = self.values
        return whole if dtype is None else whole.astype(dtype, copy=False)


Views = dict[str, AnyArray | Layered]
"""Arrays by name, some of them told as a base that is shared and what differs from it."""


def key_view(index: HashIndex) -> AnyArray | Layered:
    """The keys of an index by code; a part of them that is shared is not copied."""
    base, new = index.layers
    return Layered(base, np.zeros(0, np.int64), base[:0], new) if len(new) else base


def whole(views: Views) -> Arrays:
    """The arrays themselves."""
    return {name: np.asarray(view) for name, view in views.items()}


class Rows:
    """Arrays with a row for every code 0, 1, 2, ..., of which copies share what they do not change.

    Parameters
    ----------
    arrays
        By name, a row for every code so far. They may be longer than that: see `size`.
    fill
        What new rows of an array hold, where it is not zero.
    size : int, optional
        Codes so far; default: the length of the arrays.
    """

    def __init__(
        self, arrays: Mapping[str, AnyArray], fill: Mapping[str, int] | None = None, size: int | None = None
    ) -> None:
        self._arrays, self._fill = dict(arrays), dict(fill or {})
        self.size = len(next(iter(self._arrays.values()))) if size is None else size
        self._lent = False  # others read these arrays: whoever writes does so beside them
        self._place: HashIndex | None = None  # where the rows stand that differ from the base, if it is one
        self._beside: dict[str, AnyArray] = {}

    def copy(self) -> Self:
        """The same rows; neither sees what becomes of them in the other."""
        other = type(self)(self._arrays, self._fill, self.size)
        if self._place is None:
            self._lent = other._lent = True
        else:
            other._place = self._place.copy()
            other._beside = {k: a[: len(self._place)].copy() for k, a in self._beside.items()}
        return other

    def make_room(self, size: int) -> None:
        """Have a row for every code below `size`."""
        if size <= self.size:
            return
        if self._place is None and not self._lent:
            self._arrays = {k: grown(a, size, self._fill.get(k, 0)) for k, a in self._arrays.items()}
        else:
            self._layer()
        self.size = size

    def take(self, changing: Sequence[Codes], reading: Sequence[Codes]) -> Taken:
        """Rows for a kernel, with those that it may change; whoever takes them gives them back.

        Codes below 0 stand for no row.
        """
        moving = any(len(codes) for codes in changing)
        if self._place is None and not (self._lent and moving):
            return Taken(self._arrays)
        local = HashIndex()
        for codes in changing:
            local.add(_hashed(codes))
        changed = len(local)
        for codes in reading:
            local.add(_hashed(codes))
        arrays = self.get(_codes(local.keys))

        def give_back() -> None:
            if changed:
                self.put(_codes(local.keys[:changed]), {k: a[:changed] for k, a in arrays.items()})

        return Taken(arrays, local, give_back)

    def get(self, codes: Codes) -> dict[str, AnyArray]:
        """Copies of some rows. Codes are different, none below 0."""
        if self._place is None:
            return {k: a[codes] for k, a in self._arrays.items()}
        place = self._place.find(_hashed(codes))
        beside = np.flatnonzero(place >= 0)
        kept = np.flatnonzero((place < 0) & (codes < self._base_size))
        found = {}
        for name, base in self._arrays.items():
            rows = np.full((len(codes), *base.shape[1:]), self._fill.get(name, 0), base.dtype)
            rows[kept] = base[codes[kept]]
            rows[beside] = self._beside[name][place[beside]]
            found[name] = rows
        return found

    def put(self, codes: Codes, rows: Mapping[str, AnyArray]) -> None:
        """Replace some rows; as `get`."""
        if self._lent:
            self._layer()
        if self._place is None:
            for name, array in self._arrays.items():
                array[codes] = rows[name]
            return
        place = self._place.add(_hashed(codes))
        for name, values in rows.items():
            self._beside[name] = grown(self._beside[name], len(self._place))
            self._beside[name][place] = values
        if hashing.much(len(self._place), self._base_size):
            self._fold()

    def views(self) -> Views:
        """The arrays as they stand; a part of them that is shared is not copied."""
        if self._place is None:
            return {k: a[: self.size] for k, a in self._arrays.items()}
        codes, base = _codes(self._place.keys), self._base_size
        order = np.argsort(codes)
        order, more = order[codes[order] < base], order[codes[order] >= base]
        found: Views = {}
        for name, array in self._arrays.items():
            tail = np.full((self.size - base, *array.shape[1:]), self._fill.get(name, 0), array.dtype)
            tail[codes[more] - base] = self._beside[name][more]
            found[name] = Layered(array, codes[order], self._beside[name][order], tail)
        return found

    @property
    def _base_size(self) -> int:
        return len(next(iter(self._arrays.values())))

    def _layer(self) -> None:
        """From now on, what changes stands beside."""
        if self._place is None:
            self._arrays = {k: a[: self.size] for k, a in self._arrays.items()}
            self._place, self._lent = HashIndex(), False
            self._beside = {k: a[:0].copy() for k, a in self._arrays.items()}

    def _fold(self) -> None:
        """Arrays of its own again: so much has changed that keeping it beside costs more."""
        self._arrays = whole(self.views())
        self._place, self._beside = None, {}


@dataclass(frozen=True)
class Taken:
    """Rows that a kernel works on.

    Attributes
    ----------
    arrays
        By name.
    give_back
        To be called when it has.
    """

    arrays: dict[str, AnyArray]
    _local: HashIndex | None = None
    give_back: Callable[[], None] = lambda: None

    def codes(self, codes: Codes, parts: Sequence[slice] = (slice(None),)) -> I32:
        """Where rows stand in the arrays taken, as far as these parts of `codes` go."""
        if self._local is None:
            return np.asarray(codes, np.int32)
        found = np.empty(len(codes), np.int32)
        for part in parts:
            found[part] = self._local.find(_hashed(codes[part]))
        return found


def grown(array: AnyArray, size: int, fill: int = 0) -> AnyArray:
    """The array with room for `size` rows, doubled when it is too small."""
    if size <= len(array):
        return array
    bigger = np.full((max(size, 2 * len(array), 1024), *array.shape[1:]), fill, array.dtype)
    bigger[: len(array)] = array
    return bigger


def _hashed(codes: Codes) -> U64:
    """Codes as keys of an index: 0 is missing there, as below 0 is here."""
    return (codes.astype(np.int64) + 1).astype(np.uint64)


def _codes(keys: U64) -> I64:
    return keys.astype(np.int64) - 1
