"""Generation: adapted embeddings of many entities, in bounded memory, for a table that serves them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from memberwise.meta.episodes import Tasks
from memberwise.meta.inner import InnerLoop
from memberwise.meta.learner import frozen
from memberwise.meta.rows import Rows, entity_features, segment
from memberwise.nn.protocols import GlobalBlock

CHUNK_ROWS = 8_192
"""Support rows at a time: large enough for fast products, small enough to stay in the cache."""


def generate(
    inner: InnerLoop, world: GlobalBlock, rows: Rows, tasks: Tasks, chunk_rows: int = CHUNK_ROWS
) -> npt.NDArray[np.float32]:
    """Adapt every task's entity, from the common parameters, and return the embeddings.

    Nothing of an adapted block is kept, so that memory does not depend on the number of entities.

    Parameters
    ----------
    inner
        Meta block and inner loop.
    world
        The global block, without dropout.
    rows
        What the tasks' rows hold.
    tasks
        Only their supports count; a task whose support is empty gets the unadapted embedding.
    chunk_rows
        Support rows that are adapted to at a time.

    Returns
    -------
    ndarray of float32, shape [M, p]
    """
    out = np.empty((len(tasks), inner.block.out_dim), np.float32)
    tuned = [*inner.parameters(), *(world.parameters() if isinstance(world, nn.Module) else ())]
    with frozen(tuned):
        for part in chunks(tasks.support_sizes, chunk_rows):
            some = tasks.pick(np.arange(part.start, part.stop))
            z = inner(
                world, entity_features(rows, some), segment(rows, some, "support"), differentiable=False
            )
            out[part] = z.numpy()
    return out


def chunks(sizes: npt.NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Consecutive tasks with at most `limit` rows together (or a single one with more), and `limit` tasks."""
    ends = np.cumsum(np.maximum(sizes, 1))
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(start, stop)
        start = stop


def fingerprint(*blocks: Mapping[str, Tensor]) -> str:
    """Name of weights: what embeddings are pinned to.

    Parameters
    ----------
    *blocks : dict of Tensor
        State of the meta block with its step sizes, and of the ranker.
    """
    digest = hashlib.sha256()
    for state in blocks:
        for name, value in sorted(state.items()):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
