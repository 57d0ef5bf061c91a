"""Embedding tables in a quarter of the memory: one byte a number, a scale and a middle for each row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn

from memberwise.nn.embedding import FusedEmbedding

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int8]
META = 4
"""Bytes behind the codes of a row: scale and middle in half precision."""
HALVES: F32 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""What each half-precision number is; not numbers stand for none."""


def quantise_rows(weight: F32) -> I8:
    """Rows as bytes.

    ``scale = (max - min) / 255``, ``middle = (128 max + 127 min) / 255``,
    ``q = clip(round((x - middle) / scale), -128, 127)``, so that ``x ~ middle + q scale``

    Parameters
    ----------
    weight : ndarray of float32, [R, D]

    Returns
    -------
    ndarray of int8, [R, D + 4]
        Codes, then scale and middle. A row that is constant has scale 1 and codes 0.

    Notes
    -----
    It is the grid of the form with minimum and maximum, ``middle = min + 128 scale``, in signed bytes. Scale
    and middle are rounded to half precision first (the scale upwards, so that nothing is clipped by more
    than the rounding of the middle), and the codes are those for the rounded ones.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 5.2, middle-max row-wise quantisation.
    """
    low, high = weight.min(1), weight.max(1)
    exact = (high - low) / 255.0
    scale = exact.astype(np.float16)
    short = scale.astype(np.float32) < exact
    scale[short] = np.nextafter(scale[short], np.float16(np.inf))
    scale[low == high] = 1.0
    middle = ((high * 128.0 + low * 127.0) / 255.0).astype(np.float16)
    step, centre = scale.astype(np.float32)[:, None], middle.astype(np.float32)[:, None]
    codes = np.clip(np.rint((weight - centre) / step), -128, 127).astype(np.int8)
    out: I8 = np.empty((len(weight), weight.shape[1] + META), np.int8)
    out[:, :-META] = codes
    out[:, -META:] = np.stack([scale, middle], 1).view(np.int8)
    return out


class RowwiseInt8(nn.Module):
    """A `FusedEmbedding` in bytes, for look-ups only.

    Parameters
    ----------
    table
        What is compressed; it is not changed.

    Attributes
    ----------
    packed : Tensor of int8, [R, D + 4]
        See `quantise_rows`.
    """

    packed: Tensor

    def __init__(self, table: FusedEmbedding) -> None:
        super().__init__()
        self.sizes, self.dim, self.offsets = dict(table.sizes), table.dim, dict(table.offsets)
        packed = quantise_rows(table.weight.detach().cpu().numpy())
        packed[0] = 0  # no value: scale and middle 0 make it exactly zero
        self.register_buffer("packed", torch.from_numpy(packed))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"rows={len(self.packed):,}, dim={self.dim}, tables={len(self.sizes)}"

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows, ``[...] -> [..., D]``."""
        flat = rows.reshape(-1).to(torch.int32).numpy()
        out = np.empty((len(flat), self.dim), np.float32)
        gather_int8(self.packed.numpy(), flat, HALVES, out)
        return torch.from_numpy(out).view(*rows.shape, self.dim)


@njit(cache=True, nogil=True, inline="always")
def half(packed: I8, r: int, at: int, halves: F32) -> np.float32:
    """The half-precision number that begins at a byte of a row."""
    return halves[(np.int64(packed[r, at]) & 255) | ((np.int64(packed[r, at + 1]) & 255) << 8)]


@njit(cache=True, nogil=True)
def gather_int8(packed: I8, rows: I32, halves: F32, out: F32) -> None:
    """Rows as numbers, ``out[i] = middle + q scale``. ``[R, D + 4], [n] -> [n, D]``"""
    dim = out.shape[1]
    for i in range(len(rows)):
        r = rows[i]
        scale, middle = half(packed, r, dim, halves), half(packed, r, dim + 2, halves)
        for d in range(dim):
            out[i, d] = middle + scale * np.float32(packed[r, d])


@njit(cache=True, nogil=True)
def pool_int8(packed: I8, rows: I32, lengths: I32, halves: F32, out: F32) -> None:
    """Sums of bags of rows, bag after bag. ``[R, D + 4], [n], [B] -> [B, D]``"""
    dim, at = out.shape[1], 0
    for b in range(len(lengths)):
        for d in range(dim):
            out[b, d] = np.float32(0.0)
        for i in range(at, at + lengths[b]):
            r = rows[i]
            scale, middle = half(packed, r, dim, halves), half(packed, r, dim + 2, halves)
            for d in range(dim):
                out[b, d] += middle + scale * np.float32(packed[r, d])
        at += lengths[b]


def compress_tables(embeddings: nn.ModuleDict) -> float:
    """Replace fused tables by `RowwiseInt8`, in place; returns bytes after over bytes before."""
    before = after = 0
    for dim, table in list(embeddings.items()):
        assert isinstance(table, FusedEmbedding)
        small = RowwiseInt8(table)
        before += table.weight.numel() * table.weight.element_size()
        after += small.packed.numel()
        embeddings[dim] = small
    return after / before if before else 1.0
