"""The part ``graph``: embeddings of members and items, near-line refresh, candidates and similar nodes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.hashing import U64
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import BundleError, DataError
from memberwise.graph.densify import densify
from memberwise.graph.encoder import Embedded, GraphEncoder
from memberwise.graph.feed import QueryMaker
from memberwise.graph.files import open_graph, write_graph
from memberwise.graph.fit import fit_encoder
from memberwise.graph.forgetting import without_nodes
from memberwise.graph.from_project import graph_from_project, graph_of_events
from memberwise.graph.inference import embed_all
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import typed_hashes
from memberwise.graph.retrieval import ItemIndex, Similar, with_repeats
from memberwise.graph.section import GraphConfig
from memberwise.graph.snapshots import refreshed, timelines
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeTable
from memberwise.graph.types import reverse_of
from memberwise.recommender.parts.base import Fitting, Increment, Part, Setting

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class GraphPart(Part):
    """A trained encoder, the graph up to the last event, and vectors of all moments.

    Attributes
    ----------
    config
        The section ``graph``.
    encoder
        Trained on an early share of train.
    graph
        All events so far.
    lines
        Vectors of members and items through time.
    moment
        Just after the last event: as of when candidates are found.
    """

    config: GraphConfig
    encoder: GraphEncoder
    graph: HeteroGraph
    lines: Mapping[str, EmbeddingTimeline]
    moment: int
    name: ClassVar[str] = "graph"
    stage: ClassVar[Literal["before", "along", "after"]] = "before"

    # -- fit --------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        """Train the encoder on the first share of train, then make vectors from there to the log's end."""
        config, prepared = fitting.project.config, fitting.prepared
        assert config.graph is not None
        fitting.progress("graph", 0, 1)
        first, last = prepared.packed.splits["train"]
        times = np.asarray(prepared.packed.arrays["time"])
        learned = int(times[first + int((last - first) * config.graph.learn)])
        # Content is read as it stands at every moment: it may know no more than the encoder.
        graph = graph_from_project(config, fitting.project.base, config.graph.edges, content_before=learned)
        if config.graph.densify is not None:
            graph, _ = densify(graph, config.graph.densify, before=learned)
        encoder, version = fit_encoder(
            graph,
            config.graph,
            learned,
            fitting.run / "graph",
            seed=config.seed,
            resume=fitting.resume,
            watchers=[_Shown(fitting)],
        )
        end = int(times[-1])
        lines = timelines(
            encoder, graph, learned, end, config.graph.refresh, version, progress=fitting.progress
        )
        for entity, line in lines.items():
            prepared.attach(_feature(entity), line)
        return cls(config.graph, encoder, graph, lines, end + 1)

    def vectors(self) -> Mapping[str, EmbeddingTimeline]:
        """The embeddings of members and items."""
        return {_feature(entity): line for entity, line in self.lines.items()}

    # -- move forward -----------------------------------------------------------------------------

    def update(self, increment: Increment, setting: Setting) -> Self:
        """Append the new events' edges and make the vectors of exactly the nodes that they touch."""
        config = setting.project.config
        new = graph_of_events(config, increment.events, setting.project.base, self.config.edges)
        tables = _edge_tables(new, self.graph)
        moment = int(np.asarray(increment.arrays["time"])[-1]) + 1
        if not tables:
            return replace(self, moment=moment)
        graph, ends = self.graph.append(tables)
        if graph.appended > graph_edges(graph) // 10:
            graph = graph.compacted()
        lines = refreshed(self.lines, self.encoder, graph, ends, moment)
        return replace(self, graph=graph, lines=lines, moment=moment)

    def forget(self, members: U64) -> Self:
        """Without these members' nodes, edges and vectors; the encoder no longer knows their ids.

        Rows of the id table are shared by hashing: none of them belongs to a member.
        """
        rows = self.graph.nodes["member"].rows(members)
        gone = rows[rows >= 0]
        known = self.encoder.ids.known.keys
        theirs = typed_hashes(self.graph.nodes["member"])[gone]
        ids = self.encoder.ids
        encoder = replace(
            self.encoder, ids=IdRows(ids.types, ids.buckets, ids.hashes, known[~np.isin(known, theirs)])
        )
        lines = dict(self.lines) | {"member": self.lines["member"].without(members)}
        return replace(self, encoder=encoder, graph=without_nodes(self.graph, "member", gone), lines=lines)

    # -- ask --------------------------------------------------------------------------------------

    @cached_property
    def _queries(self) -> QueryMaker:
        return self.encoder.queries(self.graph)

    def _embedded(self, member: int, moment: int) -> Embedded:
        """One member as of a moment."""
        return self.encoder.embed(self.graph, "member", np.array([member], np.int32), moment, self._queries)

    @cached_property
    def _now(self) -> dict[str, Embedded]:
        """Everybody as of the last event."""
        return embed_all(self.encoder, self.graph, self.moment)

    @cached_property
    def _index(self) -> ItemIndex:
        keys = self._now["item"].keys
        assert keys is not None
        return ItemIndex(keys, self._last_events(), self.moment, self.config.retrieval)

    def _last_events(self) -> npt.NDArray[np.int64]:
        """Time of the last event of every item, 0 for none."""
        last = np.zeros(self.graph.count("item"), np.int64)
        for edge_type in self.graph.observed_types_from("item"):
            edges = self.graph.adjacency[edge_type].coo()
            if edges.time is not None:
                np.maximum.at(last, edges.source, edges.time)
        return last

    @cached_property
    def _similar(self) -> dict[str, Similar]:
        return {t: Similar(e.vectors, self.config.retrieval.exact_below) for t, e in self._now.items()}

    def candidates(self, member: str, moment: int) -> pl.Series | None:
        """Items for a member that it has not chosen yet, best first; None for a member never seen."""
        row = self.graph.nodes["member"].find(pl.Series([member]))
        if row[0] < 0 or not self.encoder.searchable:
            return None
        retrieval = self.config.retrieval
        who = self._embedded(int(row[0]), moment)
        assert who.keys is not None
        seen = np.zeros(0, np.int32) if retrieval.repeats else self._chosen(int(row[0]))
        items, scores = self._index.search(who.keys[0], retrieval.candidates, seen)
        if retrieval.repeats:
            item_keys = self._now["item"].keys
            assert item_keys is not None
            items, scores = with_repeats(items, scores, who, item_keys, retrieval.candidates)
        return self.graph.nodes["item"].ids[items.astype(np.int64)].alias("item")

    def similarities(self, member: str, items: Sequence[str], moment: int) -> npt.NDArray[np.float32] | None:
        """Inner products of the member's key with the items' (what `candidates` orders by, recency aside)."""
        row = self.graph.nodes["member"].find(pl.Series([member]))
        keys = self._now["item"].keys
        if row[0] < 0 or keys is None:
            return None
        who = self._embedded(int(row[0]), moment).keys
        assert who is not None
        rows = self.graph.nodes["item"].find(pl.Series(items, dtype=pl.String))
        return np.where(rows >= 0, keys[np.maximum(rows, 0)] @ who[0], np.nan).astype(np.float32)

    def ready(self) -> None:
        """The vectors of all items, and their index."""
        if self.encoder.searchable:
            _ = self._index, self._queries

    def items(self) -> pl.Series:
        """All items of the graph."""
        return self.graph.nodes["item"].ids

    def _chosen(self, member: int) -> I32:
        """Items that a member has any timed edge to."""
        found = [np.zeros(0, np.int32)]
        for edge_type in self.graph.edge_types_from("member"):
            if edge_type[2] == "item" and self.graph.adjacency[edge_type].timed:
                found.append(self.graph.adjacency[edge_type].neighbours(member))
        return np.unique(np.concatenate(found))

    def similar(self, entity: str, key: str, k: int) -> pl.DataFrame:
        """The k members or items whose vectors are nearest to one's. Columns ``id``, ``cosine``.

        Raises
        ------
        DataError
            If the id is not in the graph, or its kind has no vectors.
        """
        if entity not in self.lines:
            raise DataError(
                f"{entity!r} has no vectors", where="entity", fix=f"use {' or '.join(self.lines)}"
            )
        row = int(self.graph.nodes[entity].find(pl.Series([key]))[0])
        if row < 0:
            near = _nearest(key, self.graph.nodes[entity].ids)
            raise DataError(
                f"{key!r} is not a known {entity}",
                where="id",
                fix=f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else "name it as the log does; the graph knows whoever had an event or a row of the table",
            )
        rows, cosines = self._similar[entity].search(row, k)
        return pl.DataFrame({"id": self.graph.nodes[entity].ids[rows.astype(np.int64)], "cosine": cosines})

    # -- on disk ----------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """The encoder and the graph; vectors are saved with the pipeline."""
        self.encoder.write(folder)
        write_graph(self.graph, folder / "graph")
        (folder / "graph.json").write_text(json.dumps({"moment": self.moment}))

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`."""
        config = setting.project.config.graph
        if config is None:
            raise BundleError("the project has no section graph", where=str(folder))
        try:
            moment = int(json.loads((folder / "graph.json").read_text())["moment"])
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"cannot be read: {error}", where=str(folder)) from error
        lines = {entity: setting.pipeline.vectors[_feature(entity)] for entity in ("member", "item")}
        return cls(config, GraphEncoder.read(folder), open_graph(folder / "graph"), lines, moment)


class _Shown:
    """Shows the training of the encoder as a stage of its own."""

    def __init__(self, fitting: Fitting) -> None:
        self.fitting = fitting

    def record(self, record: Mapping[str, Any]) -> None:
        """Pass it on."""
        for watcher in self.fitting.watchers:
            watcher.record(record)

    def progress(self, step: int, steps: int, rows: int) -> None:
        """How far it is."""
        self.fitting.progress("graph", step, steps)


def _nearest(key: str, ids: pl.Series, most: int = 20_000) -> list[str]:
    """Up to three ids that a mistyped one may have meant; among many, only those that begin or end alike."""
    lengths = ids.str.len_chars().cast(pl.Int64)
    known = ids.filter((lengths - len(key)).abs() <= 2)
    if len(known) > most:
        known = known.filter((known.str.head(2) == key[:2]) | (known.str.tail(2) == key[-2:]))
    return difflib.get_close_matches(key, known.head(most).to_list())


def _feature(entity: str) -> str:
    return f"graph({entity})"


def graph_edges(graph: HeteroGraph) -> int:
    """Number of edges, both directions."""
    return sum(a.edges for a in graph.adjacency.values())


def _edge_tables(new: HeteroGraph, graph: HeteroGraph) -> list[EdgeTable]:
    """The timed edges of a graph of new events, by id; those that lead back make themselves."""
    tables = []
    for edge_type, adjacency in new.adjacency.items():
        backwards = reverse_of(edge_type) in new.adjacency and edge_type[1].startswith("rev_")
        if backwards or not adjacency.timed or not adjacency.edges:
            continue
        edges = adjacency.coo()
        source, target = (new.nodes[t].ids for t in (edge_type[0], edge_type[2]))
        tables.append(
            EdgeTable(
                edge_type,
                source[edges.source.astype(np.int64)],
                target[edges.target.astype(np.int64)],
                time=edges.time,
                weight=edges.weight,
                unknown_ids="add",
                self_loops="drop",
            )
        )
    return tables
