"""Vectors of entities by id and version: one protocol, and a snapshot in memory for the hot path.

A store holds one packed value per entity, feature and version. Readers ask for a version by its `pin`:
vectors never mix with those of another version's model, and a version appears with all of its vectors at
once. What is put in a version later is seen by the next request of every process that reads the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import U64, HashIndex
from memberwise.data.timeline import ALWAYS, EmbeddingTimeline
from memberwise.errors import DataError

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
LATEST = np.iinfo(np.int64).max


class VectorStore(Protocol):
    """A shared place for vectors. Keys are hashed ids (`memberwise.data.hashing`)."""

    def fill(self, version: str, vectors: Mapping[str, EmbeddingTimeline]) -> bool:
        """Make a version with the newest vectors of its features, whole; False where it is there already."""
        ...

    def get_many(
        self, version: str, asked: Mapping[str, U64], moment: int = LATEST
    ) -> dict[str, tuple[F32, Flags]]:
        """Of each feature, vectors ``[n, d]`` and whether each is there (zero where not); one round trip.

        A vector that may not be known at the moment yet is not there.

        Raises
        ------
        DataError
            If the store does not hold this version or feature, is damaged, or cannot be reached.
        """
        ...

    def put_many(self, version: str, feature: str, keys: U64, vectors: F32, since: int = ALWAYS) -> None:
        """Write vectors into a version; those of the same keys are replaced, all of them or none.

        Parameters
        ----------
        since
            Moment (microseconds) from which on they may be known; default: at once.

        Raises
        ------
        DataError
            As `get_many`, and for vectors that are not finite or of another width.
        """
        ...

    def delete(self, feature: str, keys: U64) -> int:
        """Forget these keys of a feature in every version; returns how many vectors went."""
        ...

    def versions(self) -> list[str]:
        """Sorted."""
        ...

    def drop(self, version: str) -> None:
        """Remove a version."""
        ...

    def keys(self, version: str, feature: str) -> U64:
        """All keys of a feature, sorted."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def no_version(version: str, feature: str | None = None) -> DataError:
    """The error of a version, or of a feature in it, that is not there."""
    what = f"version {version!r}" if feature is None else f"feature {feature!r} in version {version!r}"
    return DataError(
        f"the store holds no {what}", fix="fill it first (a server does when it loads a version)"
    )


def packed(keys: U64, since: I64 | int, vectors: F32, width: int, feature: str) -> list[bytes]:
    """One value per key: since when it may be known (int64), then its numbers (float32), little-endian.

    Raises
    ------
    DataError
        If the vectors have another width than the feature, or are not finite.
    """
    if vectors.shape != (len(keys), width):
        raise DataError(
            f"{len(keys)} keys and vectors of shape {vectors.shape}; the feature has width {width}",
            where=f"vectors of {feature}",
        )
    if not np.isfinite(vectors).all():
        raise DataError("a vector is not finite", where=f"vectors of {feature}")
    rows = np.empty(len(keys), _value(width))
    rows["since"], rows["vector"] = since, vectors
    whole, size = rows.tobytes(), rows.itemsize
    return [whole[i : i + size] for i in range(0, len(whole), size)]


def unpacked(values: Sequence[bytes | None], width: int, moment: int) -> tuple[F32, Flags]:
    """Vectors ``[n, width]`` of packed values, and which of them are there and known at a moment."""
    out: F32 = np.zeros((len(values), width), np.float32)
    there = np.fromiter((v is not None for v in values), np.bool_, len(values))
    rows = np.frombuffer(b"".join(v for v in values if v is not None), _value(width))
    known = rows["since"] <= moment
    there[there] = known
    out[there] = rows["vector"][known]
    return out, there


def _value(width: int) -> np.dtype[np.void]:
    return np.dtype([("since", "<i8"), ("vector", "<f4", (width,))])


@dataclass(frozen=True)
class Snapshot:
    """All vectors of one feature and version in memory: 0.05 ms for hundreds of look-ups.

    Attributes
    ----------
    version
        What it was made from.
    vectors : ndarray of float32, [n, d]
        One row per key.
    """

    version: str
    index: HashIndex
    vectors: F32

    @classmethod
    def of(cls, store: VectorStore, version: str, feature: str) -> Snapshot:
        """A snapshot of a version of a store."""
        keys = store.keys(version, feature)
        vectors, there = store.get_many(version, {feature: keys})[feature]
        if not there.all():
            raise DataError("a vector went while they were read", where=f"vectors of {feature}")
        return cls(version, HashIndex(keys), vectors)

    def get_many(self, keys: U64) -> tuple[F32, Flags]:
        """Vectors and whether each is there."""
        rows = self.index.find(keys)
        there = rows >= 0
        if not len(self.vectors):
            return np.zeros((len(keys), self.vectors.shape[1]), np.float32), there
        found = np.take(self.vectors, np.maximum(rows, 0), axis=0)
        found[~there] = 0.0
        return found, there
