"""Embeddings of very many ids in few rows: the sum of a row for the quotient and one for the remainder.

A look-up of an id is a look-up of two rows of a `FusedEmbedding` (four for a 64-bit hash) and their sum, so
that the sparse optimisers train these tables like all others. Nothing here holds weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memberwise.nn.embedding import FusedEmbedding

HALF = 2**32  # values of half a 64-bit hash


def qr_sizes(rows: int, remainders: int) -> tuple[int, int]:
    """Rows of the table of quotients and of the table of remainders: ``ceil(n / R)`` and ``R``.

    Examples
    --------
    >>> qr_sizes(1_000_000, 1000)
    (1000, 1000)

    Raises
    ------
    ValueError
        If either number is below 1.
    """
    if rows < 1 or remainders < 1:
        raise ValueError(f"no table for {rows} ids and {remainders} remainders")
    remainders = min(rows, remainders)
    return -(-rows // remainders), remainders


def qr_rows(ids: Tensor, remainders: int) -> Tensor:
    """Quotient and remainder of each id, ``(id // R, id % R)``: no two ids share both.

    Parameters
    ----------
    ids : Tensor of an integer type, any shape [...]
        Below zero where there is none.
    remainders : int
        R.

    Returns
    -------
    Tensor of int64, [..., 2]
        Rows of the two tables; -1 where there is no id.

    Notes
    -----
    The division is of integers. In float32 it would be wrong for one id in twelve between 2^24 and 2^32.

    Examples
    --------
    >>> qr_rows(torch.tensor([0, 1234, -1]), 1000)
    tensor([[  0,   0],
            [  1, 234],
            [ -1,  -1]])
    """
    ids = ids.long()
    pair = torch.stack([ids // remainders, ids % remainders], -1)
    return torch.where(ids.unsqueeze(-1) >= 0, pair, -1)


def hash_halves(hashes: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high 32 bits of 64-bit hashes, as numbers from 0 to 2^32 - 1.

    Parameters
    ----------
    hashes : Tensor of int64, any shape [...]
        The bits of the hashes: ``torch.from_numpy(h.view(numpy.int64))``. Every second one is a negative
        number, which neither half is.
    """
    return hashes & (HALF - 1), (hashes >> 32) & (HALF - 1)


def salted(hashes: Tensor, salt: int) -> Tensor:
    """Other hashes of the same values, one to one, so that features can share tables without sharing rows.

    ``mix(h xor salt)``, with the finaliser of splitmix64

    Parameters
    ----------
    hashes : Tensor of int64, any shape [...]
        Bits of 64-bit hashes.
    salt : int
        Of the feature, 0 <= salt < 2^64: the hash of its name.
    """
    h = hashes ^ _signed(salt)
    h = (h ^ _shifted(h, 30)) * _signed(0xBF58476D1CE4E5B9)
    h = (h ^ _shifted(h, 27)) * _signed(0x94D049BB133111EB)
    return h ^ _shifted(h, 31)


def _signed(bits: int) -> int:
    """64 bits as the number that int64 takes them for."""
    return bits - 2**64 if bits >= 2**63 else bits


def _shifted(h: Tensor, by: int) -> Tensor:
    """Shift right with zeros from the left; that of int64 repeats the sign."""
    return (h >> by) & (2 ** (64 - by) - 1)


def qr_hash_rows(hashes: Tensor, remainders: int, salt: int = 0) -> Tensor:
    """Quotient and remainder of both halves of each hash: four rows, no dictionary, no unknown id.

    ``(B // R, B % R, C // R, C % R)`` with B the low and C the high half of ``salted(hash)``

    Parameters
    ----------
    hashes : Tensor of int64, any shape [...]
        Bits of 64-bit hashes; 0 where there is no value.
    remainders : int
        R.
    salt : int
        Of the feature.

    Returns
    -------
    Tensor of int64, [..., 4]
        Rows of the four tables; -1 where there is no value. Different hashes have different rows.
    """
    low, high = hash_halves(salted(hashes, salt))
    rows = torch.cat([qr_rows(low, remainders), qr_rows(high, remainders)], -1)
    return torch.where(hashes.unsqueeze(-1) != 0, rows, -1)


@dataclass(frozen=True)
class QRTables:
    """Quotient-remainder tables of ids from a vocabulary.

    ``e(id) = Q[id // R] + M[id % R]``

    Parameters
    ----------
    name : str
        Of the vocabulary; the tables are ``name.quotient`` and ``name.remainder``.
    rows : int
        Size n of the vocabulary.
    remainders : int, optional
        R; the square root of n without, which makes the tables smallest.

    Notes
    -----
    The rows add up: LiRank found products not to converge, as they start near zero.

    Examples
    --------
    >>> tables = QRTables("item", rows=1_000_000)
    >>> tables.sizes
    {'item.quotient': 1000, 'item.remainder': 1000}
    >>> embedding = FusedEmbedding(tables.sizes, dim=8)
    >>> qr_lookup(embedding, tables.sizes, tables(torch.tensor([3, 999_999, -1]))).shape
    torch.Size([3, 8])

    References
    ----------
    Shi et al. (2020), Compositional embeddings using complementary partitions. LiRank (Borisyuk et al.,
    2024), section 5.3.
    """

    name: str
    rows: int
    remainders: int | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the tables, for `FusedEmbedding`."""
        quotients, remainders = qr_sizes(self.rows, self._remainders)
        return {f"{self.name}.quotient": quotients, f"{self.name}.remainder": remainders}

    @property
    def _remainders(self) -> int:
        return self.remainders or max(1, math.isqrt(max(0, self.rows - 1)) + 1)

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows of the tables, ``[...] -> [..., 2]``; see `qr_rows`.

        Raises
        ------
        IndexError
            If an id is not in the vocabulary.
        """
        if ids.numel() and int(ids.max()) >= self.rows:
            raise IndexError(f"{self.name}: id {int(ids.max())} in a vocabulary of {self.rows}")
        return qr_rows(ids, qr_sizes(self.rows, self._remainders)[1])


@dataclass(frozen=True)
class QRHashTables:
    """Quotient-remainder tables of 64-bit hashes: every id has an embedding and none is stored.

    ``e(h) = Q_B[B // R] + M_B[B % R] + Q_C[C // R] + M_C[C % R]``, B and C the halves of the salted hash

    Parameters
    ----------
    name : str
        Of the tables; features that share it share the rows.
    remainders : int
        R. 2^16 gives four tables of 65,536 rows; 1000 gives two of 4.3 million and two of 1000.

    Notes
    -----
    Among a billion ids one expects 0.03 pairs with the same 64 bits; 32 bits alone would have 10^8. Single
    rows are shared all the same: with 200,000 ids, each row of tables of 65,536 serves three of them.

    References
    ----------
    LiRank, section 5.3. How the two halves meet is ours: the paper does not say.
    """

    name: str
    remainders: int = 2**16

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the tables, for `FusedEmbedding`."""
        quotients, remainders = qr_sizes(HALF, self.remainders)
        return {
            f"{self.name}.{half}.{part}": size
            for half in ("low", "high")
            for part, size in (("quotient", quotients), ("remainder", remainders))
        }

    def __call__(self, hashes: Tensor, salt: int = 0) -> Tensor:
        """Rows of the tables, ``[...] -> [..., 4]``; see `qr_hash_rows`."""
        return qr_hash_rows(hashes, self.remainders, salt)


def fused_rows(embedding: FusedEmbedding, sizes: Mapping[str, int], rows: Tensor) -> Tensor:
    """Rows of the tables as rows of the fused matrix; 0, which stays zero, where there is no value.

    Parameters
    ----------
    embedding : FusedEmbedding
        Holds the tables.
    sizes : mapping of str
        Names of the tables in the order of the last axis, as `QRTables.sizes` has them.
    rows : Tensor of int64, [..., P]
        From `qr_rows` or `qr_hash_rows`.
    """
    offsets = torch.tensor([embedding.offsets[name] for name in sizes], device=rows.device)
    return torch.where(rows >= 0, rows + offsets, 0)


def qr_lookup(embedding: FusedEmbedding, sizes: Mapping[str, int], rows: Tensor) -> Tensor:
    """The sum of the rows of each id, ``[..., P] -> [..., D]``; zero where there is no value."""
    return embedding(fused_rows(embedding, sizes, rows)).sum(-2)
