"""Vectors that change with time: a row sees the newest one that was ready when it happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from memberwise.data.entities import EntityEmbeddings, read_vectors, vector_column, write_vectors
from memberwise.data.hashing import U64, hash_values
from memberwise.errors import DataError

I64 = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32] | npt.NDArray[np.float16]

_KIND = "embedding-timeline-1"
ALWAYS = np.iinfo(np.int64).min
"""Cut-off of vectors that know no event."""


@dataclass(frozen=True)
class EmbeddingTimeline:
    """Vectors of one kind of entity, of one model, as of several moments.

    For a key k and a row at time t the vector is that of the entry ``(k, c)`` with the largest cut-off
    ``c <= t``. An entry knows only events strictly before its cut-off, so a row never meets a vector that
    has seen its own moment or later. A snapshot may hold only what changed since the one before.

    Attributes
    ----------
    entity
        ``member``, ``item``, ..., or the columns of a combined key.
    version
        Of the model; vectors of different versions never stand in one timeline.
    keys : ndarray of uint64, shape [n]
        Hashed ids, sorted; within a key sorted by cut-off.
    cutoffs : ndarray of int64, shape [n]
        Microseconds.
    vectors : ndarray of float32 or float16, shape [n, d]
        Finite.

    Examples
    --------
    >>> monday = EmbeddingTimeline.at("item", np.array([7, 9], np.uint64), np.eye(2, dtype="f4"), "v1", 100)
    >>> tuesday = monday.append(np.array([9], np.uint64), np.full((1, 2), 5, np.float32), 200)
    >>> rows = tuesday.rows(np.array([7, 9, 9, 9], np.uint64), np.array([250, 99, 100, 250]))
    >>> tuesday.gather(rows).tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [5.0, 5.0]]
    """

    entity: str
    version: str
    keys: U64
    cutoffs: I64
    vectors: Vectors

    def __post_init__(self) -> None:
        where = f"embeddings of {self.entity}"
        if self.vectors.ndim != 2 or not len(self.vectors) == len(self.keys) == len(self.cutoffs):
            raise DataError(
                f"{len(self.keys)} keys, {len(self.cutoffs)} cut-offs and vectors of shape "
                f"{self.vectors.shape} do not go together",
                where=where,
            )
        if not np.isfinite(self.vectors).all():
            raise DataError("a vector is not finite", where=where, fix="drop the entity: it gets the default")
        if (self.keys == 0).any():
            raise DataError("an id is missing", where=where)
        same, later = self.keys[1:] == self.keys[:-1], self.cutoffs[1:] >= self.cutoffs[:-1]
        if not ((self.keys[1:] > self.keys[:-1]) | (same & later)).all():
            order = np.lexsort((self.cutoffs, self.keys))
            for name in ("keys", "cutoffs", "vectors"):
                object.__setattr__(self, name, getattr(self, name)[order])
        if ((np.diff(self.keys) == 0) & (np.diff(self.cutoffs) == 0)).any():
            raise DataError("an id repeats with the same cut-off", where=where)

    # -- make -------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, entity: str, dim: int, version: str = "") -> EmbeddingTimeline:
        """No vectors yet: every row gets the zero vector of this width."""
        return cls.at(entity, np.zeros(0, np.uint64), np.zeros((0, dim), np.float32), version, ALWAYS)

    @classmethod
    def at(cls, entity: str, keys: U64, vectors: Vectors, version: str, cutoff: int) -> EmbeddingTimeline:
        """Vectors as of one moment, by hashed id."""
        return cls(entity, version, keys, np.full(len(keys), cutoff, np.int64), vectors)

    @classmethod
    def of(cls, snapshot: EntityEmbeddings) -> EmbeddingTimeline:
        """The timeline of one table of entity embeddings."""
        hashes = hash_values(snapshot.ids)
        return cls.at(snapshot.entity, hashes, snapshot.vectors, snapshot.version, snapshot.cutoff)

    def append(self, keys: U64, vectors: Vectors, cutoff: int) -> EmbeddingTimeline:
        """With the vectors of a later moment: of all entities, or only of those that changed.

        Raises
        ------
        DataError
            If the moment is not after every moment so far.
        """
        if len(self.cutoffs) and cutoff <= int(self.cutoffs.max()):
            raise DataError(
                "a snapshot must be newer than those before", where=f"embeddings of {self.entity}"
            )
        return EmbeddingTimeline(
            self.entity,
            self.version,
            np.concatenate([self.keys, keys]),
            np.concatenate([self.cutoffs, np.full(len(keys), cutoff, np.int64)]),
            np.concatenate([self.vectors, vectors.astype(self.vectors.dtype)]),
        )

    def merged(self, keys: U64, cutoffs: I64, vectors: Vectors, version: str) -> EmbeddingTimeline:
        """With further entries; one for a key and moment that has one already takes its place.

        Parameters
        ----------
        keys, cutoffs, vectors
            No two of them for the same key and moment.
        version
            Of the outcome.
        """
        order = np.lexsort((cutoffs, keys))
        keys, cutoffs, vectors = keys[order], cutoffs[order], vectors[order]
        at = self.rows(keys, cutoffs)
        there = at >= 0
        there[there] = self.cutoffs[at[there]] == cutoffs[there]
        known = self.vectors
        if there.any():
            known = known.copy()
            known[at[there]] = vectors[there]
        new = ~there
        # Behind the last entry of the key that is older; before all of the key where there is none.
        place = np.where(at >= 0, at + 1, np.searchsorted(self.keys, keys))[new]
        return EmbeddingTimeline(
            self.entity,
            version,
            np.insert(self.keys, place, keys[new]),
            np.insert(self.cutoffs, place, cutoffs[new]),
            np.insert(known, place, vectors[new], axis=0),
        )

    # -- look up ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    def rows(self, keys: U64, times: I64) -> npt.NDArray[np.int32]:
        """Entry that each key may know at its time, -1 where there is none yet. ``[n], [n] -> [n]``"""
        out = np.empty(len(keys), np.int32)
        _newest(self.keys, self.cutoffs, keys, np.asarray(times, np.int64), out)
        return out

    def gather(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Vectors by entry; -1 is the zero vector. Shape [len(rows), d]."""
        if not len(self.vectors):
            return np.zeros((len(rows), self.dim), np.float32)
        out = np.take(self.vectors, np.maximum(rows, 0), axis=0).astype(np.float32, copy=False)
        out[rows < 0] = 0.0
        return out

    def latest(self) -> EmbeddingTimeline:
        """Only the newest vector of every key: what serving needs."""
        last = np.append(self.keys[1:] != self.keys[:-1], True) if len(self.keys) else np.zeros(0, bool)
        return EmbeddingTimeline(
            self.entity, self.version, self.keys[last], self.cutoffs[last], self.vectors[last]
        )

    def without(self, keys: U64) -> EmbeddingTimeline:
        """With nothing that is known of these keys, at any moment."""
        kept = ~np.isin(self.keys, keys)
        return EmbeddingTimeline(
            self.entity, self.version, self.keys[kept], self.cutoffs[kept], self.vectors[kept]
        )

    # -- on disk ----------------------------------------------------------------------------------

    def write(self, path: str | Path) -> None:
        """Write an Arrow file with fixed-size lists; it appears whole or not at all."""
        columns = {"key": pa.array(self.keys), "cutoff": pa.array(self.cutoffs)}
        write_vectors(path, columns, self.vectors, _KIND, entity=self.entity, version=self.version)

    @classmethod
    def read(cls, path: str | Path) -> EmbeddingTimeline:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        table, meta = read_vectors(path, _KIND)
        keys, cutoffs = (table[name].to_numpy().copy() for name in ("key", "cutoff"))
        return cls(meta["entity"], meta["version"], keys, cutoffs, vector_column(table))


@njit(cache=True, nogil=True)
def _newest(
    known: U64, cutoffs: I64, keys: U64, times: I64, out: npt.NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    """Last entry with an equal key whose cut-off is not after the time, by bisection."""
    for i in range(len(keys)):
        low, high = 0, len(known)
        while low < high:
            middle = (low + high) // 2
            before = known[middle] < keys[i] or (known[middle] == keys[i] and cutoffs[middle] <= times[i])
            if before:
                low = middle + 1
            else:
                high = middle
        out[i] = low - 1 if low > 0 and known[low - 1] == keys[i] else -1
