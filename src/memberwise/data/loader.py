"""Batches from packed rows: shuffled by a seed, prefetched by a thread, resumable, sharded by rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.data.batch import Batch
from memberwise.data.layout import Layout
from memberwise.data.prefetch import prefetch

BLOCK_ROWS = 4_096
BUFFER_BLOCKS = 64
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Position:
    """Where a loader stands: the next batch of an epoch."""

    epoch: int = 0
    batch: int = 0


def shuffled_rows(n: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of an epoch in random order, buffer by buffer.

    Blocks of consecutive rows are drawn in random order into a buffer, and the buffer is shuffled: every
    row comes exactly once, and reading stays within a bounded part of the file at a time. A log that fits
    into one buffer (262,144 rows) is shuffled uniformly.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    blocks = rng.permutation(-(-n // BLOCK_ROWS))
    for first in range(0, len(blocks), BUFFER_BLOCKS):
        starts = blocks[first : first + BUFFER_BLOCKS] * BLOCK_ROWS
        rows = (starts[:, None] + np.arange(BLOCK_ROWS)).ravel()
        rows = rows[rows < n]
        rng.shuffle(rows)
        yield rows


def slices(parts: Iterator[npt.NDArray[np.int64]], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Cut a stream of rows into pieces of equal size; the last may be smaller."""
    rest = np.zeros(0, np.int64)
    for part in parts:
        rest = np.concatenate([rest, part])
        whole = len(rest) // size * size
        for first in range(0, whole, size):
            yield rest[first : first + size]
        rest = rest[whole:]
    if len(rest):
        yield rest


class Loader:
    """Batches of packed rows, epoch after epoch.

    Parameters
    ----------
    arrays
        One row per event (`PackedRows.rows`).
    layout
        Of the batches.
    batch_size
        Rows per batch and rank.
    seed
        Of the shuffling. Order depends on it, the epoch and the number of rows alone.
    gather_vectors
        Turns rows of entity embeddings into vectors (`FeaturePipeline.gather_vectors`).
    rank, world
        This process takes every `world`-th row of each global batch.

    Examples
    --------
    ``position`` is where to go on after a stop:

    >>> import numpy as np
    >>> from memberwise.data.layout import Layout
    >>> arrays = {"ids": np.arange(10, dtype=np.int32)[:, None], "dense": np.zeros((10, 0), np.float32)}
    >>> loader = Loader(arrays, Layout((), (), (), (), (), ()), batch_size=4, seed=1)
    >>> whole = [b.ids[:, 0].tolist() for b in loader.epoch()]
    >>> rest = [b.ids[:, 0].tolist() for b in loader.epoch(Position(0, 1))]
    >>> whole[1:] == rest
    True
    """

    def __init__(
        self,
        arrays: Arrays,
        layout: Layout,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        gather_vectors: Callable[[Arrays], Mapping[str, npt.NDArray[Any]]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.arrays = {k: a for k, a in arrays.items() if a.dtype != np.uint64 and k != "time"}
        self.layout, self.batch_size, self.seed, self.shuffle = layout, batch_size, seed, shuffle
        self._gather_vectors = gather_vectors
        self.rank, self.world = rank, world
        self.rows = len(arrays["ids"])

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.rows // (self.batch_size * self.world))

    def epoch(self, position: Position = Position()) -> Iterator[Batch]:
        """The batches of one epoch from a position on, made by a background thread."""
        return prefetch(self._batches(position), depth=4)

    def _order(self, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
        if self.shuffle:
            yield from shuffled_rows(self.rows, self.seed, epoch)
        else:
            for first in range(0, self.rows, BLOCK_ROWS * BUFFER_BLOCKS):
                yield np.arange(first, min(first + BLOCK_ROWS * BUFFER_BLOCKS, self.rows))

    def _batches(self, position: Position) -> Iterator[Batch]:
        pieces = slices(self._order(position.epoch), self.batch_size * self.world)
        for number, rows in enumerate(pieces):
            mine = rows[self.rank :: self.world]
            if number >= position.batch and len(mine):
                yield self.batch(mine)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """The batch of given rows."""
        parts = {k: a.take(rows, axis=0) for k, a in self.arrays.items()}
        if self._gather_vectors is not None:
            parts.update(self._gather_vectors(parts))
        return Batch.from_arrays(parts, self.layout)
