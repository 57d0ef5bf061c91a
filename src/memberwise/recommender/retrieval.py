"""Candidates of a request that names none: one path for Python, the command line and the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from memberwise.data.hashing import hash_values
from memberwise.recommender.request import as_id

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

POPULAR = "popular"


@dataclass(frozen=True)
class Found:
    """Candidates, and how they were found.

    Attributes
    ----------
    items : polars.Series
        Ids as text, best first.
    by : str
        The part that knows the member (``graph``: by its vector, without what it has chosen), or
        ``popular``: the items with most rows in train.
    """

    items: pl.Series
    by: str


def by_part(rec: Recommender, member: str | int, moment: int) -> Found | None:
    """Candidates that a part finds for a member at a moment (microseconds); None if none knows the member."""
    for part in rec.parts.values():
        found = part.candidates(as_id(member, "member"), moment)
        if found is not None and len(found):
            return Found(found, part.name)
    return None


def popular(rec: Recommender, count: int | None = None) -> Found | None:
    """The items with most rows in train, most first; None if the version knows no item by its id.

    Parameters
    ----------
    rec
        The version: its item table, else the items of a part.
    count
        At most so many; None for all.
    """
    if "item" in rec.pipeline.tables:
        ids = rec.pipeline.tables["item"].ids
    else:
        known = (part.items() for part in rec.parts.values())
        first = next((found for found in known if found is not None), None)
        if first is None:
            return None
        ids = first
    rows = rec.seen.rows("item", hash_values(ids))
    best = np.argsort(-rows, kind="stable")[:count]
    return Found(ids[best].cast(pl.String).alias("item"), POPULAR)
