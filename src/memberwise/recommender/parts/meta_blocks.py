"""One meta block of a version: how it is trained on the project's log, and how its embeddings are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise.data.hashing import U64
from memberwise.data.pipeline import FeaturePipeline, key_column
from memberwise.data.prepare import fingerprint as data_fingerprint
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.data.times import cutoffs
from memberwise.meta.block import MetaBlock
from memberwise.meta.config import MetaConfig, MetaTask, task_keys, task_name
from memberwise.meta.episodes import I64, Tasks, find_tasks
from memberwise.meta.generate import fingerprint, generate
from memberwise.meta.inner import InnerLoop
from memberwise.meta.learner import MetaLearner
from memberwise.meta.refresh import entries, ready
from memberwise.meta.training import MetaTrainer
from memberwise.recommender.parts.base import Arrays, Fitting
from memberwise.recommender.parts.meta_rows import EntityColumns, RankerBlock, RankerRows, entity_dim

VALID_TASKS = 4096
"""Tasks of valid that early stopping looks at."""

Splits = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Block:
    """A trained meta block and the embeddings that it made.

    Attributes
    ----------
    task
        Whose embeddings.
    columns
        Its meta features.
    inner
        The block and its step sizes.
    timeline
        Embeddings as of every refresh.
    """

    task: MetaTask
    columns: EntityColumns
    inner: InnerLoop
    timeline: EmbeddingTimeline

    @property
    def name(self) -> str:
        """The vector feature."""
        return task_name(self.task)

    @property
    def silent(self) -> bool:
        """Whether the unadapted embedding is zero for everyone: then nothing is missing where none is."""
        block = self.inner.block
        return not bool(block.weights[-1].any()) and not bool(block.biases[-1].any())

    def empty(self, version: str) -> Block:
        """Without embeddings."""
        return replace(self, timeline=EmbeddingTimeline.empty(self.timeline.entity, self.task.dim, version))


def entity_columns(pipeline: FeaturePipeline, task: MetaTask) -> EntityColumns:
    """The meta features of a task."""
    made = [a.columns for a in pipeline.aggregates]
    return EntityColumns.of(pipeline.schema, pipeline.layout, made, task)


def new_inner(
    config: MetaConfig, task: MetaTask, dim: int, positive: torch.Tensor | None = None, seed: int = 0
) -> InnerLoop:
    """An untrained block."""
    return InnerLoop(MetaBlock(dim, task.hidden, task.dim, seed=seed), config.inner, positive)


def train_block(
    fitting: Fitting, config: MetaConfig, task: MetaTask, arrays: Arrays, timelines: Mapping[str, Any]
) -> tuple[Block, list[dict[str, Any]]]:
    """Train a block on the log, and the ranker's layers behind it along with it.

    Parameters
    ----------
    fitting
        Holds the trained ranker, which moves.
    config, task
        How, and whose embeddings.
    arrays, timelines
        All rows of the log (`RankerRows`), without the feature of this block.

    Returns
    -------
    Block
        Without embeddings.
    list of dict
        The training log.
    """
    ranker, schema, name = fitting.ranker, fitting.project.config, task_name(task)
    assert ranker is not None
    splits = fitting.prepared.packed.splits
    columns = entity_columns(fitting.prepared.pipeline, task)
    labels = np.asarray(arrays["labels"][: splits["train"][1]], np.float64)
    number = [task_name(t) for t in config.tasks].index(name)
    seed = int(np.random.SeedSequence([schema.seed, 7, number]).generate_state(1)[0]) % 2**31
    positive = torch.from_numpy(np.nanmean(labels, axis=0)).float()
    inner = new_inner(config, task, entity_dim(ranker, columns), positive, seed)
    world = RankerBlock(ranker, name)
    keys, times = np.asarray(arrays[key_column(name)]), np.asarray(arrays["time"])
    train, valid = tasks_of(config, keys, times, splits, seed)
    weights = torch.tensor([t.loss_weight for t in schema.tasks])
    trainer = MetaTrainer(
        MetaLearner(world, inner, weights, config.training.weights),
        RankerRows(world, arrays, columns, timelines),
        train,
        valid,
        config.training,
        world.tuned(),
        fitting.run / "meta" / str(number),
        seed,
        f"{data_fingerprint(schema, fitting.project.base)} {fingerprint(ranker.state_dict())}",
        fitting.watchers,
    )
    trainer.fit(fitting.resume)
    entity = task.by if isinstance(task.by, str) else " x ".join(task_keys(task))
    return Block(task, columns, inner, EmbeddingTimeline.empty(entity, task.dim)), trainer.records


def tasks_of(config: MetaConfig, keys: U64, times: I64, splits: Splits, seed: int) -> tuple[Tasks, Tasks]:
    """Tasks to train on, whose queries last a period, and tasks to select by, exactly as they are served."""
    own = cutoffs(times, config.delay)
    period = np.minimum(own, times - times % config.training.period)
    train = find_tasks(
        keys,
        times,
        period,
        support=config.support,
        window=config.window,
        last=splits["train"][1],
        query=config.training.query,
        min_rows=config.training.min_rows,
    )
    first, last = splits["valid"]
    valid = find_tasks(keys, times, own, support=config.support, window=config.window, first=first, last=last)
    if len(valid) > VALID_TASKS:
        rng = np.random.default_rng(seed)
        valid = valid.pick(np.sort(rng.choice(len(valid), VALID_TASKS, replace=False)))
    return train, valid


# -- embeddings -----------------------------------------------------------------------------------


def with_embeddings(
    block: Block,
    config: MetaConfig,
    rows: RankerRows,
    *,
    first: int,
    version: str,
    only: npt.NDArray[np.uint64] | None = None,
    before: bool = True,
) -> Block:
    """With the embeddings that rows from `first` on change, each adapted from the common block.

    Parameters
    ----------
    block, config
        Whose embeddings.
    rows
        Rows in time order with ``time`` and the block's key.
    first
        Number of the first new row.
    version
        Of all weights.
    only
        These entities; default: all.
    before
        Also of every entity the last embedding that older rows had made.
    """
    arrays = rows.arrays
    keys, times = np.asarray(arrays[key_column(block.name)]), np.asarray(arrays["time"])
    if only is not None:
        keys = np.where(np.isin(keys, only), keys, np.uint64(0))
    moments = ready(times, config.delay)
    tasks = entries(keys, times, moments, support=config.support, window=config.window, first=first)
    last = tasks.order[tasks.support[:, 1] - 1]
    wanted = (tasks.support_sizes > 0) & (before | (last >= first))
    tasks, owner = tasks.pick(wanted), keys[last[wanted]]
    vectors = generate(block.inner, rows.block, rows, tasks)
    # A further refresh for a moment that has one already (the day is not over) takes its place.
    return replace(block, timeline=block.timeline.merged(owner, tasks.cutoff, vectors, version))
