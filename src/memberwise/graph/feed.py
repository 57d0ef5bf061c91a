"""From records to batches: which records belong together, what their queries are, and the negatives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.graph.config import EncoderConfig
from memberwise.graph.degrees import CROWD, WINDOWS, crowds, degrees
from memberwise.graph.link_batch import narrow
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import NodeTable
from memberwise.graph.queries import Level, ages, distinct, layer_blocks, levels
from memberwise.graph.records import Records, grouped
from memberwise.graph.sampling.base import FanOuts, Sampler, SampleRequest, SeedBatch
from memberwise.graph.sampling.neighbours import NeighbourSampler, Rule, SamplingConfig
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import TIMELESS, EdgeType

Arrays = dict[str, npt.NDArray[Any]]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
PRIOR = 50.0
"""Events that the popularity over a longer window counts for in that over a shorter one."""


@dataclass(frozen=True)
class BatchRequest:
    """Which batch is wanted, and how.

    Attributes
    ----------
    index
        Number of the batch in time.
    fan_out
        Neighbours a node and edge type; 0 for no query at all.
    group_size
        Records of a source that share a query.
    seed
        Of the draws.
    """

    index: int
    fan_out: int
    group_size: int
    seed: int


class QueryMaker:
    """Samples what one tower of the encoder sees of some nodes at some moments.

    Parameters
    ----------
    graph
        The graph. Nothing at or after a moment is seen.
    sampler
        Draws neighbours.
    table
        Inputs of the nodes.
    config
        Hops, activities, neighbours of destinations.
    kinds
        Number of each edge type.
    acts : tuple of EdgeType
        What counts as an activity of a source.
    even : bool
        As many neighbours in every hop, so that a node's state does not depend on how it was reached.
        Otherwise each hop takes a third of the one before.
    """

    def __init__(
        self,
        graph: HeteroGraph,
        sampler: Sampler,
        table: NodeTable,
        config: EncoderConfig,
        kinds: Mapping[EdgeType, int],
        acts: tuple[EdgeType, ...],
        even: bool = False,
    ) -> None:
        self.graph, self.sampler, self.table = graph, sampler, table
        self.config, self.kinds, self.acts, self.even = config, kinds, acts, even
        self._newest = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw="last")))

    def knowing(self, rows: IdRows) -> QueryMaker:
        """The same queries with other ids known."""
        other = copy.copy(self)
        other.table = self.table.knowing(self.graph, rows)
        return other

    def arrays(
        self,
        source: SeedBatch | None,
        destination: SeedBatch | None,
        fan_out: int,
        seed: int,
    ) -> Arrays:
        """Arrays of the queries of both towers, and of the distinct nodes that they met.

        Parameters
        ----------
        source, destination
            Seeds with their moments; None leaves the tower out.
        fan_out
            Neighbours a node and edge type; 0 samples nothing.
        seed
            Of the draws.
        """
        out: Arrays = {}
        met: list[tuple[str, I64]] = []  # what the numbers are for, and the numbers (-1: none)
        trees: dict[str, list[Level]] = {}
        for tower, seeds in (("source", source), ("destination", destination)):
            if seeds is None:
                continue
            tree = self.tree(seeds, fan_out, seed, self.config.layers)
            trees[tower] = tree
            met += [(tower, np.concatenate([level.nodes for level in tree]))]
        if source is not None and self.config.temporal is not None:
            nodes, extra = self.activities(source)
            met.append(("source.activities.nodes", nodes))
            out |= extra
        if destination is not None and self.config.destination_neighbours:
            met.append(("destination.peers", self.peers(destination)))
        found, rows = self._number(met)
        out |= self.table.gather(found)
        for (name, _), mine in zip(met, rows, strict=True):
            if name not in trees:
                out[name] = mine
                continue
            seeds = source if name == "source" else destination
            assert seeds is not None
            out |= self._tower(name, trees[name], seeds, mine)
        return narrow(out)

    def _tower(self, tower: str, tree: list[Level], seeds: SeedBatch, rows: I64) -> Arrays:
        out: Arrays = {f"{tower}.seeds": rows[: len(seeds)]}
        for i, block in enumerate(self.blocks(tree, seeds, rows)):
            out |= {f"{tower}.{i}.{name}": array for name, array in block.items()}
        return out

    def blocks(self, tree: list[Level], seeds: SeedBatch, rows: I64) -> list[Arrays]:
        """The encoder's blocks of a tree; `rows` are those of the nodes of all its levels."""
        inner = tree[:-1]
        assert seeds.times is not None
        moments = seeds.times[np.concatenate([level.seeds for level in inner])]
        nodes = np.concatenate([level.nodes for level in inner])
        return layer_blocks(tree, rows, degrees(self.graph, self.table.numbers, nodes, moments))

    def _number(self, met: list[tuple[str, I64]]) -> tuple[I64, list[I64]]:
        """Distinct nodes and, for every array of numbers, their rows; -1 stays -1."""
        flat = np.concatenate([numbers.ravel() for _, numbers in met])
        there = flat >= 0
        found, rows = distinct(flat[there], self.table.numbers.total)
        whole = np.full(len(flat), -1, np.int64)
        whole[there] = rows
        sizes = np.cumsum([numbers.size for _, numbers in met])[:-1]
        parts = np.split(whole, sizes)
        return found, [p.reshape(n.shape) for p, (_, n) in zip(parts, met, strict=True)]

    def tree(self, seeds: SeedBatch, fan_out: int, seed: int, hops: int) -> list[Level]:
        """The neighbourhoods of seeds by hops; without a query if `fan_out` is 0."""
        if not fan_out:
            return _alone(seeds, self.table, hops)
        request = SampleRequest(seeds, self._fan_outs(fan_out, hops), seed)
        return levels(self.sampler.sample(request), self.table.numbers, self.kinds, hops)

    def _fan_outs(self, fan_out: int, hops: int) -> FanOuts:
        return tuple(fan_out if self.even else max(1, round(fan_out / 3**hop)) for hop in range(hops))

    def activities(self, seeds: SeedBatch) -> tuple[I64, Arrays]:
        """The newest activities of sources before their moments, oldest first, newest in the last place."""
        assert self.config.temporal is not None
        nodes, times, kinds = self._recent(seeds, self.acts, self.config.activities)
        assert seeds.times is not None
        out: Arrays = {
            "source.activities.kinds": kinds,
            "source.activities.ages": ages(seeds.times[:, None], times),
        }
        if self.config.remembers:
            there = nodes >= 0
            now = np.broadcast_to(seeds.times[:, None], nodes.shape)[there]
            crowd = np.zeros((*nodes.shape, CROWD), np.float32)
            crowd[there] = crowds(self.graph, self.table.numbers, nodes[there], times[there], now)
            out["source.activities.crowd"] = crowd
        return nodes, out

    def peers(self, seeds: SeedBatch) -> I64:
        """The newest neighbours of destinations before their moments."""
        back = self.graph.observed_types_from(seeds.type)
        timed = tuple(e for e in back if self.graph.adjacency[e].timed)
        return self._recent(seeds, timed, self.config.destination_neighbours)[0]

    def _recent(self, seeds: SeedBatch, along: tuple[EdgeType, ...], length: int) -> tuple[I64, I64, I64]:
        """Numbers, times and kinds of the newest neighbours over several edge types, in the order of time."""
        sampled = self._newest.sample(SampleRequest(seeds, dict.fromkeys(along, (length,))))
        shape = (len(seeds), 0)
        nodes, times, kinds = (
            [np.zeros(shape, np.int64)],
            [np.zeros(shape, np.int64)],
            [np.zeros(shape, np.int64)],
        )
        for block in sampled.blocks:
            start = self.table.numbers.start(block.edge_type[2])
            nodes.append(np.where(block.nodes >= 0, block.nodes.astype(np.int64) + start, -1))
            times.append(np.where(block.nodes >= 0, block.times, TIMELESS))
            kinds.append(np.full(block.nodes.shape, self.kinds[block.edge_type], np.int64))
        node, time, kind = (np.concatenate(x, 1) for x in (nodes, times, kinds))
        if node.shape[1] < length:
            missing = ((0, 0), (length - node.shape[1], 0))
            node = np.pad(node, missing, constant_values=-1)
            time = np.pad(time, missing, constant_values=int(TIMELESS))
            kind = np.pad(kind, missing)
        order = np.argsort(time, 1, kind="stable")[:, -length:]
        node, time, kind = (np.take_along_axis(x, order, 1) for x in (node, time, kind))
        return node, time, np.where(node >= 0, kind, 0)


def _alone(seeds: SeedBatch, table: NodeTable, hops: int) -> list[Level]:
    """The tree of a query that was not made."""
    numbers = seeds.nodes.astype(np.int64) + table.numbers.start(seeds.type)
    trees = []
    for hop in range(hops + 1):
        nodes = numbers if hop == 0 else numbers[:0]
        none = np.zeros((len(nodes), 0), np.int64)
        empty = none.astype(np.float32)
        trees.append(Level(nodes, np.arange(len(nodes)), none, none, empty, empty))
    return trees


class LinkFeed:
    """Batches of records that follow each other in time.

    A batch holds consecutive records. Sources are seen at the time of the earliest record of their group,
    candidates at the time of the batch's first record: nothing in a batch is newer than a label in it.

    Parameters
    ----------
    queries : QueryMaker
        Samples neighbourhoods.
    records : Records
        What to predict, all of it, in the order of time.
    batch_size : int
        Records a batch.
    negatives : int
        Candidates that are drawn uniformly, beside the batch's own destinations.
    """

    def __init__(self, queries: QueryMaker, records: Records, batch_size: int, negatives: int) -> None:
        self.queries, self.records = queries, records
        self.batch_size, self.negatives = batch_size, negatives
        self.count = queries.graph.count(records.destination_type) if len(records) else 0

    @property
    def batches(self) -> int:
        """How many there are; one with fewer than two records is left out."""
        n = len(self.records)
        return n // self.batch_size + (n % self.batch_size >= 2)

    def batch(self, request: BatchRequest) -> Arrays:
        """The arrays of one batch (`LinkBatch.from_arrays`). The same request gives the same arrays."""
        first = request.index * self.batch_size
        records = self.records.take(slice(first, first + self.batch_size))
        groups = grouped(records, request.group_size)
        seed, drawn = np.random.SeedSequence((request.seed, request.index)).generate_state(2)
        uniform = np.random.default_rng(int(drawn)).integers(0, self.count, self.negatives)
        own = np.unique(records.destinations)
        others = np.setdiff1d(uniform, own)
        candidates = np.concatenate([own, others]).astype(np.int32)
        start = np.full(len(candidates), records.times[0])
        source = SeedBatch(records.source_type, groups.members, groups.times)
        destination = SeedBatch(records.destination_type, candidates, start)
        arrays = self.queries.arrays(source, destination, request.fan_out, int(seed))
        column = np.searchsorted(own, records.destinations)
        pair = groups.group.astype(np.int64) * len(records.relations) + records.relation
        _, lead, row = np.unique(pair, return_index=True, return_inverse=True)
        arrays |= {
            "group": groups.group,
            "column": column.astype(np.int32),
            "relation": records.relation,
            "place": groups.place,
            "row": row.astype(np.int32),
            "first": lead.astype(np.int32),
            "weights": records.weights,
            "log_q": self._log_q(arrays["destination.0.degrees"][: len(candidates)], len(records), first),
            "forbidden": _chosen(records.sources, column, len(candidates), lead),
            "uniform": np.arange(len(candidates)) >= len(own),
        }
        if self.queries.config.remembers:
            # A model that sees what a member chose before must learn which of it comes next.
            assert self.queries.config.temporal is not None
            length = self.queries.config.temporal.recurrence
            arrays["forbidden"] &= ~_remembered(arrays, length)[groups.group[lead]]
        return arrays

    def _log_q(self, recent: npt.NDArray[np.float32], size: int, first: int) -> npt.NDArray[np.float32]:
        """Log of the chance that each candidate is in a batch, from what was popular before it.

        A candidate comes by being chosen (about ``size * p`` times, p its share of the edges) or by the
        uniform draw. Shares change fast: that of each window is smoothed towards that of the next longer one,
        ``p_w = (n_w + m p) / (N_w + m)``.
        """
        share = np.full(len(recent), 1.0 / self.count)
        for i, window in enumerate(WINDOWS[:-1]):
            begin = int(np.searchsorted(self.records.times, self.records.times[first] - window))
            strength = self.count if i == 0 else PRIOR
            share = (np.expm1(recent[:, 1 + i]) + strength * share) / (first - begin + strength)
        expected = size * share + self.negatives / self.count
        return np.log(-np.expm1(-expected)).astype(np.float32)


def _chosen(sources: I32, columns: I64, candidates: int, some: I64) -> npt.NDArray[np.bool_]:
    """For some records, the candidates that their source chose somewhere in the batch. ``[Q, C]``"""
    _, source = np.unique(sources, return_inverse=True)
    hits = np.zeros((int(source.max()) + 1, candidates), bool)
    hits[source, columns] = True
    return hits[source[some]]


def _remembered(arrays: Arrays, length: int) -> npt.NDArray[np.bool_]:
    """Candidates among the newest activities of each query. ``[G, C]``"""
    activities, candidates = arrays["source.activities.nodes"][:, -length:], arrays["destination.seeds"]
    place = np.full(len(arrays["ids"]), -1)
    place[candidates] = np.arange(len(candidates))
    column = np.where(activities < 0, -1, place[activities])
    seen = np.zeros((len(activities), len(candidates)), bool)
    group, at = np.nonzero(column >= 0)
    seen[group, column[group, at]] = True
    return seen
