"""Vectors of entities by id and version: one protocol, and a snapshot in memory for the hot path.

A store holds one packed value per entity, feature and version. Readers ask for a version by name: vectors
never mix with those of another version's model, and a version that is being written is not seen before its
last vector is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import U64, HashIndex
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import DataError
from memberwise.recommender import Recommender

F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class VectorStore(Protocol):
    """A shared place for vectors. Keys are hashed ids (`memberwise.data.hashing`)."""

    def get_many(self, feature: str, version: str, keys: U64) -> tuple[F32, Flags]:
        """Vectors ``[n, d]`` and whether each is there; zero where it is not.

        Raises
        ------
        DataError
            If the store does not hold this version, or is damaged.
        """
        ...

    def put_many(self, feature: str, version: str, keys: U64, vectors: F32) -> None:
        """Write vectors of a version; those of the same keys are replaced, all of them or none."""
        ...

    def delete(self, keys: U64) -> int:
        """Forget these keys in every feature and version; returns how many vectors went."""
        ...

    def versions(self, feature: str) -> list[str]:
        """Versions of a feature, sorted."""
        ...

    def drop(self, feature: str, version: str) -> None:
        """Remove a version."""
        ...

    def keys(self, feature: str, version: str) -> U64:
        """All keys of a version."""
        ...


def no_version(feature: str, version: str) -> DataError:
    """The error of a version that is not there."""
    return DataError(f"holds no version {version!r}", where=f"vectors of {feature}", fix="publish it first")


@dataclass(frozen=True)
class Snapshot:
    """All vectors of one version in memory: 0.05 ms for hundreds of look-ups.

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
    def of(cls, store: VectorStore, feature: str, version: str) -> Snapshot:
        """A snapshot of a version of a store."""
        keys = store.keys(feature, version)
        vectors, there = store.get_many(feature, version, keys)
        if not there.all():
            raise DataError("a vector went while they were read", where=f"vectors of {feature}")
        return cls(version, HashIndex(keys), vectors)

    @classmethod
    def of_timeline(cls, timeline: EmbeddingTimeline) -> Snapshot:
        """A snapshot of the newest vector of every key."""
        latest = timeline.latest()
        return cls(latest.version, HashIndex(latest.keys), latest.vectors.astype(np.float32, copy=False))

    def get_many(self, keys: U64) -> tuple[F32, Flags]:
        """As `VectorStore.get_many`, of this version."""
        rows = self.index.find(keys)
        there = rows >= 0
        if not len(self.vectors):
            return np.zeros((len(keys), self.vectors.shape[1]), np.float32), there
        found = np.take(self.vectors, np.maximum(rows, 0), axis=0)
        found[~there] = 0.0
        return found, there


def publish(rec: Recommender, store: VectorStore, version: str, keep: int = 2) -> list[str]:
    """Write the newest vectors of a version's features to a store, for other services to read.

    Parameters
    ----------
    rec, version
        The version and its name.
    store
        Where to.
    keep
        Versions of each feature that stay; older ones go.

    Returns
    -------
    list of str
        The features.
    """
    for name, timeline in rec.pipeline.vectors.items():
        latest = timeline.latest()
        store.put_many(name, version, latest.keys, latest.vectors.astype(np.float32, copy=False))
        for old in store.versions(name)[:-keep]:
            store.drop(name, old)
    return list(rec.pipeline.vectors)
