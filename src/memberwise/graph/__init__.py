"""Graphs of events: store, samplers, densification."""

from memberwise.graph.adjacency import Adjacency
from memberwise.graph.nodes import Nodes
from memberwise.graph.sampling.base import Block, SampledBatch, Sampler, SampleRequest, SeedBatch
from memberwise.graph.sampling.neighbours import NeighbourSampler, Rule, SamplingConfig
from memberwise.graph.sampling.ppr import PPRConfig, PPRSampler
from memberwise.graph.sampling.subgraph import Subgraph, SubgraphEdges, sample_subgraph
from memberwise.graph.sampling.unique import UniqueNodes, unique_nodes
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeArrays, EdgeTable
from memberwise.graph.types import NEVER, TIMELESS, EdgeType, edge_name, parse_edge, reverse_of

__all__ = [
    "NEVER",
    "TIMELESS",
    "Adjacency",
    "Block",
    "EdgeArrays",
    "EdgeTable",
    "EdgeType",
    "HeteroGraph",
    "NeighbourSampler",
    "Nodes",
    "PPRConfig",
    "PPRSampler",
    "Rule",
    "SampleRequest",
    "SampledBatch",
    "Sampler",
    "SamplingConfig",
    "SeedBatch",
    "Subgraph",
    "SubgraphEdges",
    "UniqueNodes",
    "edge_name",
    "parse_edge",
    "reverse_of",
    "sample_subgraph",
    "unique_nodes",
]
