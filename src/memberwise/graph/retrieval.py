"""Candidates for a member out of all items: what it has seen is gone before the best are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from memberwise.graph.encoder import Embedded
from memberwise.schema import DAY, Duration, Model

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class RetrievalConfig(Model):
    """How candidates are found when a request names no items."""

    candidates: int = Field(200, ge=1, description="Items that the ranker then orders.")
    repeats: bool = Field(False, description="Also offer items that the member has chosen before.")
    recency: float = Field(0.0, ge=0, description="Weight of how new an item's last event is.")
    half_life: Duration = Field(7 * DAY, description="Age at which the term for recency is one half.")
    exact_below: int = Field(50_000, ge=0, description="With fewer items all of them are compared.")


class ItemIndex:
    """Items by their keys, with a term for recency.

    ``score(s, d) = q_s . k_d + w 2^(-(t - t_d) / h)``, t_d the item's last event

    Both terms are one inner product, so that no item is lost between a search by one and an order by both.

    Parameters
    ----------
    keys : ndarray of float32, [n, d]
        Of the items.
    last : ndarray of int64, [n]
        Moment of each item's last event, in microseconds; anything not positive for none.
    moment : int
        As of when.
    config
        Weight and half-life of recency; how many items are compared one by one.

    Notes
    -----
    Filtering what was seen after the best k were taken loses the same items day after day, because scores
    change slowly (LiGNN, section 7). Here k more than the member has seen are asked for, so that k are left.
    """

    def __init__(self, keys: F32, last: I64, moment: int, config: RetrievalConfig) -> None:
        self.config, self.count = config, len(keys)
        age = np.maximum(moment - last, 0) / config.half_life
        recency = np.where(last > 0, np.exp2(-age), 0.0).astype(np.float32)
        whole = np.concatenate([keys, recency[:, None]], 1)
        self._exact = self.count < config.exact_below
        self._index = _index(whole, "ip")

    def search(self, query: F32, k: int, seen: I32) -> tuple[I32, F32]:
        """The best items for one member.

        Parameters
        ----------
        query : ndarray of float32, [d]
            The member's key.
        k : int
            How many.
        seen : ndarray of int32
            Items that are no candidates.

        Returns
        -------
        items : ndarray of int32
            At most k, best first.
        scores : ndarray of float32
        """
        seen = np.unique(seen)
        asked = min(k + len(seen), self.count)
        if not asked:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        whole = np.append(query, np.float32(self.config.recency)).astype(np.float32)
        found: Any = self._index.search(whole, asked, exact=self._exact)
        items = np.asarray(found.keys, np.int64).astype(np.int32)
        scores = 1.0 - np.asarray(found.distances, np.float32)  # usearch turns a product into a distance
        kept = ~np.isin(items, seen)
        return items[kept][:k], scores[kept][:k]


class Similar:
    """Nodes of one type by the angle between their vectors."""

    def __init__(self, vectors: F32, exact_below: int = 50_000) -> None:
        self.vectors, self._exact = vectors, len(vectors) < exact_below
        self._index = _index(vectors, "cos")

    def search(self, row: int, k: int) -> tuple[I32, F32]:
        """The k nearest to a node, itself left out, and their cosines."""
        found: Any = self._index.search(self.vectors[row], min(k + 1, len(self.vectors)), exact=self._exact)
        rows = np.asarray(found.keys, np.int64).astype(np.int32)
        cosines = 1.0 - np.asarray(found.distances, np.float32)
        kept = rows != row
        return rows[kept][:k], cosines[kept][:k]


def with_repeats(items: I32, scores: F32, member: Embedded, all_keys: F32, k: int) -> tuple[I32, F32]:
    """Candidates with what the member chose of late, whose bonus no index knows.

    Parameters
    ----------
    items, scores
        Found by an index.
    member
        Of one member.
    all_keys : ndarray of float32, [n, d]
        Of all items.
    k : int
        How many to keep.
    """
    if member.recent is None or member.bonus is None or member.keys is None:
        return items, scores
    there = member.recent[0] >= 0
    recent, place = np.unique(member.recent[0][there], return_inverse=True)
    bonus = np.bincount(place.reshape(-1), member.bonus[0][there], len(recent)).astype(np.float32)
    every = np.union1d(items, recent).astype(np.int32)
    total = all_keys[every] @ member.keys[0]
    total[np.searchsorted(every, recent)] += bonus
    order = np.argsort(-total, kind="stable")[:k]
    return every[order], total[order]


def _index(vectors: F32, metric: str) -> Any:
    """An index of vectors by their row."""
    from usearch.index import Index  # costs a quarter of a second, and most runs never search

    index = Index(ndim=vectors.shape[1], metric=metric, dtype="f32")
    if len(vectors):
        # By one thread: several that build at once leave nodes that no search reaches, others every time.
        index.add(np.arange(len(vectors)), vectors, threads=1)
    return index
