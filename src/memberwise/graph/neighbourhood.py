"""How the encoder's neighbours are chosen, in training and later."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memberwise.graph.sampling.base import Sampler
from memberwise.graph.sampling.neighbours import NeighbourSampler, Rule, SamplingConfig
from memberwise.graph.sampling.ppr import RELATION, PPRConfig, PPRSampler
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import EdgeType, edge_name, is_artificial
from memberwise.schema import Duration, Model


class Neighbourhood(Model):
    """Which neighbours a node hears from."""

    draw: Literal["last", "uniform", "weighted", "ppr"] = Field(
        "last",
        description="last: the newest; uniform, weighted: at random in training, the newest later; ppr: "
        "those at which walks of up to two steps end most often (one layer only).",
    )
    fan_out: int = Field(30, ge=1, le=1000, description="Neighbours a node and edge type.")
    window: Duration | None = Field(None, description="Only edges this recent: 30d.")

    @property
    def reach(self) -> int:
        """Hops that one query walks."""
        return 2 if self.draw == "ppr" else 1

    def sampler(self, graph: HeteroGraph, training: bool) -> Sampler:
        """Draws neighbours: at random only if that is wanted and in training."""
        if self.draw == "ppr":
            return PPRSampler(graph, PPRConfig(window=self.window))
        draw = self.draw if training else "last"
        # How old an artificial edge is says nothing: only the moment from which on it may be seen.
        ageless = {edge_name(e): Rule(draw=draw) for e in graph.edge_types if is_artificial(e)}
        return NeighbourSampler(
            graph, SamplingConfig(rule=Rule(draw=draw, window=self.window), rules=ageless)
        )

    def virtual(self, graph: HeteroGraph) -> tuple[EdgeType, ...]:
        """Edge types that are no edges of the graph but come from the sampler."""
        if self.draw != "ppr":
            return ()
        return tuple((a, RELATION, b) for a in graph.node_types for b in graph.node_types)
