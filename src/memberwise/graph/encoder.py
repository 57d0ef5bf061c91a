"""A trained encoder and all that it takes to embed the nodes of any later graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.errors import BundleError, ConfigError
from memberwise.formats import FIRST, check_format
from memberwise.graph.blocks import Query
from memberwise.graph.config import EncoderConfig
from memberwise.graph.degrees import WIDTH
from memberwise.graph.feed import QueryMaker
from memberwise.graph.link_batch import nodes_of, query_of
from memberwise.graph.model import GraphModel, GraphShape
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import NodeTable
from memberwise.graph.sampling.base import SeedBatch
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import EdgeType, edge_name, parse_edge
from memberwise.nn.checkpoint import load_tensors, save_tensors

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Number = TypeVar("Number", np.int32, np.int64)
_CHUNK = 512

FORMAT = 2
"""Of the files of an encoder; 2 since the weights of recurrence move in steps of one parameter."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of some nodes of one type, as of one moment.

    Attributes
    ----------
    vectors : ndarray of float32, [n, d]
        What a ranker takes.
    keys : ndarray of float32, [n, d + 1] or None
        What an index searches: the inner product of a member's and an item's is the decoder's score. None
        if the decoder cannot be searched.
    recent : ndarray of int32, [n, N] or None
        Items (their node numbers, -1 for none) that a member chose of late; None for items, and where the
        encoder does not look at them.
    bonus : ndarray of float32, [n, N] or None
        What each of them adds to the score of its item.
    """

    vectors: F32
    keys: F32 | None = None
    recent: I32 | None = None
    bonus: F32 | None = None

    def scores(self, items: Embedded) -> F32:
        """Scores of every member with every item, all items in the order of their numbers. ``[n, items]``

        Raises
        ------
        ConfigError
            If the decoder cannot be searched.
        """
        if self.keys is None or items.keys is None:
            raise ConfigError("this decoder scores pairs, not vectors", fix="use decoder: cosine")
        found: F32 = self.keys @ items.keys.T
        if self.recent is not None and self.bonus is not None:
            row, place = np.nonzero(self.recent >= 0)
            np.add.at(found, (row, self.recent[row, place]), self.bonus[row, place])
        return found


@dataclass(frozen=True)
class GraphEncoder:
    """A trained encoder.

    Attributes
    ----------
    model : GraphModel
        Weights.
    ids : IdRows
        Which ids it knows.
    edge_types : tuple of EdgeType
        Edge types by their number; those of the graph that it was trained on.
    relations : tuple of EdgeType
        What it predicts; the first decides what counts as similar and what is retrieved.
    neighbourhood : Neighbourhood
        How neighbours are chosen.
    """

    model: GraphModel
    ids: IdRows
    edge_types: tuple[EdgeType, ...]
    relations: tuple[EdgeType, ...]
    neighbourhood: Neighbourhood

    @classmethod
    def new(
        cls,
        graph: HeteroGraph,
        relations: tuple[EdgeType, ...],
        config: EncoderConfig,
        neighbourhood: Neighbourhood,
        ids: IdRows,
        seed: int = 0,
    ) -> GraphEncoder:
        """An untrained encoder for a graph.

        Raises
        ------
        ConfigError
            If several layers are asked for where one query reaches two hops already.
        """
        if neighbourhood.reach > 1 and config.layers > 1:
            raise ConfigError(
                f"ppr reaches two hops in one query; {config.layers} layers are asked for",
                where="graph.encoder.layers",
                fix="write layers: 1, or another neighbourhood.draw",
            )
        table = NodeTable.of(graph, ids)
        edge_types = (*graph.edge_types, *neighbourhood.virtual(graph))
        shape = GraphShape(table.widths, len(edge_types), WIDTH, len(relations))
        model = GraphModel(shape, config, ids, seed)
        return cls(model, ids, edge_types, relations, neighbourhood)

    @property
    def source_type(self) -> str:
        """Type of the nodes that act."""
        return self.relations[0][0]

    @property
    def destination_type(self) -> str:
        """Type of the nodes that are acted on."""
        return self.relations[0][2]

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.model.config.dim

    def queries(self, graph: HeteroGraph, *, training: bool = False) -> QueryMaker:
        """Makes the encoder's queries on a graph: at random for training, the same every time otherwise.

        Raises
        ------
        ConfigError
            If the graph has edge types or node types that the encoder was not trained on.
        """
        if set(graph.edge_types) - set(self.edge_types) or graph.node_types != tuple(self.model.input.types):
            raise ConfigError("the graph has other types of nodes or edges than the encoder was trained on")
        sampler = self.neighbourhood.sampler(graph, training)
        kinds = {e: i for i, e in enumerate(self.edge_types)}
        ends = (self.source_type, self.destination_type)
        acts = tuple(e for e in graph.edge_types if (e[0], e[2]) == ends and graph.adjacency[e].timed)
        return QueryMaker(
            graph, sampler, NodeTable.of(graph, self.ids), self.model.config, kinds, acts, even=not training
        )

    # -- embed ------------------------------------------------------------------------------------

    def embed(
        self,
        graph: HeteroGraph,
        node_type: str,
        nodes: I32,
        moment: int | I64,
        queries: QueryMaker | None = None,
    ) -> Embedded:
        """Vectors of some nodes, new ones included, from the graph strictly before a moment.

        Parameters
        ----------
        graph
            The graph; it may hold later edges.
        node_type
            Source or destination type of the relations.
        nodes : ndarray of int32, [n]
            Which.
        moment : int or ndarray of int64, [n]
            Microseconds; one for all, or one for each.
        queries
            Of this graph, if the caller has them.

        Raises
        ------
        ConfigError
            If nodes of this type are never embedded, or a member's vector depends on the candidate.
        """
        queries = queries or self.queries(graph)
        self.check(node_type)
        moments = np.broadcast_to(np.asarray(moment, np.int64), nodes.shape)
        found = [
            self._chunk(queries, SeedBatch(node_type, part, when))
            for part, when in zip(chunks(nodes), chunks(moments), strict=True)
        ]
        return joined(found, self.dim)

    def _chunk(self, queries: QueryMaker, seeds: SeedBatch) -> Embedded:
        acting = seeds.type == self.source_type
        arrays = queries.arrays(
            seeds if acting else None, None if acting else seeds, self.neighbourhood.fan_out, 0
        )
        query = query_of(arrays, "source" if acting else "destination")
        self.model.eval()
        with torch.inference_mode():
            states = self.model.states(nodes_of(arrays, queries.table.numbers.types))
            z = self.model.sources(states, query) if acting else self.model.destinations(states, query)
            return self.finished(queries, seeds, query, z, query.degrees)

    def finished(
        self, queries: QueryMaker, seeds: SeedBatch, query: Query, z: Tensor, degrees: Tensor
    ) -> Embedded:
        """Vectors with their keys and, for members, what they did of late."""
        acting = seeds.type == self.source_type
        keys = self._keys(z, degrees, acting)
        recurrence = self.model.recurrence
        if not acting or recurrence is None or query.activities is None:
            return Embedded(z.numpy(), keys)
        numbers, _ = queries.activities(seeds)
        numbers = numbers[:, -recurrence.length :]
        recent = np.where(numbers < 0, -1, numbers - queries.table.numbers.start(self.destination_type))
        return Embedded(z.numpy(), keys, recent.astype(np.int32), recurrence(query.activities).numpy())

    def _keys(self, z: Tensor, degrees: Tensor, acting: bool) -> F32 | None:
        """What an index searches with (members) or holds (items); None if it cannot be searched."""
        if not self.searchable:
            return None
        decoder: Any = self.model.decoder
        if acting:
            found = decoder.queries(z, torch.zeros(len(z), dtype=torch.long, device=z.device))
        else:
            found = decoder.keys(z, degrees)
        return np.asarray(found)

    @property
    def searchable(self) -> bool:
        """Whether an index can find a member's best items."""
        return self.model.config.searchable

    def check(self, node_type: str) -> None:
        """Refuse types of nodes that have no vectors."""
        if node_type not in (self.source_type, self.destination_type):
            raise ConfigError(
                f"nodes of type {node_type!r} are only looked at, never embedded",
                fix=f"use {self.source_type} or {self.destination_type}",
            )
        if self.model.config.destination_neighbours and node_type == self.source_type:
            raise ConfigError(
                "with 'destination_neighbours' a member has another vector for every candidate",
                where="graph.encoder.destination_neighbours",
                fix="set it to 0 to have vectors and to retrieve; use pair scores to rank",
            )

    # -- on disk ----------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write ``encoder.safetensors`` and ``known.safetensors``."""
        shape = self.model.shape
        about = {
            "format": FORMAT,
            "config": self.model.config.model_dump(mode="json"),
            "features": dict(shape.features),
            "edge_types": [edge_name(e) for e in self.edge_types],
            "relations": [edge_name(e) for e in self.relations],
            "neighbourhood": self.neighbourhood.model_dump(mode="json"),
            "ids": [self.ids.types, self.ids.buckets, self.ids.hashes],
        }
        save_tensors(folder / "encoder.safetensors", self.model.state_dict(), about)
        save_arrays(folder / "known.safetensors", {"ids": {"known": self.ids.known.keys}})

    @classmethod
    def read(cls, folder: Path) -> GraphEncoder:
        """The inverse of `write`.

        Raises
        ------
        BundleError
            If the files are damaged, do not fit together, or are of another format.
        """
        file = folder / "encoder.safetensors"
        tensors, about = load_tensors(file)
        check_format(about.get("format", FIRST), FORMAT, file, oldest=FORMAT)
        known = load_arrays(folder / "known.safetensors")["ids"]["known"]
        try:
            types, buckets, hashes = about["ids"]
            ids = IdRows(types, buckets, hashes, known)
            edge_types = tuple(parse_edge(e) for e in about["edge_types"])
            relations = tuple(parse_edge(e) for e in about["relations"])
            shape = GraphShape(about["features"], len(edge_types), WIDTH, len(relations))
            model = GraphModel(shape, EncoderConfig(**about["config"]), ids)
            model.load_state_dict(tensors)
            around = Neighbourhood(**about["neighbourhood"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"is not an encoder: {error}", where=str(folder)) from error
        return cls(model.eval(), ids, edge_types, relations, around)


def chunks(nodes: npt.NDArray[Number]) -> Iterator[npt.NDArray[Number]]:
    """Nodes in portions that fit the cache."""
    for first in range(0, len(nodes), _CHUNK):
        yield nodes[first : first + _CHUNK]


def joined(parts: Sequence[Embedded], dim: int) -> Embedded:
    """Portions, one behind the other."""
    if not parts:
        return Embedded(np.zeros((0, dim), np.float32))
    columns: list[Any] = []
    for name in ("vectors", "keys", "recent", "bonus"):
        arrays = [getattr(part, name) for part in parts]
        columns.append(None if arrays[0] is None else np.concatenate(arrays))
    return Embedded(*columns)
