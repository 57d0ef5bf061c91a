"""Settings of the encoder and of its training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from memberwise.graph.schedule import AdaptiveFanOut
from memberwise.schema import Model


class IdConfig(Model):
    """Embeddings of node ids."""

    buckets: int | None = Field(
        None, ge=2, description="Rows that all ids share; default: twice the number of ids that have one."
    )
    hashes: int = Field(2, ge=1, le=3, description="Rows that make up an id.")
    dropout: float = Field(0.15, ge=0, lt=1, description="Share of ids shown as unknown in training.")
    min_count: int = Field(3, ge=1, description="Edges in train below which a node stays unknown.")


class LongTermConfig(Model):
    """The loss on a member's more distant future."""

    future: int = Field(10, ge=1, description="Newest activities that the ones before must foretell.")
    weight: float = Field(0.1, gt=0, description="Beside the loss of link prediction.")
    temperature: float = Field(0.07, gt=0)


class TemporalConfig(Model):
    """The transformer over a member's activities."""

    length: int = Field(50, ge=2, le=1000, description="Activities, the newest before the moment.")
    prefix: int = Field(4, ge=1, le=16, description="Tokens that the neighbourhood gives.")
    layers: int = Field(1, ge=1, le=4)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    recurrence: int = Field(
        100, ge=0, le=1000, description="Newest activities that a member may come back to; 0 to leave it out."
    )
    long_term: LongTermConfig | None = LongTermConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.long_term is not None and self.long_term.future >= self.length:
            raise ValueError(f"long_term.future {self.long_term.future} leaves no past in {self.length}")
        return self


class EncoderConfig(Model):
    """What the encoder is made of."""

    dim: int = Field(64, ge=16, le=1024, description="Width of an embedding.")
    layers: int = Field(1, ge=1, le=3, description="Hops; 1 is enough where the sampler reaches farther.")
    aggregator: Literal["mean", "attention"] = "attention"
    heads: int = Field(4, ge=1, description="Of the attention.")
    dual: bool = Field(True, description="Separate encoders for who acts and what is acted on.")
    ids: IdConfig | None = IdConfig()
    temporal: TemporalConfig | None = TemporalConfig()
    decoder: Literal["cosine", "mlp"] = Field(
        "cosine", description="cosine can be searched by an index; mlp only ranks."
    )
    popularity: bool = Field(True, description="Let the decoder see how active the destination is.")
    destination_neighbours: int = Field(
        0,
        ge=0,
        le=64,
        description="Newest neighbours of the destination shown to the source; ranking only, no retrieval.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads or (self.temporal is not None and self.dim % self.temporal.heads):
            raise ValueError(f"dim {self.dim} is no multiple of the number of heads")
        if self.destination_neighbours and self.temporal is None:
            raise ValueError("'destination_neighbours' are tokens of the temporal model; add 'temporal: {}'")
        return self

    @property
    def activities(self) -> int:
        """How many activities a query holds."""
        return max(self.temporal.length, self.temporal.recurrence) if self.temporal is not None else 0

    @property
    def remembers(self) -> bool:
        """Whether the model sees which candidates a member chose before."""
        return self.temporal is not None and self.temporal.recurrence > 0

    @property
    def searchable(self) -> bool:
        """Whether a member's vector does not depend on the candidate, so that an index can be searched."""
        return self.decoder == "cosine" and not self.destination_neighbours


class DensifyConfig(Model):
    """Which nodes get artificial edges, and how many."""

    node_types: list[str] | None = Field(None, description="Default: all that have content vectors.")
    low: float = Field(30.0, ge=0, le=100, description="Nodes up to this percentile of degree are cold.")
    high: float = Field(90.0, ge=0, le=100, description="Nodes from this percentile of degree on are hot.")
    k: int = Field(20, ge=1, le=1000, description="Edges that a cold node gets.")
    max_in_degree: int = Field(1000, ge=1, description="Edges that a hot node gets, per moment.")
    min_similarity: float = Field(0.0, ge=0, lt=1, description="Cosine above which an edge is made.")
    moments: int = Field(4, ge=1, le=100, description="How often, spread evenly over the edges' times.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class GraphTrainingConfig(Model):
    """How the encoder is trained."""

    epochs: int = Field(5, ge=1)
    batch_size: int = Field(512, ge=2, description="Consecutive events of one batch.")
    group_size: int = Field(4, ge=1, description="Events of a member that share one query, of the earliest.")
    gradient_steps: int = Field(1, ge=1, description="Updates per batch; group_size for one per slice.")
    negatives: int = Field(256, ge=0, description="Destinations drawn uniformly, beside those of the batch.")
    loss: Literal["softmax", "bce"] = "softmax"
    pair_negatives: int = Field(4, ge=1, description="Per event, where the source sees the destination.")
    adaptive: AdaptiveFanOut | None = Field(
        AdaptiveFanOut(), description="Start with few neighbours; null for the full number from the start."
    )
    mlp_init: float = Field(
        0.0, ge=0, description="Epochs, or a part of one, without any neighbours, before the rest."
    )
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed before an update.")
    optimizer_scaling: Literal["sqrt", "none"] = Field(
        "sqrt", description="How the rate grows with accumulated batches and processes."
    )
    lr: float = Field(2e-3, gt=0)
    embedding_lr: float = Field(0.02, gt=0)
    embedding_decay: float = Field(0.0, ge=0, description="Shrinkage of id rows when they are touched.")
    weight_decay: float = Field(1e-4, ge=0)
    warmup: float = Field(0.05, ge=0, le=0.6)
    clip_norm: float = Field(1.0, gt=0)
    mixed_precision: Literal["auto", "off"] = Field(
        "auto", description="auto: half precision where a probe shows that the device is faster with it."
    )
    evaluations_per_epoch: int = Field(2, ge=1)
    evaluation_events: int = Field(2000, ge=2, description="Events of valid that are scored each time.")
    metric: Literal["auc", "mrr"] = Field(
        "mrr", description="Of valid: auc against all destinations alike, mrr against those of the batch too."
    )
    patience: int = Field(3, ge=1, description="Evaluations without a better metric before it stops.")
    final_passes: int = Field(
        2, ge=0, description="In the end, over the newest events too, which until then decide when it stops."
    )
    checkpoint_seconds: float = Field(60.0, ge=0)
    workers: int = Field(1, ge=0, description="Samplers that work ahead; 0 for none.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
