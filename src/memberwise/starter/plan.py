"""From columns to features and aggregates, each with the reason it was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from memberwise.starter import words
from memberwise.starter.columns import PLACEHOLDERS, Column

MOST_ATTRIBUTES = 6
"""Attributes of the item that get an aggregate each, and one crossed with the member."""

MOST_CONTEXTS = 4
"""Columns of the event that get an aggregate crossed with the item."""

_HASH_ABOVE = 1_000_000
_FEW = 24


@dataclass(frozen=True)
class Source:
    """A column that may become a feature.

    Attributes
    ----------
    name
        As the project names it: ``hour``, ``item.genres``.
    of
        Whose property it is: ``member``, ``item``, another entity, or ``event``.
    values : polars.Series
        Sampled values.
    keyed
        Whether it can be the key of an aggregate: it takes one of few values again and again.
    """

    name: str
    of: str
    column: Column
    values: pl.Series
    rows_of_log: int

    @property
    def keyed(self) -> bool:
        """Whether it can be a key: neither nearly constant nor with too few rows for each value."""
        if self.column.kind not in ("bool", "int", "text", "list"):
            return False
        if self.column.kind == "int" and not (is_category(self) or is_year(self)):
            return False
        return self.column.distinct >= 2 and self.rows_of_log >= 10 * self.column.distinct


@dataclass
class Plan:
    """Entries of the project file with their comments, and what is left out."""

    features: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    aggregates: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def is_year(source: Source) -> bool:
    """Whether numbers are years."""
    c = source.column
    return c.kind == "int" and "year" in words.stems(c.name) and c.low is not None and c.low >= 1000


def is_category(source: Source) -> bool:
    """Whether whole numbers name things rather than measure them."""
    c = source.column
    named = words.is_id(c.name) or bool(
        {"type", "category", "class", "zip", "postcode"} & words.stems(c.name)
    )
    named = named or bool({"manufacturer", "brand", "department", "store", "shop"} & words.stems(c.name))
    return c.kind == "int" and (named or c.binary or (c.distinct <= _FEW and (c.low or 0) >= 0))


def feature(source: Source) -> tuple[dict[str, Any], str] | str:
    """The feature of a column with its comment, or why there is none."""
    c = source.column
    facts = c.facts()
    if c.kind in ("date", "time"):
        return {"kind": "age", "since": source.name}, f"{facts}; days from it to the event"
    if c.kind == "list":
        return _vector_feature(source) if _holds_measures(source.values) else _list_feature(source, facts)
    if c.kind == "float" or (c.kind == "int" and not is_category(source) and not is_year(source)):
        transform, why = _transform(source.values)
        return {"kind": "numeric", "column": source.name, "transform": transform}, f"{facts}; {why}"
    if c.kind == "text" and _free_text(source):
        return "free text, or too many values to be seen again"
    entry = {"kind": "categorical", "column": source.name}
    if c.distinct > _HASH_ABOVE:
        entry |= {"encoding": "hash"}
        facts += "; hashed, because there are so many"
    return entry, facts + _placeholder(source.values)


def _list_feature(source: Source, facts: str) -> tuple[dict[str, Any], str]:
    lengths = source.values.list.len().drop_nulls()
    most = int(np.clip(lengths.quantile(0.99, "higher") or 1, 2, 16))
    entry = {"kind": "categorical", "column": source.name, "max_values": most}
    return entry, f"{facts}; 99% of the lists have at most {most} elements"


def _holds_measures(lists: pl.Series) -> bool:
    """Whether lists hold measures, such as an embedding, and not names: fractions of a number."""
    inner = lists.dtype.inner if isinstance(lists.dtype, pl.List | pl.Array) else None
    if inner is None or not inner.is_float():
        return False
    values = lists.cast(pl.List(inner)).explode().drop_nulls()
    return bool((values != values.round()).any())


def _vector_feature(source: Source) -> tuple[dict[str, Any], str] | str:
    lengths = source.values.drop_nulls().cast(pl.List(pl.Float64)).list.len().unique().to_list()
    entity, dot, column = source.name.partition(".")
    if len(lengths) != 1:
        return f"lists of numbers of different lengths ({min(lengths)} to {max(lengths)}): no vectors"
    if not dot:
        return "vectors in the events: move them into a table with one row per id"
    return {"kind": "vector", "entity": entity, "column": column}, f"vectors of {lengths[0]} numbers"


def _free_text(source: Source) -> bool:
    """Long texts, or texts of which there are so many that hardly one returns."""
    lengths = source.values.drop_nulls().cast(pl.String).str.len_chars()
    long = len(lengths) > 0 and float(lengths.mean() or 0) > 60  # type: ignore[arg-type]
    return long or (source.column.distinct > 0.3 * source.column.rows and source.column.distinct > 50)


def _transform(values: pl.Series) -> tuple[str, str]:
    x = values.drop_nulls().cast(pl.Float64, strict=False).drop_nulls().to_numpy()
    x = x[np.isfinite(x)]
    if len(x) == 0:
        return "standard", "no readable sample"
    low, middle, high = np.quantile(x, [0.0, 0.5, 0.99])
    spread = np.quantile(x, 0.75) - np.quantile(x, 0.25)
    if low >= 0 and high > 20 * max(middle, 1e-9):
        return "log1p", "a long tail to the right"
    if spread > 0 and max(abs(x.max() - middle), abs(low - middle)) > 20 * spread:
        return "quantile", "a few values far away from the others"
    return "standard", "a plain number"


def _placeholder(values: pl.Series) -> str:
    """A remark on texts that stand for a missing value."""
    if values.dtype != pl.String or not len(values):
        return ""
    for word in PLACEHOLDERS:
        share = float((values == word).mean() or 0.0)  # type: ignore[arg-type]
        if share > 0.005:
            return f"; {word!r} in {share:.0%} of the rows reads like a missing value and is kept as a value"
    return ""


def separator_of(source: Source) -> str | None:
    """The sign between values that were written into one text: ``Crime|Drama``."""
    if source.column.kind != "text":
        return None
    texts = source.values.drop_nulls().cast(pl.String).head(5000)
    for sign in ("|", ";", ","):
        parts = texts.str.split(sign)
        if len(texts) and float((parts.list.len() > 1).mean() or 0) > 0.2:  # type: ignore[arg-type]
            distinct = parts.explode().str.strip_chars().n_unique()
            if distinct <= 0.5 * texts.n_unique():
                return sign
    return None


def aggregates(
    member: str,
    item: str,
    sources: Sequence[Source],
    rows: int,
    keys: dict[str, int],
    delay: str,
    pairs_repeat: bool,
) -> list[tuple[dict[str, Any], str]]:
    """Counts and rates of the past for the member, the item, attributes of the item, and their crossings.

    Parameters
    ----------
    keys
        Number of members and items, by column.
    pairs_repeat
        Whether members meet the same item again and again.
    """
    out: list[tuple[dict[str, Any], str]] = [
        ({"by": member, "recency": True, "delay": delay}, f"{keys[member]:,} keys"),
        ({"by": item, "delay": delay}, f"{keys[item]:,} keys"),
    ]
    if pairs_repeat:
        out.append(({"by": [member, item], "recency": True, "delay": delay}, "members meet items again"))
    attributes = [s for s in sources if s.of == "item" and s.keyed]
    attributes = sorted(attributes, key=lambda s: s.column.distinct, reverse=True)[:MOST_ATTRIBUTES]
    for s in attributes:
        out.append(({"by": s.name, "delay": delay}, f"{s.column.distinct:,} keys"))
    for s in attributes:
        out.append(({"by": [member, s.name], "delay": delay}, "what this member makes of such items"))
    contexts = [s for s in sources if s.of not in ("item", "member") and s.keyed and s.column.kind != "list"]
    # Few contexts first: a crossing with an item needs rows under every pair.
    for s in sorted(contexts, key=lambda s: s.column.distinct)[:MOST_CONTEXTS]:
        if words.is_id(s.name):
            out.append(({"by": s.name, "delay": delay}, f"{s.column.distinct:,} keys"))
        if rows >= 2 * keys[item]:
            out.append(({"by": [item, s.name], "delay": delay}, "how the item does in that context"))
    return out
