"""The part ``meta``: embeddings adapted to every entity's latest events, refreshed with every update."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from memberwise.data.hashing import U64
from memberwise.data.pipeline import key_column
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.data.times import cutoffs
from memberwise.errors import BundleError
from memberwise.meta.config import MetaConfig, task_name
from memberwise.meta.generate import fingerprint
from memberwise.meta.supports import Supports
from memberwise.nn.checkpoint import load_tensors, save_tensors
from memberwise.nn.embedding import FusedEmbedding
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.parts.base import Arrays, Fitting, Increment, Logits, Part, Setting
from memberwise.recommender.parts.meta_blocks import (
    Block,
    entity_columns,
    new_inner,
    train_block,
    with_embeddings,
)
from memberwise.recommender.parts.meta_rows import RankerBlock, RankerRows, entity_dim


class MetaPart(Part):
    """Meta blocks around a ranker.

    Several blocks are trained in their order; each sees the embeddings of those before it, and zeros for
    itself and those behind it, in training as in every refresh.

    Parameters
    ----------
    config
        The section ``meta``.
    setting
        The version around it.
    blocks
        In order.
    supports
        Latest rows of every entity.
    version
        Of all blocks and the ranker: embeddings of another version are refused.
    log
        Of the training.

    Attributes
    ----------
    refused
        Whether the embeddings at hand belong to other weights: then every entity gets that of its features.
    """

    name: ClassVar[str] = "meta"
    stage: ClassVar[Literal["before", "along", "after"]] = "along"

    def __init__(
        self,
        config: MetaConfig,
        setting: Setting,
        blocks: Sequence[Block],
        supports: Supports,
        version: str,
        log: Sequence[Mapping[str, Any]],
    ) -> None:
        self.config, self.setting, self.blocks = config, setting, list(blocks)
        self.supports, self.version, self.log = supports, version, list(log)
        live = live_version(blocks, setting.ranker)
        self.refused = live != version or any(b.timeline.version != version for b in blocks)
        if self.refused:
            warnings.warn(
                "the meta embeddings were made by other weights and are not used: every entity gets the "
                "embedding of its features until the next fit or update",
                stacklevel=2,
            )

    # -- fit --------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        """Train the blocks and the ranker's dense layers together, then make every entity's embeddings."""
        config, ranker, prepared = fitting.project.config.meta, fitting.ranker, fitting.prepared
        assert config is not None
        assert ranker is not None
        setting = Setting(fitting.project, prepared.pipeline, ranker)
        arrays, timelines = _without_meta(prepared.packed.arrays), dict(prepared.pipeline.vectors)
        blocks: list[Block] = []
        log: list[dict[str, Any]] = []
        for task in config.tasks:
            if blocks:
                _show(blocks[-1], config, ranker, arrays, timelines)
            block, records = train_block(fitting, config, task, arrays, timelines)
            log += [{"block": block.name, **r} for r in records]
            blocks.append(block)
        # The ranker moved with every block: all embeddings are made (again) by the weights that will serve.
        version = live_version(blocks, ranker)
        arrays = _without_meta(prepared.packed.arrays)
        # The first rows of valid see what was known at the start of their day, some of which is train.
        times, valid = np.asarray(arrays["time"]), prepared.packed.splits["valid"][0]
        first = int(np.searchsorted(times, cutoffs(times[valid : valid + 1], config.delay)[0]))
        made: list[Block] = []
        for block in blocks:
            if made:
                _show(made[-1], config, ranker, arrays, timelines)
            rows = RankerRows(RankerBlock(ranker, block.name), arrays, block.columns, timelines)
            fresh = with_embeddings(block.empty(version), config, rows, first=first, version=version)
            prepared.attach(fresh.name, fresh.timeline)
            made.append(fresh)
        keys = {b.name: np.asarray(arrays[key_column(b.name)]) for b in made}
        supports = Supports(_rows_only(arrays), keys, config.support)
        supports = supports.mapped(lambda some: _with_vectors(some, timelines))
        return cls(config, setting, made, supports, version, log)

    def vectors(self) -> Mapping[str, EmbeddingTimeline]:
        """The embeddings of every block."""
        return {b.name: b.timeline for b in self.blocks}

    # -- score ------------------------------------------------------------------------------------

    def adjust(self, arrays: Arrays, logits: Logits) -> Logits:
        """Score rows whose entity has no embedding again, with that of its features ``z_0 = f(m; theta)``."""
        missing = {b.name: self._missing(b, arrays) for b in self.blocks if self.refused or not b.silent}
        rows = np.flatnonzero(np.any(list(missing.values()), axis=0)) if missing else np.zeros(0, np.int64)
        if not len(rows):
            return logits
        ranker, all_rows = self.setting.ranker, np.arange(len(rows))
        some = {k: np.ascontiguousarray(np.asarray(a)[rows]) for k, a in arrays.items()}
        some = {k: np.array(a) for k, a in _with_vectors(some, self.setting.pipeline.vectors).items()}
        for b in self.blocks:
            here = missing[b.name][rows] if b.name in missing else np.zeros(len(rows), bool)
            if here.any():
                source = RankerRows(RankerBlock(ranker, b.name), some, b.columns)
                with torch.no_grad():
                    some[b.name][here] = b.inner.block(source.entity(np.flatnonzero(here))).numpy()
        source = RankerRows(RankerBlock(ranker, self.blocks[0].name), some, self.blocks[0].columns)
        out = np.array(logits)
        with torch.inference_mode():
            out[rows] = ranker(source.batch(all_rows)).numpy()
        return out

    def _missing(self, block: Block, arrays: Arrays) -> npt.NDArray[np.bool_]:
        """Rows without an embedding, or with one that is refused."""
        found = np.asarray(arrays[block.name])
        if self.refused:
            return np.ones(len(found), np.bool_)
        there: npt.NDArray[np.bool_] = found >= 0 if found.ndim == 1 else np.any(found, axis=1)
        return ~there

    # -- move forward -----------------------------------------------------------------------------

    def update(self, increment: Increment, setting: Setting) -> Self:
        """Adapt entities with new events again, from the common block; all of them if the ranker changed."""
        live = live_version(self.blocks, setting.ranker)
        changed = live != self.version or self.refused
        new = _with_vectors(
            _rows_only(_without_last(increment.arrays, self.blocks)), setting.pipeline.vectors
        )
        keys = {b.name: np.asarray(increment.arrays[key_column(b.name)]) for b in self.blocks}
        blocks = []
        for b in self.blocks:
            if changed:
                old, own = self.supports.arrays, self.supports.keys[b.name]
                first, b = 0, b.empty(live)
            else:
                touched = np.unique(keys[b.name])
                old, own = self.supports.of(b.name, touched[touched != 0])
                first = len(own)
            arrays = {k: np.concatenate([a, new[k]]) for k, a in old.items()}
            arrays[key_column(b.name)] = np.concatenate([own, keys[b.name]])
            rows = RankerRows(RankerBlock(setting.ranker, b.name), self._visible(arrays, b), b.columns)
            blocks.append(with_embeddings(b, self.config, rows, first=first, version=live, before=False))
        supports = self.supports.extended(new, keys)
        return type(self)(self.config, setting, blocks, supports, live, self.log)

    def _visible(self, arrays: Arrays, block: Block) -> Arrays:
        """Without the embeddings of this block and of those behind it."""
        names = [b.name for b in self.blocks]
        hidden = names[names.index(block.name) :]
        return {k: a for k, a in arrays.items() if k not in hidden}

    def forget(self, members: U64) -> Self:
        """Without these members' rows and embeddings; entities that learned from them are adapted again."""
        before = self.supports
        supports = before
        for member in members:
            supports = supports.without("member", np.uint64(member))
        gone = np.isin(before.arrays["member"], members)
        arrays = dict(supports.arrays) | {key_column(k): v for k, v in supports.keys.items()}
        blocks = []
        for b in self.blocks:
            lost = np.unique(before.keys[b.name][gone])
            timeline = b.timeline.without(np.union1d(lost, members) if b.task.by == "member" else lost)
            b = Block(b.task, b.columns, b.inner, timeline)
            rows = RankerRows(RankerBlock(self.setting.ranker, b.name), self._visible(arrays, b), b.columns)
            end = len(supports)
            blocks.append(with_embeddings(b, self.config, rows, first=end, version=self.version, only=lost))
        return type(self)(self.config, self.setting, blocks, supports, self.version, self.log)

    def within(self, setting: Setting) -> Self:
        """The same beside another ranker or other features."""
        return type(self)(self.config, setting, self.blocks, self.supports, self.version, self.log)

    # -- on disk ----------------------------------------------------------------------------------

    def state(self) -> Mapping[str, npt.NDArray[Any]]:
        """The kept supports."""
        return self.supports.to_arrays()

    def with_state(self, state: Arrays) -> Self:
        """With the supports that were kept."""
        if not state:
            raise BundleError("the kept rows of the meta embeddings are missing", where="state")
        found = copy.copy(self)
        found.supports = Supports.from_arrays(state, self.config.support)
        return found

    def write(self, folder: Path) -> None:
        """Blocks, step sizes and the version; embeddings are saved with the pipeline."""
        for i, b in enumerate(self.blocks):
            save_tensors(folder / f"block{i}.safetensors", b.inner.state_dict(), {"name": b.name})
        (folder / "meta.json").write_text(json.dumps({"version": self.version, "log": self.log}))

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`; embeddings that other weights made are refused, and it is said."""
        config = setting.project.config.meta
        if config is None:
            raise BundleError("the project has no section meta", where=str(folder))
        try:
            saved = json.loads((folder / "meta.json").read_text())
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot be read: {error}", where=str(folder)) from error
        blocks = []
        for i, task in enumerate(config.tasks):
            columns = entity_columns(setting.pipeline, task)
            tensors, _ = load_tensors(folder / f"block{i}.safetensors")
            dim = entity_dim(setting.ranker, columns)
            try:
                inner = new_inner(config, task, dim, torch.zeros_like(tensors["positive"]))
                inner.load_state_dict(tensors)
            except (RuntimeError, KeyError) as error:
                raise BundleError(f"a block does not fit the project: {error}", where=str(folder)) from error
            blocks.append(Block(task, columns, inner, setting.pipeline.vectors[task_name(task)]))
        none = Supports({"time": np.zeros(0, np.int64)}, {}, config.support)
        return cls(config, setting, blocks, none, saved["version"], saved["log"])


def live_version(blocks: Sequence[Block], ranker: Ranker) -> str:
    """Name of the weights that make the embeddings.

    Of the ranker all but its tables: a step of training changes the layers too, and a table may be gigabytes.
    When a member is forgotten only that member's rows change, and everybody's embedding stays what it was.
    """
    tables = {f"{n}.weight" for n, m in ranker.named_modules() if isinstance(m, FusedEmbedding)}
    layers = {k: v for k, v in ranker.state_dict().items() if k not in tables}
    return fingerprint(*(b.inner.state_dict() for b in blocks), layers)


def _show(
    block: Block, config: MetaConfig, ranker: Ranker, arrays: dict[str, Any], timelines: dict[str, Any]
) -> None:
    """Let the blocks behind this one see its embedding at every row of the log."""
    rows = RankerRows(RankerBlock(ranker, block.name), arrays, block.columns, timelines)
    whole = with_embeddings(block.empty(""), config, rows, first=0, version="")
    timelines[block.name] = whole.timeline
    arrays[block.name] = whole.timeline.rows(
        np.asarray(arrays[key_column(block.name)]), np.asarray(arrays["time"])
    )


def _without_meta(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {k: a for k, a in arrays.items() if not (k.startswith("meta(") and not k.endswith(".key"))}


def _without_last(arrays: Arrays, blocks: Sequence[Block]) -> Arrays:
    """No block ever sees the embedding of the last one."""
    return {k: a for k, a in arrays.items() if k != blocks[-1].name}


def _rows_only(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """What a support row needs: its keys are kept apart, and nobody asks for its request."""
    return {k: a for k, a in arrays.items() if not k.endswith(".key") and k != "request"}


def _with_vectors(arrays: Arrays, timelines: Mapping[str, EmbeddingTimeline]) -> dict[str, npt.NDArray[Any]]:
    """Vector features that stand as rows of a timeline, gathered."""
    return {
        k: timelines[k].gather(np.asarray(a)) if k in timelines and a.ndim == 1 else a
        for k, a in arrays.items()
    }
