"""The section ``graph`` of a project file."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from memberwise.graph.config import DensifyConfig, EncoderConfig, GraphTrainingConfig
from memberwise.graph.edges import Edge, Engagement
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.retrieval import RetrievalConfig
from memberwise.graph.types import RESEMBLES, parse_edge
from memberwise.schema import DAY, Duration, Model


class GraphConfig(Model):
    """Graph embeddings of members and items, as features of the ranker and to retrieve candidates.

    The encoder learns from an early share of train alone. From then on vectors are made at regular moments
    from the events before each, so that no row ever meets a vector that knows of it.
    """

    edges: list[Edge] = Field(
        [], description="Which edges to make; default: what members chose, and categories of the tables."
    )
    predict: dict[str, float] = Field(
        {"member:engages:item": 1.0}, description="Edge types to learn from, and their weight in the loss."
    )
    densify: DensifyConfig | None = Field(
        None, description="Edges from nodes with few edges to well-known ones that resemble them in content."
    )
    encoder: EncoderConfig = EncoderConfig()
    neighbourhood: Neighbourhood = Neighbourhood()
    training: GraphTrainingConfig = GraphTrainingConfig()
    learn: float = Field(
        0.5, gt=0, lt=1, description="Share of train that the encoder learns from; the ranker gets the rest."
    )
    refresh: Duration = Field(DAY, description="How often the vectors of touched nodes are made anew.")
    retrieval: RetrievalConfig = RetrievalConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.predict:
            raise ValueError("'predict' names no edges: the encoder has nothing to learn")
        for name in self.predict:
            source, _, target = parse_edge(name)
            if (source, target) != ("member", "item"):
                raise ValueError(f"'predict': {name} does not lead from member to item")
        if any(edge.name == RESEMBLES for edge in self.edges):
            raise ValueError(f"'edges': {RESEMBLES!r} is what 'densify' makes; take another name")
        if self.encoder.destination_neighbours:
            raise ValueError(
                "'destination_neighbours' makes a member's vector depend on the item: no feature, no index"
            )
        return self

    def engagements(self) -> list[str]:
        """Edge types from member to item that a project's events make."""
        made = [e for e in self.edges or [Engagement()] if isinstance(e, Engagement)]
        return [f"member:{e.name}:item" for e in made if (e.source, e.target) == ("member", "item")]

    def vector_features(self) -> list[dict[str, Any]]:
        """The features that this makes, as a project file would declare them."""
        made = {"kind": "vector", "made_by": "graph", "dim": self.encoder.dim}
        return [{**made, "entity": entity} for entity in ("member", "item")]
