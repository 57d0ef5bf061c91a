"""What the log says about success: the tasks to propose, or that there are only positives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from memberwise.starter import words
from memberwise.starter.columns import Column, Table

MOST_TASKS = 4


@dataclass(frozen=True)
class Label:
    """A task to propose.

    Attributes
    ----------
    share
        Share of positive rows in the sample.
    column
        The column that it reads.
    mask
        Where it is defined; None for everywhere.
    """

    name: str
    expression: str
    share: float
    column: str
    why: str
    mask: str | None = None


def find_labels(table: Table, taken: Iterable[str], given: Sequence[str] = ()) -> list[Label]:
    """The labels of a log, most direct first; none if it holds only positives.

    In this order: columns named by the caller; yes/no columns named like an outcome; a column of actions
    (view, purchase, ...); ratings; amounts such as watch time; the only other yes/no column.
    """
    skip = set(taken)
    columns = [c for c in table.columns.values() if c.name not in skip and not c.constant]
    if given:
        named = (_of_given(table, table.columns[name]) for name in given)
        return [label for labels in named for label in labels]
    for found in (
        [
            _binary(table, c)
            for c in columns
            if _yes_no(table, c) and words.BINARY_OUTCOME & words.stems(c.name)
        ],
        [label for c in columns for label in _actions(table, c)],
        [_graded(table, c) for c in columns if _numeric(c) and words.GRADED_OUTCOME & words.stems(c.name)],
        [_graded(table, c) for c in columns if _numeric(c) and words.AMOUNT_OUTCOME & words.stems(c.name)],
        _only_one([_binary(table, c) for c in columns if _yes_no(table, c)]),
    ):
        usable = [label for label in found if 0.0 < label.share < 1.0]
        if usable:
            return usable[:MOST_TASKS]
    return []


def _only_one(labels: list[Label]) -> list[Label]:
    """A yes/no column whose name says nothing is the label only if there is no other."""
    return labels if len(labels) == 1 else []


def _of_given(table: Table, column: Column) -> list[Label]:
    if _yes_no(table, column):
        return [_binary(table, column)]
    return [_graded(table, column)] if _numeric(column) else _actions(table, column)


def _numeric(column: Column) -> bool:
    return column.kind in ("int", "float") and column.distinct > 2 and column.missing_share < 0.5


_YES = ("yes", "y", "true", "t", "1", "1.0", "on", "positive", "pos")
_NO = ("no", "n", "false", "f", "0", "0.0", "off", "negative", "neg", "-1", "-1.0")


def _yes_no(table: Table, column: Column) -> bool:
    if column.binary:
        return True
    if column.distinct != 2 or column.kind not in ("text", "int"):
        return False
    values = {_plain(v) for v in table.sample[column.name].drop_nulls().unique().to_list()}
    return len(values & set(_YES)) == 1 and len(values & set(_NO)) == 1


def _plain(value: object) -> str:
    return str(value).strip().lower()


def quoted(name: str) -> str:
    """A column name in SQL: bare if it is read as that column then.

    Examples
    --------
    >>> quoted("rating"), quoted("order")
    ('rating', '"order"')
    """
    try:
        if name.isascii() and name.isidentifier() and pl.sql_expr(f"{name} = 1").meta.root_names() == [name]:
            return name
    except pl.exceptions.PolarsError:
        pass  # a word of the language: it needs the quotes
    return '"' + name.replace('"', '""') + '"'


def _binary(table: Table, column: Column) -> Label:
    series = table.sample[column.name]
    name = quoted(column.name)
    if column.kind == "bool":
        expression, positive = name, series
    elif column.binary:
        expression, positive = f"{name} = 1", series == 1
    else:
        yes = next(v for v in series.drop_nulls().unique().to_list() if _plain(v) in _YES)
        literal = yes if isinstance(yes, int | float) else "'" + str(yes).replace("'", "''") + "'"
        expression, positive = f"{name} = {literal}", series == yes
    why = "a yes/no column" + (
        " named like an outcome"
        if words.BINARY_OUTCOME & words.stems(column.name)
        else ", the only one: is it?"
    )
    return Label(words.plain_name(column.name), expression, _share(positive), column.name, why, _mask(column))


def _mask(column: Column) -> str | None:
    """Rows without a label would be rejected; many of them are no accident but rows of another kind."""
    return f"{quoted(column.name)} IS NOT NULL" if column.missing_share > 0.005 else None


def _share(positive: pl.Series) -> float:
    share = positive.drop_nulls().cast(pl.Float64).mean()
    return float(share) if share is not None else 0.0  # type: ignore[arg-type]


def _graded(table: Table, column: Column) -> Label:
    """The threshold nearest to the upper half."""
    values = table.sample[column.name].drop_nulls()
    whole = column.kind == "int"
    grid = values.unique().sort()
    if len(grid) > 200:
        grid = pl.Series([values.quantile(q / 20) for q in range(1, 20)]).drop_nulls().unique().sort()
    shares = [_share(values >= t) for t in grid]
    best = min(range(len(grid)), key=lambda i: abs(shares[i] - 0.5))
    threshold = int(grid[best]) if whole else float(f"{float(grid[best]):.4g}")
    name = (
        "liked"
        if words.GRADED_OUTCOME & words.stems(column.name)
        else f"high_{words.plain_name(column.name)}"
    )
    share = _share(values >= threshold)
    why = f"the threshold nearest to the upper half: true for {share:.0%} of the rows"
    expression = f"{quoted(column.name)} >= {threshold}"
    return Label(name, expression, share, column.name, why, _mask(column))


def _actions(table: Table, column: Column) -> list[Label]:
    """A column of actions: each but the most frequent is a label, if its name is one of an outcome."""
    if column.kind != "text" or not 2 <= column.distinct <= 20:
        return []
    counts = table.sample[column.name].drop_nulls().value_counts(sort=True)
    values = [v for v in counts[column.name].to_list() if v]
    known = [v for v in values if words.BINARY_OUTCOME & words.stems(v)]
    if len(known) < max(2, len(values) // 2):
        return []
    weak = {"view", "impression", "open", "play", "skip"}
    wanted = [v for v in known if not weak & words.stems(v)] or known[1:]
    total = int(counts["count"].sum())
    labels = []
    for value in wanted:
        share = int(counts.filter(pl.col(column.name) == value)["count"][0]) / total
        literal = value.replace("'", "''")
        why = f"{share:.1%} of the rows; the other actions are its negatives"
        labels.append(
            Label(words.plain_name(value), f"{quoted(column.name)} = '{literal}'", share, column.name, why)
        )
    return labels
