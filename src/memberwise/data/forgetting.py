"""Take a member out of features: aggregates, histories, vocabularies, tables and vectors.

What is kept under a member's own key is erased: the numbers become zero, and the key a random one, so that
nothing on disk names the member and nobody ever finds the place again. Sums over all members (how often an
item was chosen) are no longer any one member's, and stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.aggregates import AggregateState
from memberwise.data.arrays import Arrays
from memberwise.data.events import is_entity_column
from memberwise.data.frame import EntityTable, Frame
from memberwise.data.hashing import U64, combine, hash_values
from memberwise.data.history import HistoryState
from memberwise.data.keys import keys
from memberwise.data.pending import NEVER
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.vocabulary import FIRST, Vocabulary
from memberwise.schema import Categorical, Schema, feature_name

Rows = dict[str, npt.NDArray[np.int64]]
"""By embedding table: rows that belonged to a forgotten member."""


def without(
    pipeline: FeaturePipeline, members: U64, events: pl.DataFrame | None = None
) -> tuple[FeaturePipeline, Rows]:
    """A pipeline that does not know these members, and the rows of embedding tables that were theirs.

    Parameters
    ----------
    pipeline
        As it is; it does not change.
    members
        Hashed ids.
    events
        Checked events of these members, as far as they are at hand: they name the combined keys (member and
        store, member and genre). Combinations with values that tables and vocabularies know are found
        without them.
    """
    other = pipeline.copy()
    if "member" in other.tables:
        other.tables["member"] = _without_rows(other.tables["member"], members)
    for name, line in pipeline.vectors.items():
        if line.entity == "member":
            other.attach(name, line.without(members))
    frame = None if events is None or not len(events) else Frame(events, pipeline.schema, pipeline.tables)
    rows: Rows = {}
    for name in _own_tables(pipeline.schema):
        other.vocabularies[name], rows[name] = _without_values(pipeline.vocabularies[name], members)
    for mine, theirs in zip(pipeline.aggregates, other.aggregates, strict=True):
        theirs.load_arrays(_copied(mine.to_arrays()))
        found = _keys(pipeline, mine, members, frame)
        if len(found):
            theirs.load_arrays(_aggregate_without(theirs, found, frame))
    for name, history in pipeline.histories.items():
        other.histories[name].load_arrays(_history_without(history, members))
    return other, {name: found for name, found in rows.items() if len(found)}


def knows(pipeline: FeaturePipeline, members: U64) -> list[str]:
    """Where these members are still to be found under their own key."""
    found = []
    for a in pipeline.aggregates:
        if a.spec.by == [pipeline.schema.entities["member"].id] and a.knows(members).any():
            found.append(f"aggregate '{a.name}'")
    for name, h in pipeline.histories.items():
        if h.knows(members).any():
            found.append(f"history '{name}'")
    own = _own_tables(pipeline.schema)
    found += [f"vocabulary '{n}'" for n in own if _held(pipeline.vocabularies[n].index.keys, members)]
    for name, line in pipeline.vectors.items():
        if line.entity == "member" and _held(line.keys, members):
            found.append(f"vectors '{name}'")
    if "member" in pipeline.tables and (pipeline.tables["member"].rows(members) >= 0).any():
        found.append("table of members")
    return found


def _held(keys: npt.NDArray[np.generic], members: U64) -> bool:
    return bool(np.isin(members, np.asarray(keys, np.uint64)).any())


def _own_tables(schema: Schema) -> list[str]:
    """Embedding tables with a row for every member."""
    column = schema.entities["member"].id
    features = [f for f in schema.features if isinstance(f, Categorical) and f.column == column]
    return sorted({f.table or feature_name(f) for f in features if f.encoding == "vocabulary"})


def _without_rows(table: EntityTable, members: U64) -> EntityTable:
    rows = table.rows(members)
    rows = rows[rows >= 0]
    if not len(rows):
        return table
    kept = np.setdiff1d(np.arange(len(table.table)), rows)
    return EntityTable(table.name, table.table[kept], table.ids.name)


def _without_values(vocabulary: Vocabulary, members: U64) -> tuple[Vocabulary, npt.NDArray[np.int64]]:
    codes = vocabulary.index.find(members)
    codes = codes[codes >= 0]
    if not len(codes):
        return vocabulary, codes.astype(np.int64)
    other = Vocabulary(vocabulary.name, vocabulary.encoding, vocabulary.min_count, vocabulary.remainders)
    state = _copied(vocabulary.to_arrays())
    state["keys"] = _renamed(state["keys"], codes)
    if len(state["counts"]):
        state["counts"][FIRST + codes] = 0
    other.load_arrays(state)
    return other, (codes + FIRST).astype(np.int64)


def _keys(pipeline: FeaturePipeline, aggregate: AggregateState, members: U64, frame: Frame | None) -> U64:
    """Keys of an aggregate that belong to these members alone."""
    by, column = aggregate.spec.by, pipeline.schema.entities["member"].id
    if column not in by:
        return np.zeros(0, np.uint64)
    if len(by) == 1:
        return members
    found = [np.zeros(0, np.uint64)]
    if frame is not None:
        found.append(keys(frame, by, aggregate.spec.max_values)[0])
    if len(by) == 2:
        values = _values(pipeline, by[1 - by.index(column)])
        for member in members:
            same = np.full(len(values), member, np.uint64)
            found.append(combine(same, values) if by[0] == column else combine(values, same))
    return np.unique(np.concatenate(found))


def _values(pipeline: FeaturePipeline, column: str) -> U64:
    """Every hashed value of a column that tables and vocabularies know."""
    found = [np.zeros(0, np.uint64)]
    for f in pipeline.schema.features:
        if isinstance(f, Categorical) and f.column == column:
            found.append(pipeline.vocabularies[f.table or feature_name(f)].index.keys)
    entity, dot, name = column.partition(".")
    if dot and is_entity_column(pipeline.schema, column):
        table = pipeline.tables[entity]
        series = table.table[name]
        flat = series.explode() if isinstance(series.dtype, pl.List) else series
        found.append(hash_values(flat.drop_nulls().unique()))
    for entity, spec in pipeline.schema.entities.items():
        if spec.id == column and entity in pipeline.tables:
            found.append(hash_values(pipeline.tables[entity].ids))
    return np.unique(np.concatenate(found))


def _aggregate_without(aggregate: AggregateState, gone: U64, frame: Frame | None) -> Arrays:
    state = _copied(aggregate.to_arrays())
    order = np.asarray(state["keys"], np.uint64)
    codes = np.flatnonzero(np.isin(order, gone))
    state["keys"] = _renamed(order, codes)
    at = codes + 1  # place 0 is all keys together
    state["sums"][at], state["at"][at], state["last"][at] = 0.0, 0, NEVER
    for j, column in enumerate(aggregate.spec.distinct):
        state[f"distinct{j}"][at] = 0
        if frame is not None:
            flat, offsets = keys(frame, aggregate.spec.by, aggregate.spec.max_values)
            row = np.repeat(np.arange(len(frame)), np.diff(offsets))
            pairs = np.asarray(state[f"pairs{j}"], np.uint64)
            theirs = np.flatnonzero(np.isin(pairs, combine(flat, frame.values(column)[row])))
            state[f"pairs{j}"] = _renamed(pairs, theirs)
    return state


def _history_without(history: HistoryState, members: U64) -> Arrays:
    state = _copied(history.to_arrays())
    order = np.asarray(state["members"], np.uint64)
    codes = np.flatnonzero(np.isin(order, members))
    state["members"] = _renamed(order, codes)
    for name in ("ring_items", "ring_times", "total"):
        state[name][codes] = 0
    state["ring_actions"][codes] = 0
    waiting = np.isin(state["pending.column.member"], codes)
    state["pending.column.item"][waiting] = 0
    state["pending.column.action"][waiting] = 0
    return state


def _renamed(order: U64, codes: npt.NDArray[np.integer]) -> U64:
    """Random keys in some places; codes stay as they are. From no seed: nobody can redo it."""
    out = order.copy()
    taken, generator = set(order.tolist()), np.random.default_rng()
    for code in codes:
        new = 0
        while new == 0 or new in taken:
            new = int(generator.integers(1, np.iinfo(np.uint64).max, dtype=np.uint64))
        taken.add(new)
        out[code] = new
    return out


def _copied(state: Arrays) -> Arrays:
    return {k: np.array(v) for k, v in state.items()}
