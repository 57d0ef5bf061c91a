"""Settings of meta learning: the project's section ``meta``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from memberwise.schema import DAY, Delay, Duration, Model

Variant = Literal["limaml", "fomaml", "anil", "cavia", "reptile"]


class InnerConfig(Model):
    """How an entity's copy of the meta block is adapted to its support."""

    variant: Variant = Field(
        "limaml",
        description="limaml: whole block, second order; fomaml: first order; anil: output layer only; "
        "cavia: the embedding itself; reptile: first order, the block moves towards the adapted ones.",
    )
    steps: int = Field(2, ge=0, le=10, description="Gradient steps K; 0 leaves the block as it is.")
    rate: float = Field(1.0, gt=0, description="Initial step size; learned per layer (Meta-SGD).")
    learn_rates: bool = Field(True, description="Learn step sizes and kappa in the outer loop.")
    clip_norm: float = Field(1.0, gt=0, description="Limit of the norm of an entity's gradient.")
    shrinkage: float = Field(
        4.0,
        ge=0,
        description="Initial kappa: steps shrink by n / (n + kappa) for n rows; learned like the rates.",
    )
    balance: float = Field(
        0.0, ge=0, le=1, description="0: rows weigh the same; 1: both labels weigh the same in a support."
    )


class MetaTask(Model):
    """One meta block: whose embedding it makes."""

    by: str | list[str] = Field(
        description="An entity (member, item, ...), or the columns of a pair: [user_id, item.category]."
    )
    dim: int = Field(16, ge=1, le=1024, description="Width p of the embedding.")
    hidden: list[int] = Field([64, 64], description="Hidden widths of the block.")


class MetaTrainingConfig(Model):
    """The outer loop."""

    epochs: int = Field(3, ge=1)
    tasks_per_step: int = Field(256, ge=1, description="Entities a step.")
    tasks_per_epoch: int | None = Field(None, ge=1, description="At most so many, drawn anew every epoch.")
    query: int = Field(32, ge=1, description="Query rows of a task at most; more make further tasks.")
    period: Duration = Field(
        7 * DAY, description="Query rows of a task lie within so much time after its cut-off."
    )
    min_rows: int = Field(1, ge=1, description="Only entities with so many rows in train.")
    empty: float = Field(0.1, ge=0, lt=1, description="Share of tasks that lose their support.")
    weights: Literal["rows", "tasks"] = Field(
        "rows", description="rows: by query size, as in serving; tasks: equal, which favours rare entities."
    )
    lr: float = Field(3e-3, gt=0, description="Of the meta block (Adam).")
    rate_lr: float = Field(3e-2, gt=0, description="Of the logarithms of the step sizes.")
    ranker_lr: float = Field(
        1e-4, ge=0, description="Of the ranker's dense layers; 0 leaves them as they are."
    )
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    evaluations_per_epoch: int = Field(2, ge=1)
    patience: int = Field(4, ge=1, description="Evaluations without a better log-loss on valid.")
    checkpoint_seconds: float = Field(60.0, ge=0)


class MetaConfig(Model):
    """Meta embeddings: vectors per entity, adapted to its latest events and refreshed often."""

    tasks: list[MetaTask] = Field([MetaTask(by="member")], min_length=1)
    support: int = Field(32, ge=1, le=4096, description="Most recent rows that an entity adapts to.")
    window: Duration | None = Field(None, description="Only rows so recent: 28d.")
    delay: Delay = Field(
        "daily", description="How often embeddings are refreshed; see the delays of aggregates."
    )
    inner: InnerConfig = InnerConfig()
    training: MetaTrainingConfig = MetaTrainingConfig()

    def vector_features(self) -> list[dict[str, Any]]:
        """The features that this makes, as a project file would declare them."""
        found = []
        for task in self.tasks:
            whose = {"entity": task.by} if isinstance(task.by, str) else {"by": list(task.by)}
            found.append({"kind": "vector", "made_by": "meta", "dim": task.dim, **whose})
        return found

    @model_validator(mode="after")
    def _check(self) -> MetaConfig:
        names = [task_name(t) for t in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"meta.tasks: {name!r} stands twice")
        if self.delay == "frozen":
            raise ValueError(
                "meta.delay: embeddings that are never refreshed are no use; write daily or hourly"
            )
        return self


def task_name(task: MetaTask) -> str:
    """Name of the embedding as a feature: ``meta(member)``, ``meta(user_id x item.category)``."""
    return f"meta({' x '.join(task_keys(task))})"


def task_keys(task: MetaTask) -> list[str]:
    """The parts of a task's key."""
    return [task.by] if isinstance(task.by, str) else list(task.by)
