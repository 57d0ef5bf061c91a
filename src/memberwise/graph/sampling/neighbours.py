"""Multi-hop neighbour sampling: one rule per edge type, one cut-off for the whole tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from memberwise.errors import ConfigError, DataError
from memberwise.graph.adjacency import Adjacency
from memberwise.graph.sampling.base import Block, SampledBatch, Sampler, SampleRequest, SeedBatch
from memberwise.graph.sampling.rows import CODES, Draw, sample_rows
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import NEVER, TIMELESS, EdgeType, edge_name, parse_edge
from memberwise.schema import Duration, Model

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Clock = Literal["seed", "edge"]


class Rule(Model):
    """How neighbours along an edge type are chosen among those before the cut-off."""

    draw: Draw = Field("uniform", description="uniform, weighted, or last: the newest ones.")
    window: Duration | None = Field(None, description="Only edges this recent before the cut-off: 30d.")
    follow: bool = Field(True, description="false: never walk along this edge type.")


class SamplingConfig(Model):
    """How a neighbourhood is sampled."""

    rule: Rule = Field(Rule(), description="For edge types that have no rule of their own.")
    rules: dict[str, Rule] = Field({}, description="By edge type: {'member:rates:item': {draw: last}}.")
    clock: Clock = Field(
        "seed",
        description="Cut-off of a neighbour's own neighbours: the seed's time, or the time of the edge "
        "that led to it (strictly before), as if the neighbour had been looked at when it was touched.",
    )


class NeighbourSampler(Sampler):
    """Trees of neighbours, drawn hop by hop along the edge types of a graph.

    Parameters
    ----------
    graph : HeteroGraph
        What to walk on.
    config : SamplingConfig
        The rules.

    Raises
    ------
    ConfigError
        If a rule names an edge type that the graph does not have.

    Examples
    --------
    >>> import numpy as np
    >>> from memberwise.graph import EdgeArrays, HeteroGraph, NeighbourSampler, SampleRequest, SeedBatch
    >>> from memberwise.graph.nodes import numbered
    >>> rates = ("member", "rates", "item")
    >>> graph = HeteroGraph.from_arrays(
    ...     [numbered("member", 2), numbered("item", 3)],
    ...     [EdgeArrays(rates, np.array([0, 0, 1]), np.array([0, 1, 2]), time=np.array([10, 20, 30]))])
    >>> sampler = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw="last")))
    >>> seeds = SeedBatch("member", np.array([0, 1]), np.array([20, 31]))
    >>> sampler.sample(SampleRequest(seeds, [2])).blocks[0].nodes
    array([[ 0, -1],
           [ 2, -1]], dtype=int32)
    """

    def __init__(self, graph: HeteroGraph, config: SamplingConfig | None = None) -> None:
        self.graph = graph
        self.config = config if config is not None else SamplingConfig()
        self.rules: Mapping[EdgeType, Rule] = _rules(graph, self.config)
        self._edge_numbers = {e: i for i, e in enumerate(graph.edge_types)}

    def with_graph(self, graph: HeteroGraph) -> NeighbourSampler:
        """The same rules on another graph (one with newer events)."""
        return NeighbourSampler(graph, self.config)

    def sample(self, request: SampleRequest) -> SampledBatch:
        """The neighbourhoods of the seeds (see `Sampler.sample`)."""
        seeds = request.seeds
        check_seeds(self.graph, seeds)
        blocks: list[Block] = []
        cuts = np.full(len(seeds), NEVER) if seeds.times is None else seeds.times.copy()
        level = [(-1, seeds.type, seeds.nodes.copy(), cuts)]
        for hop in range(request.hops):
            deeper = []
            for parent, node_type, nodes, cuts in level:
                for edge_type in self.graph.edge_types_from(node_type):
                    k = request.fan_out(edge_type, hop)
                    rule = self.rules[edge_type]
                    if k < 1 or not rule.follow:
                        continue
                    # Unlike numbers for every block: else two of them would draw alike.
                    mixed = (request.seed, hop, parent + 1, self._edge_numbers[edge_type])
                    block = draw_block(
                        self.graph.adjacency[edge_type], nodes, cuts, k, rule, mixed, parent, hop
                    )
                    blocks.append(block)
                    if hop + 1 < request.hops:
                        below = _child_cuts(block, cuts, self.config.clock)
                        deeper.append((len(blocks) - 1, edge_type[2], block.nodes.ravel(), below))
            level = deeper
        return SampledBatch(seeds, tuple(blocks))


def draw_block(
    adjacency: Adjacency,
    nodes: I32,
    cuts: I64,
    k: int,
    rule: Rule,
    seed: tuple[int, ...],
    parent: int = -1,
    hop: int = 0,
) -> Block:
    """Neighbours of many nodes along one edge type. `nodes`, `cuts`: [P], writable and contiguous."""
    shape = (len(nodes), k)
    block = Block(
        adjacency.edge_type,
        parent,
        hop,
        np.empty(shape, np.int32),
        np.empty(len(nodes), np.int32),
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
        np.empty(shape, np.int32),
    )
    sample_rows(
        adjacency.base,
        adjacency.tail,
        nodes,
        cuts,
        rule.window or 0,
        CODES[rule.draw],
        mix_seed(seed),
        block.nodes,
        block.times,
        block.weights,
        block.edges,
        block.count,
    )
    return block


def mix_seed(parts: tuple[int, ...]) -> np.uint64:
    """One 64-bit seed from several numbers."""
    return np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]


def check_seeds(graph: HeteroGraph, seeds: SeedBatch) -> None:
    """Refuse seeds that the graph does not have: kernels do not look."""
    if seeds.type not in graph.nodes:
        known = ", ".join(graph.node_types)
        raise ConfigError(f"there are no nodes of type {seeds.type!r}", fix=f"the graph has {known}")
    count = graph.count(seeds.type)
    if len(seeds) and (int(seeds.nodes.min()) < 0 or int(seeds.nodes.max()) >= count):
        raise DataError(f"a seed is not one of the {count:,} nodes of type {seeds.type!r}")


def _child_cuts(block: Block, cuts: I64, clock: Clock) -> I64:
    inherited = np.repeat(cuts, block.nodes.shape[1])
    if clock == "seed":
        return inherited
    times = block.times.ravel()
    return np.where(times == TIMELESS, inherited, times)


def _rules(graph: HeteroGraph, config: SamplingConfig) -> dict[EdgeType, Rule]:
    own = {parse_edge(name): rule for name, rule in config.rules.items()}
    for edge_type in own:
        if edge_type not in graph.adjacency:
            known = ", ".join(edge_name(e) for e in graph.edge_types)
            raise ConfigError(
                f"a rule names the edge type {edge_name(edge_type)}, which the graph does not have",
                fix=f"it has {known}",
            )
    return {e: own.get(e, config.rule) for e in graph.edge_types}
