"""How much two nodes have in common: the cosine of their neighbourhoods."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.adjacency import Coo, compress

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


def salton_weights(source: I32, target: I32, nodes: int) -> F32:
    """Salton's weight of every edge between nodes of one type, directions and repetitions aside.

    ``w(u, v) = |N(u) ∩ N(v)| / sqrt(|N(u)| |N(v)|)``

    It is 0 for ends without a common neighbour, and such an edge is never drawn by weight.

    Parameters
    ----------
    source, target : ndarray of int32, shape [E]
        Ends of the edges.
    nodes : int
        Number of nodes.

    Returns
    -------
    ndarray of float32, shape [E]
        In [0, 1].

    References
    ----------
    LiGNN (KDD 2024), edges for people recommendation; G. Salton, M. McGill, Introduction to modern
    information retrieval, 1983.
    """
    ends = np.concatenate([source, target]).astype(np.int64)
    others = np.concatenate([target, source]).astype(np.int64)
    pairs = np.unique(ends * nodes + others)  # sorted: every row's neighbours ascend
    left, right = (pairs // nodes).astype(np.int32), (pairs % nodes).astype(np.int32)
    rows = compress(Coo(left, right, None, None, np.zeros(len(left), np.int32)), nodes)
    return _salton(rows.indptr, rows.target, source, target)


@njit(cache=True, nogil=True)
def _salton(indptr: I64, sorted_neighbours: I32, source: I32, target: I32) -> F32:
    out = np.zeros(len(source), np.float32)
    for e in range(len(source)):
        a, a_end = indptr[source[e]], indptr[source[e] + 1]
        b, b_end = indptr[target[e]], indptr[target[e] + 1]
        size = np.sqrt(np.float64(a_end - a) * np.float64(b_end - b))
        common = 0
        while a < a_end and b < b_end:
            if sorted_neighbours[a] == sorted_neighbours[b]:
                common += 1
                a += 1
                b += 1
            elif sorted_neighbours[a] < sorted_neighbours[b]:
                a += 1
            else:
                b += 1
        out[e] = common / size
    return out
