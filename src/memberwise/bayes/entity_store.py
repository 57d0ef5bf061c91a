"""Where the posteriors of millions of entities live: flat arrays, in memory or mapped from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import BundleError


class GrowingArray:
    """A one-dimensional array that grows at its end, in memory or as a memory-mapped file.

    Parameters
    ----------
    dtype : type
        Element type.
    path : path, optional
        File to map; None keeps the array in memory.
    """

    def __init__(self, dtype: npt.DTypeLike, path: Path | None = None) -> None:
        self._dtype, self._path, self.size = np.dtype(dtype), path, 0
        self._buffer = self._allocate(1024)

    @property
    def data(self) -> npt.NDArray[Any]:
        """The elements in use; a view, valid until the next `grow`."""
        return self._buffer[: self.size]

    def grow(self, count: int) -> int:
        """Append ``count`` zeros and return the index of the first."""
        start = self.size
        if start + count > self._buffer.size:
            self._resize(max(start + count, self._buffer.size * 3 // 2))
        self.size = start + count
        return start

    def _resize(self, capacity: int) -> None:
        if self._path is None:
            bigger = np.zeros(capacity, self._dtype)
            bigger[: self.size] = self.data
            self._buffer = bigger
            return
        assert isinstance(self._buffer, np.memmap)
        self._buffer.flush()
        self._buffer = self._allocate(capacity)

    def _allocate(self, capacity: int) -> npt.NDArray[Any]:
        if self._path is None:
            return np.zeros(capacity, self._dtype)
        with open(self._path, "ab") as file:  # a longer file reads as zeros and takes no disk until used
            file.truncate(capacity * self._dtype.itemsize)
        return np.memmap(self._path, dtype=self._dtype, mode="r+", shape=(capacity,))


class EntityStore:
    """Mean and packed precision of every entity, float32, found by id.

    An entity's record may hold fewer features than the model has: those it has ever shown. Records that
    outgrow their place move to the end; `compacted` squeezes out what they leave behind.

    Parameters
    ----------
    full : bool
        Whether the precision is a packed triangle or a diagonal.
    directory : path, optional
        Where to map the arrays; None keeps them in memory.
    """

    _KINDS = (
        ("dim", np.int32), ("mean_at", np.int64), ("pack_at", np.int64), ("last_step", np.int32),
        ("n_rows", np.int64), ("feature", np.int32), ("mean", np.float32), ("pack", np.float32),
    )  # fmt: skip

    def __init__(self, *, full: bool = True, directory: str | os.PathLike[str] | None = None) -> None:
        self.full = full
        self.slots: dict[str, int] = {}
        base = None if directory is None else Path(directory)
        if base is not None:
            base.mkdir(parents=True, exist_ok=True)
            if any((base / f"{name}.bin").exists() for name, _ in self._KINDS):
                raise BundleError(
                    "the directory already holds a store", where=str(base), fix="name a new one"
                )
        for name, dtype in self._KINDS:
            setattr(self, name, GrowingArray(dtype, None if base is None else base / f"{name}.bin"))

    dim: GrowingArray
    mean_at: GrowingArray
    pack_at: GrowingArray
    last_step: GrowingArray
    n_rows: GrowingArray
    feature: GrowingArray
    mean: GrowingArray
    pack: GrowingArray

    def __deepcopy__(self, memo: object) -> EntityStore:
        """The same in memory, without a walk over every id."""
        other = EntityStore(full=self.full)
        other.slots = self.slots.copy()
        for name, _ in self._KINDS:
            mine = getattr(self, name).data
            theirs = getattr(other, name)
            theirs.grow(mine.size)
            theirs.data[:] = mine
        return other

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def find(self, ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the slot of each id, -1 for those unknown."""
        get = self.slots.get
        return np.fromiter((get(i, -1) for i in ids), dtype=np.int64)

    def packed_size(self, dim: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many precision numbers a record of each dimension takes."""
        return dim * (dim + 1) // 2 if self.full else dim

    def make_room(
        self, ids: list[str], slots: npt.NDArray[np.int64], dims: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Give every id a slot with room for its dimension and return the slots.

        A record that moves is not copied, and its old place stays readable until `erase`.
        """
        slots = slots.copy()
        new = np.flatnonzero(slots < 0)
        first = self.dim.size
        for name in ("dim", "mean_at", "pack_at", "last_step", "n_rows"):
            getattr(self, name).grow(new.size)
        slots[new] = np.arange(first, first + new.size)
        self.slots.update((ids[e], int(slots[e])) for e in new)
        moved = np.flatnonzero(self.dim.data[slots] != dims)
        sizes, packs = dims[moved], self.packed_size(dims[moved])
        start, pack_start = self.mean.grow(int(sizes.sum())), self.pack.grow(int(packs.sum()))
        self.feature.grow(int(sizes.sum()))
        self.mean_at.data[slots[moved]] = start + np.cumsum(sizes) - sizes
        self.pack_at.data[slots[moved]] = pack_start + np.cumsum(packs) - packs
        self.dim.data[slots[moved]] = sizes
        return slots

    def forget(self, entity: str) -> bool:
        """Erase all numbers of an entity and its id; False if it was not known."""
        slot = self.slots.pop(entity, None)
        if slot is None:
            return False
        one = np.array([slot])
        self.erase(
            *(getattr(self, name).data[one].astype(np.int64) for name in ("mean_at", "pack_at", "dim"))
        )
        self.dim.data[slot] = self.n_rows.data[slot] = self.last_step.data[slot] = 0
        return True

    def record(
        self, entity: str
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return features, mean and precision matrix of an entity as stored.

        Raises
        ------
        KeyError
            The entity is not known.
        """
        slot = self.slots[entity]
        d, at, pack_at = int(self.dim.data[slot]), int(self.mean_at.data[slot]), int(self.pack_at.data[slot])
        packed = self.pack.data[pack_at : pack_at + int(self.packed_size(np.array(d)))].astype(float)
        matrix = np.diag(packed) if not self.full else np.zeros((d, d))
        if self.full:
            matrix[np.tril_indices(d)] = packed
            matrix += np.tril(matrix, -1).T
        return self.feature.data[at : at + d].copy(), self.mean.data[at : at + d].astype(float), matrix

    def compacted(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of all live entities without gaps, ids in ``slots`` order."""
        slots = np.fromiter(self.slots.values(), dtype=np.int64, count=len(self.slots))
        dims = self.dim.data[slots].astype(np.int64)
        at = _ranges(self.mean_at.data[slots], dims)
        pack_at = _ranges(self.pack_at.data[slots], self.packed_size(dims))
        return {
            "dim": self.dim.data[slots], "last_step": self.last_step.data[slots],
            "n_rows": self.n_rows.data[slots], "feature": self.feature.data[at],
            "mean": self.mean.data[at], "pack": self.pack.data[pack_at],
        }  # fmt: skip

    def restore(self, ids: list[str], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Fill an empty store with what `compacted` returned."""
        dims = arrays["dim"].astype(np.int64)
        slots = self.make_room(ids, np.full(len(ids), -1, np.int64), dims)
        for name in ("last_step", "n_rows"):
            getattr(self, name).data[slots] = arrays[name]
        for name in ("feature", "mean", "pack"):
            getattr(self, name).data[:] = arrays[name]

    def erase(
        self, mean_at: npt.NDArray[np.int64], pack_at: npt.NDArray[np.int64], dims: npt.NDArray[np.int64]
    ) -> None:
        """Zero the numbers at these places, so that nothing of them stays on disk."""
        at = _ranges(mean_at, dims)
        self.mean.data[at], self.feature.data[at] = 0.0, 0
        self.pack.data[_ranges(pack_at, self.packed_size(dims))] = 0.0


def _ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the concatenation of ``start .. start + size - 1`` over all pairs."""
    total = int(sizes.sum())
    before = np.cumsum(sizes) - sizes
    return np.arange(total, dtype=np.int64) + np.repeat(starts - before, sizes)
