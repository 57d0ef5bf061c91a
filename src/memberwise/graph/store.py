"""The graph: typed nodes, typed edges with times and weights, and the neighbours of every node in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.errors import ConfigError, DataError, counted
from memberwise.graph.adjacency import Adjacency, Coo, compress, no_edges
from memberwise.graph.edges import Edge
from memberwise.graph.nodes import Nodes
from memberwise.graph.tables import EdgeArrays, EdgeTable, check_ids, micros
from memberwise.graph.types import EdgeType, edge_name, is_artificial, reverse_of
from memberwise.schema import Schema

I32 = npt.NDArray[np.int32]


class _Project(Protocol):
    """What is read of a project: it lives on a higher floor."""

    @property
    def config(self) -> Schema: ...

    @property
    def base(self) -> Path | None: ...


@dataclass(frozen=True)
class HeteroGraph:
    """A heterogeneous temporal graph, immutable: what changes it returns a new one that shares the arrays.

    The neighbours of a node along an edge type are the targets of its edges, oldest first. Edges with times
    happened at a moment, and a sampler under the cut-off t sees exactly those before t; edges of a timeless
    type always hold. Safe to read from many threads; opened from files, processes share its pages.

    Attributes
    ----------
    nodes : mapping of str to Nodes
        By node type.
    adjacency : mapping of EdgeType to Adjacency
        By edge type, reverse types included.
    edge_features : mapping of EdgeType to ndarray
        By edge type as given (the reverse type shares them); row ``edge`` belongs to edge number ``edge``.

    Examples
    --------
    >>> import polars as pl
    >>> from memberwise.graph import EdgeTable, HeteroGraph
    >>> graph = HeteroGraph.from_tables(edges=[EdgeTable(
    ...     ("member", "rates", "item"), pl.Series(["ann", "bob", "ann"]), pl.Series(["x", "x", "y"]),
    ...     time=pl.Series([3, 5, 9]), unknown_ids="add")])
    >>> graph
    HeteroGraph(item 2, member 2; item:rev_rates:member 3, member:rates:item 3)
    >>> graph.neighbours("ann", ("member", "rates", "item"), before=9)
    ['x']
    """

    nodes: Mapping[str, Nodes]
    adjacency: Mapping[EdgeType, Adjacency]
    edge_features: Mapping[EdgeType, npt.NDArray[Any]] = field(default_factory=dict)

    # -- making one ------------------------------------------------------------------------------------

    @classmethod
    def from_tables(
        cls, nodes: Iterable[Nodes] = (), edges: Iterable[EdgeTable] = (), base: HeteroGraph | None = None
    ) -> HeteroGraph:
        """A graph from tables of nodes and edges with ids of any kind.

        Parameters
        ----------
        nodes
            Node types; one that edges name and nodes do not starts empty, for ``unknown_ids="add"``.
        edges
            In any order; see `EdgeTable` for what is refused and what is done about it.
        base
            Add to this graph instead of starting anew.

        Raises
        ------
        DataError
            For ids that no table holds, times that are missing or negative, self loops, and the like.
        """
        known = dict(base.nodes if base else {}) | {n.type: n for n in nodes}
        arrays = [_looked_up(table, known) for table in edges]
        return cls.from_arrays(known.values(), arrays, base)

    @classmethod
    def from_arrays(
        cls, nodes: Iterable[Nodes], edges: Iterable[EdgeArrays], base: HeteroGraph | None = None
    ) -> HeteroGraph:
        """A graph from edges whose ends are node numbers.

        Raises
        ------
        DataError
            As `from_tables`.
        ConfigError
            If an edge type stands twice or names a node type that is not there.
        """
        known = {n.type: n for n in nodes}
        adjacency = {
            e: a.resized(len(known[e[0]]), len(known[e[2]]))
            for e, a in (base.adjacency if base else {}).items()
        }
        features = dict(base.edge_features) if base else {}
        for table in edges:
            _check_type(table.edge_type, known, adjacency)
            source, _, target = table.edge_type
            coo, extra = table.checked(len(known[source]), len(known[target]))
            adjacency[table.edge_type] = _adjacency(table.edge_type, coo, known)
            if table.reverse:
                back = reverse_of(table.edge_type)
                _check_type(back, known, adjacency)
                adjacency[back] = _adjacency(back, coo.flipped(), known)
            if extra is not None:
                features[table.edge_type] = extra
        return cls(known, adjacency, features)

    @classmethod
    def from_project(
        cls, project: _Project, edges: Sequence[Edge] = (), before: int | None = None, source: Any = None
    ) -> HeteroGraph:
        """The graph of a project's log and tables, as it was known at a moment.

        Parameters
        ----------
        project : Project
            Its schema says what the columns mean.
        edges
            Settings of the edges (`memberwise.graph.edges`); default: member engages item where a label is
            above 0, and the categories of the entities' tables.
        before : int, optional
            Microseconds: events at or after this moment add neither edges nor nodes.
        source
            Events, instead of those that the project names.
        """
        from memberwise.graph.from_project import graph_from_project  # it builds one of these

        return graph_from_project(project.config, project.base, edges, before, source)

    # -- reading it ------------------------------------------------------------------------------------

    @property
    def node_types(self) -> tuple[str, ...]:
        """Names of the node types, sorted."""
        return tuple(sorted(self.nodes))

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        """Edge types, reverse ones included, sorted."""
        return tuple(sorted(self.adjacency))

    def edge_types_from(self, node_type: str) -> tuple[EdgeType, ...]:
        """Edge types along which nodes of a type have neighbours, sorted."""
        return tuple(e for e in self.edge_types if e[0] == node_type)

    def observed_types_from(self, node_type: str) -> tuple[EdgeType, ...]:
        """Of these, the types that the log and the tables give: all but what densification made."""
        return tuple(e for e in self.edge_types_from(node_type) if not is_artificial(e))

    def count(self, node_type: str) -> int:
        """Number of nodes of a type."""
        return len(self.nodes[node_type])

    @property
    def last_time(self) -> int | None:
        """Time of the newest edge in microseconds; None without timed edges."""
        times = [t for a in self.adjacency.values() if (t := a.last_time) is not None]
        return max(times) if times else None

    def neighbours(self, node: str, edge_type: EdgeType, before: int | None = None) -> list[str]:
        """Ids of a node's neighbours by its id, oldest first: for people and tests."""
        row = int(self.nodes[edge_type[0]].find(pl.Series([node]))[0])
        if row < 0:
            raise DataError(f"{node!r} is not a node of type {edge_type[0]!r}")
        found = self.adjacency[edge_type].neighbours(row, before)
        return self.nodes[edge_type[2]].ids[found.astype(np.int64)].to_list()

    def __repr__(self) -> str:
        nodes = ", ".join(f"{t} {len(self.nodes[t]):,}" for t in self.node_types)
        edges = ", ".join(f"{edge_name(e)} {self.adjacency[e].edges:,}" for e in self.edge_types)
        return f"HeteroGraph({nodes}; {edges})"

    # -- files -----------------------------------------------------------------------------------------

    def write(self, folder: str | Path) -> None:
        """Write a directory that `open` maps; it appears whole or not at all (see `memberwise.graph.files`).

        What this graph itself maps from files is linked, so that a graph with a batch appended costs what
        was appended.
        """
        from memberwise.graph.files import write_graph  # it reads one of these

        write_graph(self, Path(folder))

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> HeteroGraph:
        """Map a directory that `write` wrote; processes that open the same one share its memory.

        Parameters
        ----------
        folder
            The directory.
        verify
            Compare every file with its SHA-256 first. Workers may skip what their parent did.

        Raises
        ------
        BundleError
            Names the file that is missing, truncated or altered.
        """
        from memberwise.graph.files import open_graph

        return open_graph(Path(folder), verify)

    # -- changing it -----------------------------------------------------------------------------------

    def append(self, edges: Sequence[EdgeTable | EdgeArrays]) -> tuple[HeteroGraph, dict[str, I32]]:
        """The graph with a batch of newer edges, and the nodes that they touch.

        Costs what was appended since the last `compacted`, not the size of the graph. Ids that are not
        known become new nodes if the table says ``unknown_ids="add"``.

        Parameters
        ----------
        edges
            Of edge types that the graph has; times not before the newest edge of that type.

        Returns
        -------
        graph : HeteroGraph
        touched : dict of str to ndarray of int32
            By node type, sorted: the ends of the new edges.

        Raises
        ------
        DataError
            If an edge is older than what the graph holds: rebuild it with `from_tables` instead.
        ConfigError
            If the edge type is not in the graph.
        """
        known = dict(self.nodes)
        arrays = [_looked_up(e, known) if isinstance(e, EdgeTable) else e for e in edges]
        adjacency = {e: a.resized(len(known[e[0]]), len(known[e[2]])) for e, a in self.adjacency.items()}
        features, ends = dict(self.edge_features), {t: [np.zeros(0, np.int32)] for t in known}
        for table in arrays:
            edge_type = table.edge_type
            if edge_type not in adjacency:
                known_types = ", ".join(edge_name(e) for e in self.edge_types)
                raise ConfigError(
                    f"the graph has no edge type {edge_name(edge_type)}", fix=f"it has {known_types}"
                )
            coo, extra = table.checked(len(known[edge_type[0]]), len(known[edge_type[2]]))
            before = adjacency[edge_type]
            _check_newer(before, coo)
            coo = coo._replace(edge=(coo.edge + before.edges).astype(np.int32))
            features |= _more_features(features.get(edge_type), extra, before, edge_type)
            adjacency[edge_type] = _extended(before, coo)
            back = reverse_of(edge_type)
            if back in adjacency:
                adjacency[back] = _extended(adjacency[back], coo.flipped())
            ends[edge_type[0]].append(coo.source)
            ends[edge_type[2]].append(coo.target)
        touched = {t: np.unique(np.concatenate(parts)) for t, parts in ends.items()}
        return HeteroGraph(known, adjacency, features), touched

    @property
    def appended(self) -> int:
        """Number of edges, both directions, that `compacted` would merge into the base."""
        return sum(a.tail.edges for a in self.adjacency.values())

    def compacted(self) -> HeteroGraph:
        """The same graph with everything appended merged into the base."""
        adjacency = {
            e: replace(a, base=compress(a.coo(), a.sources), tail=no_edges()) if a.tail.edges else a
            for e, a in self.adjacency.items()
        }
        return replace(self, adjacency=adjacency)


def _looked_up(table: EdgeTable, nodes: dict[str, Nodes]) -> EdgeArrays:
    """Ids to node numbers; ids to be added extend `nodes`."""
    where = f"edges {edge_name(table.edge_type)}"
    ends = []
    for name, node_type, ids in (
        ("source", table.edge_type[0], table.source),
        ("target", table.edge_type[2], table.target),
    ):
        hashes = check_ids(ids, f"{where}, {name}")
        there = nodes.get(node_type, Nodes(node_type, pl.Series([], dtype=pl.String)))
        rows = there.rows(hashes)
        unknown = rows < 0
        if unknown.any():
            if table.unknown_ids == "error":
                example = ids.cast(pl.String)[int(np.argmax(unknown))]
                rows_of = counted(int(unknown.sum()), "row")
                raise DataError(
                    f"ids of {node_type} in {rows_of} are no nodes, such as {example!r}",
                    where=f"{where}, {name}",
                    fix="add it to the nodes, or set unknown_ids to add or drop",
                )
            if table.unknown_ids == "add":
                new = ids.cast(pl.String).filter(pl.Series(unknown)).unique(maintain_order=True)
                there = there.extended(new)
                rows = there.rows(hashes)
        nodes[node_type] = there
        ends.append(rows)
    source, target = ends
    if table.edge_type[0] == table.edge_type[2]:  # the second look-up may have added what the first missed
        source = nodes[table.edge_type[0]].rows(check_ids(table.source, where))
    time = None if table.time is None else micros(table.time, where)
    weight, features = table.weight, table.features
    if table.unknown_ids == "drop":
        good = (source >= 0) & (target >= 0)
        source, target = source[good], target[good]
        time, weight, features = (None if a is None else a[good] for a in (time, weight, features))
    return EdgeArrays(
        table.edge_type,
        source,
        target,
        time,
        weight,
        features,
        reverse=table.reverse,
        duplicates=table.duplicates,
        self_loops=table.self_loops,
    )


def _check_type(
    edge_type: EdgeType, nodes: Mapping[str, Nodes], adjacency: Mapping[EdgeType, Adjacency]
) -> None:
    where = f"edges {edge_name(edge_type)}"
    if edge_type in adjacency:
        raise ConfigError("the edge type stands twice", where=where, fix="give one of them another relation")
    for node_type in (edge_type[0], edge_type[2]):
        if node_type not in nodes:
            raise ConfigError(f"there are no nodes of type {node_type!r}", where=where)


def _check_newer(adjacency: Adjacency, edges: Coo) -> None:
    where = f"edges {edge_name(adjacency.edge_type)}"
    if adjacency.edges and len(edges.source) and adjacency.timed != (edges.time is not None):
        has = "times" if adjacency.timed else "no times"
        raise DataError(f"the graph's edges have {has}, the new ones differ", where=where)
    newest = adjacency.last_time
    if newest is not None and edges.time is not None and len(edges.time) and int(edges.time.min()) < newest:
        late = int((edges.time < newest).sum())
        raise DataError(
            f"{late:,} edges are older than the newest edge of the graph",
            where=where,
            fix="append in the order of time, or build the graph anew from all edges",
        )


def _extended(adjacency: Adjacency, edges: Coo) -> Adjacency:
    """With new edges in the tail. Weights of 1 are written out as soon as one side has others."""
    if not len(edges.source):
        return adjacency
    if edges.weight is not None and adjacency.edges and not adjacency.weighted:
        whole = adjacency.coo()
        ones = np.ones(len(whole.source), np.float32)
        adjacency = replace(
            adjacency, base=compress(whole._replace(weight=ones), adjacency.sources), tail=no_edges()
        )
    if edges.weight is None and adjacency.weighted:
        edges = edges._replace(weight=np.ones(len(edges.source), np.float32))
    if adjacency.tail.edges:
        edges = replace(adjacency, base=adjacency.tail, tail=no_edges()).coo().then(edges)
    return replace(adjacency, tail=compress(edges, adjacency.sources))


def _more_features(
    old: npt.NDArray[Any] | None, new: npt.NDArray[Any] | None, before: Adjacency, edge_type: EdgeType
) -> dict[EdgeType, npt.NDArray[Any]]:
    if old is None and new is None:
        return {}
    if before.edges and (old is None) != (new is None):
        raise DataError("some edges have features and some have not", where=f"edges {edge_name(edge_type)}")
    return {edge_type: np.concatenate([a for a in (old, new) if a is not None])}


def _adjacency(edge_type: EdgeType, edges: Coo, nodes: Mapping[str, Nodes]) -> Adjacency:
    sources, targets = len(nodes[edge_type[0]]), len(nodes[edge_type[2]])
    return Adjacency(edge_type, sources, targets, compress(edges, sources), no_edges())
