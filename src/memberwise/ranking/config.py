"""Settings of the ranker and of its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from memberwise.nn.cross import CrossConfig
from memberwise.nn.isotonic import IsotonicConfig
from memberwise.nn.mlp import MLPConfig
from memberwise.nn.multitask import HardSharingConfig
from memberwise.nn.numeric import PiecewiseConfig
from memberwise.ranking.wiring import Block, MultiTaskHead
from memberwise.schema import Model


class RankerConfig(Model):
    """What the ranker is made of."""

    embedding_dim: int = Field(8, ge=1, le=1024, description="Width of the embedding tables.")
    blocks: Annotated[list[Block], Field(min_length=1)] = Field(
        [CrossConfig(), MLPConfig()], description="Interaction blocks, each sees the input."
    )
    stacked: bool = Field(False, description="Feed each block with the output of the one before instead.")
    heads: MultiTaskHead = Field(
        HardSharingConfig(), description="How tasks part: shared, grouped, mmoe or ple; see the docs."
    )
    calibration: IsotonicConfig | None = Field(
        None, description="A monotone curve on each task's logit, learned with the rest; {} for the defaults."
    )
    calibration_features: list[str] = Field(
        [], description="Categorical features that bend the curves, such as device or channel."
    )
    wide: bool = Field(True, description="A weight per id and task beside the deep part.")
    batch_norm: bool = Field(True, description="Batch normalisation of the dense inputs.")
    numeric: PiecewiseConfig | None = Field(
        None, description="Curves of the numeric columns beside the columns themselves; {} for the defaults."
    )
    id_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of all ids shown as unseen in training, however frequent."
    )
    id_dropout_few: float = Field(
        100.0,
        ge=0,
        description="Rare ids are shown as unseen more often: one seen n times in a share f / (f + n).",
    )
    input_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout on the embeddings.")


class TrainingConfig(Model):
    """How the ranker is trained."""

    epochs: int = Field(3, ge=1, description="Passes over train; the rates fall over all of them.")
    batch_size: int = Field(1024, ge=1)
    optimizer: Literal["adam", "adagrad"] = Field("adam", description="Of the dense part.")
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="Decoupled, of the dense part.")
    sparse_optimizer: Literal["rowwise_adagrad", "lazy_adam"] = "rowwise_adagrad"
    embedding_lr: float = Field(0.005, gt=0, description="Ids overfit within a pass: slow is safe.")
    embedding_decay: float = Field(0.0, ge=0, description="Shrinkage of rows when they are touched.")
    rare_decay: float = Field(
        0.0, ge=0, description="Shrinkage of a row seen n times in train, divided by n at each touch."
    )
    embedding_epochs: int | None = Field(
        None, ge=1, description="Epochs after which the tables stand still; null: they always learn."
    )
    warmup: float = Field(0.05, ge=0, le=0.6, description="Share of all steps in which the rate grows.")
    schedule: Literal["constant", "cosine"] = "cosine"
    clip_norm: float | None = Field(1.0, gt=0, description="Limit of the norm of the dense gradient.")
    metric: Literal["log_loss", "auc", "normalised_entropy"] = Field(
        "log_loss", description="Mean over tasks on valid; decides when to stop and which weights are kept."
    )
    platt: bool = Field(
        True,
        description="Fit slope and shift of each task's logit on valid; not where ranker.calibration does.",
    )
    evaluations_per_epoch: int = Field(2, ge=1, description="How often valid is scored.")
    patience: int = Field(4, ge=1, description="Evaluations without a better metric before training stops.")
    checkpoint_seconds: float = Field(60.0, ge=0, description="Time between checkpoints for --resume.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
