"""Batches of the packed rows of a project."""

from __future__ import annotations

from memberwise.data.loader import Loader
from memberwise.data.prepare import Prepared


def loader(
    prepared: Prepared, split: str, batch_size: int, *, seed: int = 0, shuffle: bool = False
) -> Loader:
    """Batches of one split."""
    gather = prepared.pipeline.gather_vectors if prepared.pipeline.vectors else None
    return Loader(
        prepared.packed.rows(split),
        prepared.pipeline.layout,
        batch_size,
        seed,
        shuffle=shuffle,
        gather_vectors=gather,
    )
