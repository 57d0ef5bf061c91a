"""A project's log and tables to a graph: checked events in time order, ids by their hashes, nothing later."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import (
    TIME,
    EventChecker,
    Rejects,
    is_entity_column,
    label_column,
)
from memberwise.data.files import Source, need_columns, read_table
from memberwise.data.frame import load_entity_tables
from memberwise.data.hashing import HashIndex, as_text, hash_lists, hash_values
from memberwise.data.log import sort_events
from memberwise.data.times import parse_time
from memberwise.errors import ConfigError, DataError
from memberwise.graph.edges import Affinity, Attribute, Edge, Engagement, Social, default_edges
from memberwise.graph.node_content import content_of, numeric_of
from memberwise.graph.nodes import Nodes
from memberwise.graph.salton import salton_weights
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeArrays
from memberwise.graph.timed_edges import TimedEdges
from memberwise.graph.types import NEVER
from memberwise.schema import Schema

I32 = npt.NDArray[np.int32]


def graph_from_project(
    schema: Schema,
    base: Path | None = None,
    edges: Sequence[Edge] = (),
    before: int | None = None,
    source: Source | None = None,
    *,
    content_before: int | None = None,
) -> HeteroGraph:
    """The graph of everything that a project's log and tables say, as it was known at a moment.

    Parameters
    ----------
    schema : Schema
        What the columns mean.
    base : Path, optional
        Where relative paths start.
    edges
        Which edges to make; default: `default_edges`.
    before : int, optional
        Microseconds: events at or after this moment add neither edges nor nodes.
    source
        Instead of ``schema.events.path``.
    content_before : int, optional
        Microseconds: content vectors may have seen no event from this moment on; default: `before`.

    Raises
    ------
    ConfigError
        If an edge names an entity, a column or an expression that cannot be.
    DataError
        For rows that cannot be used, more than ``events.max_rejected`` of them; for content vectors that
        have seen more than the graph may.
    """
    build = _Build(schema, base, list(edges) or default_edges(schema), before, content_before)
    with tempfile.TemporaryDirectory(prefix="memberwise-graph-") as work:
        checker = build.checker()
        log = sort_events(
            schema.events.path if source is None else source, checker, Path(work) / "events", Rejects(), base
        )
        for chunk in log.chunks():
            build.absorb(chunk)
    return build.graph()


def graph_of_events(
    schema: Schema, events: pl.DataFrame, base: Path | None = None, edges: Sequence[Edge] = ()
) -> HeteroGraph:
    """The graph of checked events alone, as the recommender's updates hold them, and of the tables.

    Raises
    ------
    ConfigError
        If an edge reads a column that checked events do not keep.
    """
    build = _Build(schema, base, list(edges) or default_edges(schema), None)
    wanted = [c for family in build.timed.values() for c in family.columns(schema.task_names)]
    for column in wanted:
        if column not in events.columns:
            raise ConfigError(
                f"an edge reads the column {column!r}, which updates do not keep",
                where="graph.edges",
                fix="say it by a task's label, or make the column a feature",
            )
    build.absorb(events)
    return build.graph()


class _Values:
    """Nodes of one type as they turn up: codes by hash, and the text of each."""

    def __init__(self) -> None:
        self.index, self.texts = HashIndex(), [pl.Series("id", [], dtype=pl.String)]

    def add(self, values: pl.Series) -> I32:
        """Code of each value, -1 where it is missing."""
        size = len(self.index)
        codes = self.index.add(hash_values(values))
        fresh = pl.DataFrame({"code": codes, "id": as_text(values)}).filter(pl.col("code") >= size)
        self.texts.append(fresh.unique("code", maintain_order=True).sort("code")["id"])
        return codes

    def ids(self) -> pl.Series:
        return pl.concat(self.texts)


class _Build:
    """One pass over the log."""

    def __init__(
        self,
        schema: Schema,
        base: Path | None,
        edges: list[Edge],
        before: int | None,
        content_before: int | None = None,
    ) -> None:
        self.schema, self.base, self.edges = schema, base, edges
        self.before = NEVER if before is None else np.int64(before)
        self.content_before = self.before if content_before is None else np.int64(content_before)
        self.tables = load_entity_tables(schema, base)
        self.values: dict[str, _Values] = {}
        self.timed = {
            i: TimedEdges(e, f"graph.edges[{i}]")
            for i, e in enumerate(edges)
            if isinstance(e, Engagement | Affinity)
        }
        self._of_table: dict[tuple[str, int], tuple[I32, npt.NDArray[np.int64]]] = {}
        for i, edge in enumerate(edges):
            self._check(edge, f"graph.edges[{i}]")
        for name, table in self.tables.items():
            self.nodes(name).add(table.ids)

    def nodes(self, node_type: str) -> _Values:
        return self.values.setdefault(node_type, _Values())

    def _check(self, edge: Edge, where: str) -> None:
        names = {
            Engagement: ("source", "target"),
            Affinity: ("source",),
            Social: ("entity",),
        }.get(type(edge), ())
        for key in names:
            if (name := getattr(edge, key)) not in self.schema.entities:
                known = ", ".join(self.schema.entities)
                raise ConfigError(f"{name!r} is not an entity", where=f"{where}.{key}", fix=f"use {known}")
        if isinstance(edge, Attribute | Affinity):
            entity, _, column = edge.column.partition(".")
            if is_entity_column(self.schema, edge.column):
                if entity not in self.tables:
                    raise ConfigError(
                        f"entity {entity!r} has no table", where=f"{where}.column", fix="give it a 'path'"
                    )
                need_columns(self.tables[entity].table.columns, [column], where=f"{where}.column")
            elif isinstance(edge, Attribute):
                raise ConfigError(
                    f"{edge.column!r} is not a column of an entity's table",
                    where=f"{where}.column",
                    fix="write it like item.genres",
                )

    def checker(self) -> EventChecker:
        """Reads what the schema needs and what the edges' expressions need."""
        checker = EventChecker(self.schema)
        extra = [c for t in self.timed.values() for c in t.columns(self.schema.task_names)]
        extra += [
            t.edge.column
            for t in self.timed.values()
            if isinstance(t.edge, Affinity) and not is_entity_column(self.schema, t.edge.column)
        ]
        checker.kept = list(dict.fromkeys([*checker.kept, *extra]))
        return checker

    def absorb(self, chunk: pl.DataFrame) -> None:
        """Edges of a chunk of checked events."""
        chunk = chunk.filter(pl.col(TIME) < int(self.before))
        if not len(chunk):
            return
        tasks = self.schema.task_names
        labels = {t: chunk[label_column(t)].fill_nan(None) for t in tasks if t not in chunk.columns}
        rows = chunk.with_columns(**labels)
        times = chunk[TIME].to_numpy()
        codes = {n: self.nodes(n).add(chunk[e.id]) for n, e in self.schema.entities.items()}
        for family in self.timed.values():
            keep, weight = family.rows_and_weights(rows, tasks)
            source = codes[family.edge.source]
            at, target = self._targets(family.edge, chunk, codes)
            good = keep[at] & (source[at] >= 0) & (target >= 0)
            at, target = at[good], target[good]
            family.parts.append((source[at], target, times[at], weight[at]))

    def _targets(
        self, edge: Engagement | Affinity, chunk: pl.DataFrame, codes: Mapping[str, I32]
    ) -> tuple[npt.NDArray[np.int64], I32]:
        """Row of the chunk and node of every edge that its rows could give."""
        if isinstance(edge, Engagement):
            return np.arange(len(chunk)), codes[edge.target]
        if not is_entity_column(self.schema, edge.column):
            offsets, values = self._listed(edge.column, chunk[edge.column], edge.max_values)
            return np.repeat(np.arange(len(chunk)), np.diff(offsets)), values
        entity = edge.column.partition(".")[0]
        values, offsets = self._table_values(edge.column, edge.max_values)
        row = self.tables[entity].rows(hash_values(chunk[self.schema.entities[entity].id]))
        length = np.append(np.diff(offsets), 0)[row]
        at = np.repeat(np.arange(len(chunk)), length)
        first = np.repeat(offsets[row] - (np.cumsum(length) - length), length)
        return at, values[first + np.arange(len(at))]

    def _table_values(self, column: str, max_values: int) -> tuple[I32, npt.NDArray[np.int64]]:
        """Nodes of the values of a column of an entity's table, and the bounds of each of its rows."""
        if (column, max_values) not in self._of_table:
            entity, _, name = column.partition(".")
            offsets, values = self._listed(column, self.tables[entity].table[name], max_values)
            self._of_table[column, max_values] = (values, offsets)
        return self._of_table[column, max_values]

    def _listed(
        self, node_type: str, column: pl.Series, max_values: int
    ) -> tuple[npt.NDArray[np.int64], I32]:
        """Bounds per row and nodes of the first distinct values of a column of values or lists."""
        nodes = self.nodes(node_type)
        if not isinstance(column.dtype, pl.List | pl.Array):
            codes = nodes.add(column)
            there = codes >= 0
            return np.concatenate([[0], np.cumsum(there)]).astype(np.int64), codes[there]
        flat, offsets = hash_lists(column, max_values)
        values = column.cast(pl.List(column.dtype.inner)).explode()
        nodes.add(values.filter(pl.Series(np.isin(hash_values(values), flat))))  # those within max_values
        return offsets, nodes.index.find(flat)

    def graph(self) -> HeteroGraph:
        """Everything gathered, as a graph."""
        arrays = []
        for i, edge in enumerate(self.edges):
            if isinstance(edge, Engagement):
                arrays.append(self.timed[i].arrays((edge.source, edge.name, edge.target)))
            elif isinstance(edge, Affinity):
                arrays.append(self.timed[i].arrays((edge.source, edge.name, edge.column)))
            elif isinstance(edge, Attribute):
                arrays.append(self._attribute(edge))
            else:
                arrays.append(self._social(edge, f"graph.edges[{i}]"))
        used = {t for a in arrays for t in (a.edge_type[0], a.edge_type[2])}
        nodes = [self._finished(t) for t in sorted(used)]
        return HeteroGraph.from_arrays(nodes, arrays)

    def _attribute(self, edge: Attribute) -> EdgeArrays:
        entity = edge.column.partition(".")[0]
        values, offsets = self._table_values(edge.column, edge.max_values)
        table = self.tables[entity]
        source = self.nodes(entity).add(table.ids)
        weight = None if edge.weight == 1.0 else np.full(len(values), edge.weight, np.float32)
        return EdgeArrays(
            (entity, edge.name, edge.column),
            np.repeat(source, np.diff(offsets)),
            values,
            weight=weight,
            reverse=edge.reverse,
        )

    def _social(self, edge: Social, where: str) -> EdgeArrays:
        table = read_table(edge.path, self.base, text=[edge.source, edge.target])
        named = isinstance(edge.weight, str) and edge.weight != "salton"
        columns = [edge.source, edge.target, *([edge.time] if edge.time else [])]
        columns += [str(edge.weight)] if named else []
        need_columns(table.columns, columns, where=f"{where}.path")
        nodes = self.nodes(edge.entity)
        source, target = nodes.add(table[edge.source]), nodes.add(table[edge.target])
        if missing := int(((source < 0) | (target < 0)).sum()):
            raise DataError(f"{missing:,} rows have no id at one end", where=f"{where}.path")
        time, weight = None, None
        keep = np.ones(len(table), bool)
        if edge.time is not None:
            time = parse_time(table[edge.time], self.schema.events.time_unit).fill_null(-1).to_numpy()
            keep = time < self.before
            time = time[keep]
        if named:
            weight = (
                table[str(edge.weight)]
                .cast(pl.Float32, strict=False)
                .fill_null(float("nan"))
                .to_numpy()[keep]
            )
        elif isinstance(edge.weight, float) and edge.weight != 1.0:
            weight = np.full(int(keep.sum()), edge.weight, np.float32)
        edge_type = (edge.entity, edge.name, edge.entity)
        source, target = source[keep], target[keep]
        if edge.weight == "salton":
            if edge.time is not None:
                raise ConfigError(
                    "common neighbours of the whole table would carry later edges into earlier ones",
                    where=f"{where}.weight",
                    fix="leave out 'time', or give the weight as a column",
                )
            weight = salton_weights(source, target, len(nodes.index))
        return EdgeArrays(edge_type, source, target, time, weight, reverse=edge.reverse, self_loops="drop")

    def _finished(self, node_type: str) -> Nodes:
        ids = self.nodes(node_type).ids()
        table = self.tables.get(node_type)
        features: dict[str, npt.NDArray[Any]] = {}
        if table is not None and (numeric := numeric_of(self.schema, node_type, table, ids)) is not None:
            features["numeric"] = numeric
        content = content_of(self.schema, self.tables, self.base, node_type, ids, self.content_before)
        return Nodes(node_type, ids, features, content)
