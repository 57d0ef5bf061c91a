"""What meta embeddings add, for members of whom little or much is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from memberwise.data.pipeline import key_column
from memberwise.data.prepare import Prepared
from memberwise.data.times import cutoffs
from memberwise.meta.episodes import find_tasks
from memberwise.recommender.contributions import score_without
from memberwise.recommender.parts.meta import MetaPart
from memberwise.recommender.reporting import UNADAPTED

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

BUCKETS = ((0, 0), (1, 2), (3, 10), (11, 50), (51, None))


def without_embeddings(
    rec: Recommender, arrays: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Scores of packed rows as if no meta embedding had been made, by name; nothing for a version without."""
    if "meta" not in rec.parts:
        return {}
    return {UNADAPTED: score_without(rec, "meta", arrays)}


def by_support(rec: Recommender, prepared: Prepared) -> dict[str, npt.NDArray[np.bool_]]:
    """Rows of test by the number of rows that the first block's entity had when its embedding was made."""
    part = rec.parts.get("meta")
    if not isinstance(part, MetaPart):
        return {}
    block, packed = part.blocks[0], prepared.packed
    first, last = packed.splits["test"]
    keys, times = np.asarray(packed.arrays[key_column(block.name)]), np.asarray(packed.arrays["time"])
    tasks = find_tasks(
        keys, times, cutoffs(times, part.config.delay), support=len(times), first=first, last=last
    )
    rows, owner = tasks.rows("query")
    sizes = np.zeros(last - first, np.int64)
    sizes[rows - first] = tasks.support_sizes[owner]
    found = {}
    for low, high in BUCKETS:
        span = f"{low}+" if high is None else f"{low}-{high}" if high > low else str(low)
        mask = (sizes >= low) & (high is None or sizes <= high)
        if mask.any():
            found[f"{block.name}: {span} rows before"] = mask
    return found
