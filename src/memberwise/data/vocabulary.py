"""From hashed values to the rows of an embedding table.

Rows of every table: 0 is the value never seen (or too rare) in train, 1 is "missing", the rest are values.

A hashed table needs no dictionary: the two halves B and C of a value's 64-bit hash, salted by the table's
name, stand for it, each as a quotient and a remainder by R. Its embedding is the sum of four rows, and
different values have different ones. Among a billion values one expects 0.03 pairs with the same 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64, HashIndex, hash_text, mix64

I32 = npt.NDArray[np.int32]
UNSEEN, MISSING, FIRST = 0, 1, 2
HASH_PARTS = 4
"""Rows that make up a value of a hashed table."""
REMAINDERS = 1 << 16
"""R of a hashed table if not given: four parts of 65,536 rows."""
HALF = 1 << 32
PAD = -1
"""Stands in unused places of multi-valued features and histories."""


@dataclass
class Vocabulary:
    """One embedding table's values.

    Parameters
    ----------
    name
        Of the table.
    encoding
        ``vocabulary``: a row for every value with at least `min_count` occurrences in train.
        ``hash``: the rows are a function of the value alone, salted by the table's name; nothing is stored.
    min_count, remainders
        For the one and the other: the least number of occurrences, and R.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 5.3. Sums, because products did not converge there.
    """

    name: str
    encoding: str
    min_count: int = 1
    remainders: int | None = None

    def __post_init__(self) -> None:
        self.index = HashIndex()
        self.counts = np.zeros(0, np.int64)
        """Occurrences in train of each row (frozen vocabularies); rows of a hashed table have none."""
        self.frozen = self.encoding == "hash"

    @property
    def rows(self) -> int:
        """Rows of the table."""
        if self.encoding == "hash":
            return FIRST + 2 * (-(-HALF // self._remainders) + self._remainders)
        return FIRST + len(self.index)

    @property
    def _remainders(self) -> int:
        return self.remainders or REMAINDERS

    def encode(self, hashes: U64) -> I32:
        """Row of each value, ``[n]``; of a hashed table its four rows, ``[n, 4]``.

        Until `freeze`, a new value gets a new row.
        """
        if self.encoding == "hash":
            return _hash_rows(hashes, np.uint64(hash_text(self.name)), np.uint64(self._remainders))
        codes = self.index.find(hashes) if self.frozen else self.index.add(hashes)
        return np.where(codes >= 0, codes + FIRST, np.where(hashes == 0, MISSING, UNSEEN)).astype(np.int32)

    def freeze(self, counts: npt.NDArray[np.int64]) -> I32:
        """Keep the values that occur often enough in train.

        Parameters
        ----------
        counts : ndarray of int64, shape [rows]
            Occurrences of each row in train.

        Returns
        -------
        ndarray of int32, shape [rows before]
            The new row of each old one.
        """
        old_rows = self.rows
        if self.frozen:
            self.counts = counts
            return np.arange(old_rows, dtype=np.int32)
        seen, hashes = counts[FIRST:], self.index.keys
        kept = np.flatnonzero(seen >= self.min_count)
        # The most frequent first, ties by hash: rows depend on the counts alone, not on how the log was cut.
        kept = kept[np.lexsort((hashes[kept], -seen[kept]))]
        moved = np.full(old_rows, UNSEEN, np.int32)
        moved[MISSING] = MISSING
        moved[FIRST + kept] = FIRST + np.arange(len(kept), dtype=np.int32)
        self.index = HashIndex(hashes[kept])
        self.counts = np.concatenate(
            [[counts[UNSEEN] + seen.sum() - seen[kept].sum(), counts[MISSING]], seen[kept]]
        )
        self.frozen = True
        return moved

    def to_arrays(self) -> Arrays:
        """The values and their counts, for saving."""
        return {"keys": self.index.keys, "counts": self.counts}

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self.index = HashIndex(np.asarray(state["keys"], np.uint64))
        self.counts = np.asarray(state["counts"], np.int64)
        self.frozen = True


@njit(cache=True, nogil=True)
def _hash_rows(hashes: U64, salt: np.uint64, remainders: np.uint64) -> I32:
    """Quotient and remainder of the low and the high half; PAD behind a missing value's one row. [n, 4]"""
    out = np.full((len(hashes), 4), -1, np.int32)
    low_half = np.uint64(0xFFFFFFFF)
    quotients = (low_half + remainders) // remainders
    for i in range(len(hashes)):
        if hashes[i] == 0:
            out[i, 0] = 1
            continue
        h = mix64(hashes[i] ^ salt)
        first = np.uint64(2)
        for part in range(2):
            half = (h >> np.uint64(32 * part)) & low_half
            out[i, 2 * part] = np.int32(first + half // remainders)
            out[i, 2 * part + 1] = np.int32(first + quotients + half % remainders)
            first += quotients + remainders
    return out
