"""All settings of a project: the schema, the ranker, its training, the parts beside it, updates."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from memberwise.graph.section import GraphConfig
from memberwise.meta.config import MetaConfig
from memberwise.ranking.config import RankerConfig, TrainingConfig
from memberwise.ranking.effects import EffectsConfig
from memberwise.ranking.exploration import ExplorationConfig
from memberwise.ranking.incremental import IncrementalConfig
from memberwise.schema import Duration, Model, Schema, parse_duration


class MakesVectors(Protocol):
    """A section of the project that makes vectors for the ranker."""

    def vector_features(self) -> list[dict[str, Any]]:
        """The features, as the project file would declare them: ``kind: vector`` with ``made_by``."""


MAKERS: dict[str, type[BaseModel]] = {"graph": GraphConfig, "meta": MetaConfig}
"""Sections that make vectors, by their key; each class is a `MakesVectors`."""


class FreshConfig(Model):
    """When an update is refused, and when a full retrain is advised."""

    check: float = Field(
        0.3, gt=0, lt=1, description="Share of the new rows, the latest, that are predicted before and after "
        "learning from the others."
    )  # fmt: skip
    check_rows: int = Field(200, ge=1, description="With fewer such rows, nothing is compared.")
    log_loss: float = Field(0.02, gt=0, description="Relative growth of log-loss that refuses a version.")
    calibration: float = Field(
        0.1, gt=0, description="Growth of the gap between observed and expected that refuses a version."
    )
    size: float = Field(2.0, gt=1, description="Growth of the files, as a factor, that refuses a version.")
    retrain: float = Field(
        0.05, gt=0, description="Log-loss on new rows above that of valid, as a share, that asks for a fit."
    )
    increments: int = Field(30, ge=1, description="Increments of the ranker after which a fit is advised.")
    max_ahead: Duration = Field(
        parse_duration("1d"), description="How far ahead of this machine's clock an event may lie.",
        validate_default=False,
    )  # fmt: skip


class ProjectConfig(Schema):
    """A project: what the log means, what ranker to train on it, and how."""

    ranker: RankerConfig = Field(RankerConfig(), description="What the ranker is made of.")
    training: TrainingConfig = Field(TrainingConfig(), description="How it is trained.")
    effects: EffectsConfig | None = Field(
        None, description="Member and item effects that learn with every update; {} for the defaults."
    )
    incremental: IncrementalConfig | None = Field(
        None, description="Let updates train the ranker; {} for the defaults."
    )
    exploration: ExplorationConfig | None = Field(
        None, description="A posterior over the last layer, to explore with; {} for the defaults."
    )
    graph: GraphConfig | None = Field(
        None, description="Graph embeddings of members and items, and retrieval by them; {} for the defaults."
    )
    meta: MetaConfig | None = Field(
        None, description="Embeddings adapted to each entity's latest events; {} for the defaults."
    )
    fresh: FreshConfig = Field(FreshConfig(), description="What updates may do.")
    output: str = Field(
        "runs",
        description="Directory of this project's own directory of runs and bundles, relative to the project "
        "file; '.' keeps them beside the file itself, without a directory of their own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _declare_vectors(cls, values: Any) -> Any:
        """What the graph and meta learning make is shown to the ranker without a further line."""
        if not isinstance(values, dict):
            return values
        features = list(values.get("features") or [])
        for key, section in MAKERS.items():
            if values.get(key) is None or any(
                isinstance(f, dict) and f.get("made_by") == key for f in features
            ):
                continue
            # A mistake inside the section is told with its place when the section itself is validated.
            with contextlib.suppress(ValidationError):
                features += section.model_validate(values[key]).vector_features()  # type: ignore[attr-defined]
        return values | {"features": features} if features else values

    @model_validator(mode="after")
    def _predict_what_there_is(self) -> Self:
        if self.graph is None:
            return self
        made = self.graph.engagements()
        for name in self.graph.predict:
            if name not in made:
                there = f"they make {' and '.join(made)}" if made else "add an engagement to graph.edges"
                raise ValueError(f"graph.predict: no events make edges {name}: {there}")
        return self

    @model_validator(mode="after")
    def _densify_by_content(self) -> Self:
        if self.graph is None or self.graph.densify is None:
            return self
        with_content = {f.entity for f in self.features if f.kind == "vector" and f.made_by is None}
        wanted = self.graph.densify.node_types
        without = sorted(set(wanted) - with_content) if wanted else ([] if with_content else [*self.entities])
        if without:
            raise ValueError(
                f"graph.densify: there are no content vectors of {', '.join(without)}; give it a feature "
                "'kind: vector' with 'path' or 'column', or leave 'densify' out"
            )
        return self
