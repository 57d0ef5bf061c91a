"""Where the ranker and meta learning meet: the ranker as a global block, and the log's rows for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from memberwise.data.batch import Batch, HistoryBatch
from memberwise.data.layout import Layout
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.meta.config import MetaTask, task_keys
from memberwise.meta.episodes import I64
from memberwise.nn.embedding import masked_mean
from memberwise.ranking.ranker import Ranker
from memberwise.schema import Categorical, Numeric, Schema, feature_name

Arrays = Mapping[str, npt.NDArray[Any]]


class Prepared(NamedTuple):
    """All that does not depend on z, computed once per row and not once per inner step.

    Attributes
    ----------
    left, right : Tensor, [R, ...]
        The ranker's input before and behind the columns of z.
    wide : Tensor, [R, Y]
    effects : Tensor, [R, Y, K], or None
    """

    left: Tensor
    right: Tensor
    wide: Tensor
    effects: Tensor | None


class RankerBlock(nn.Module):
    """A ranker as a global block: what stands at one vector feature is z.

    It is always in evaluation mode: batch normalisation with its frozen statistics, no dropout.

    Parameters
    ----------
    ranker
        The model; its embedding tables and normalisation stay as they are.
    feature
        Name of the vector feature.
    """

    def __init__(self, ranker: Ranker, feature: str) -> None:
        super().__init__()
        self.ranker = ranker.eval()
        self.columns = ranker.columns_of(feature)

    def prepare(self, batch: Batch) -> Prepared:
        """The part of the forward pass that comes before z."""
        with torch.no_grad():
            x0 = self.ranker.inputs(batch)
            wide, effects = self.ranker.beside(batch.ids)
        return Prepared(x0[:, : self.columns.start], x0[:, self.columns.stop :], wide, effects)

    def forward(self, z: Tensor, features: Prepared) -> Tensor:
        """Logits ``[R, Y]``."""
        x0 = torch.cat([features.left, z, features.right], 1)
        return self.ranker.finish(x0, features.wide, features.effects)

    def tuned(self) -> dict[str, nn.Parameter]:
        """The parameters that meta learning trains along: everything that comes after z."""
        parts = ("blocks.", "heads.", "head_weight")
        return {k: p for k, p in self.ranker.named_parameters() if k.startswith(parts)}


@dataclass(frozen=True)
class EntityColumns:
    """Which parts of a row belong to an entity alone, its id excepted: the meta features.

    Attributes
    ----------
    dense
        Columns of the dense part: numbers of the entity's table, aggregates under its keys.
    fields
        Categorical features of the entity's table.
    histories
        The member's histories, if the member is part of the key.
    """

    dense: tuple[int, ...]
    fields: tuple[str, ...]
    histories: tuple[str, ...]

    @classmethod
    def of(cls, schema: Schema, layout: Layout, columns: Sequence[Sequence[str]], task: MetaTask) -> Self:
        """Find them.

        Parameters
        ----------
        schema, layout
            Of the project.
        columns
            Names of the dense columns of each aggregate.
        task
            Whose embedding is made.
        """
        parts = task_keys(task)
        ids = {name: entity.id for name, entity in schema.entities.items()}
        mine = {name for name in ids if name in parts or ids[name] in parts}

        def belongs(column: str) -> bool:
            entity, dot, _ = column.partition(".")
            return column in parts or column in {ids[n] for n in mine} or (bool(dot) and entity in mine)

        # The dense part holds every column, then the indicators of those that can be missing.
        names = [c.name for c in layout.dense] + [c.name for c in layout.dense if c.indicator]
        wanted = {feature_name(f) for f in schema.features if isinstance(f, Numeric) and belongs(f.column)}
        for aggregate, made in zip(schema.aggregates, columns, strict=True):
            if all(belongs(c) for c in aggregate.by):
                wanted |= set(made)
        own = {ids[n] for n in mine}
        fields = {
            feature_name(f)
            for f in schema.features
            if isinstance(f, Categorical) and belongs(f.column) and f.column not in own
        }
        return cls(
            tuple(i for i, name in enumerate(names) if name in wanted),
            tuple(f.name for f in layout.ids if f.name in fields),
            tuple(h.name for h in layout.histories) if "member" in mine else (),
        )


class RankerRows:
    """Rows of a log for one meta block.

    Parameters
    ----------
    block
        The ranker.
    arrays
        One row per event. Vector features that are not there are zero; others stand as vectors, or as rows of
        a timeline.
    columns
        The entity's own.
    timelines
        Of the vector features that stand as rows.
    """

    def __init__(
        self,
        block: RankerBlock,
        arrays: Arrays,
        columns: EntityColumns,
        timelines: Mapping[str, EmbeddingTimeline] = MappingProxyType({}),
    ) -> None:
        self.block, self.arrays, self.columns, self.timelines = block, arrays, columns, timelines
        self._layout = block.ranker.layout

    def batch(self, rows: I64) -> Batch:
        """The rows as a batch; a vector that is not there is zero."""
        layout, found = self._layout, {}
        names = ["ids", "dense"] + [
            f"{h.name}.{p}" for h in layout.histories for p in ("items", "actions", "ages")
        ]
        for name in names:
            found[name] = np.ascontiguousarray(self.arrays[name].take(rows, axis=0))
        for v in layout.vectors:
            found[v.name] = self._vectors(v.name, rows)
        return Batch.from_arrays(found, layout)

    def _vectors(self, name: str, rows: I64) -> npt.NDArray[np.float32]:
        if name not in self.arrays:
            return np.zeros((len(rows), self.block.ranker.vector_dims[name]), np.float32)
        values = np.ascontiguousarray(self.arrays[name].take(rows, axis=0))
        return self.timelines[name].gather(values) if values.ndim == 1 else values

    def features(self, rows: I64) -> Prepared:
        """See `memberwise.meta.rows.Rows`."""
        return self.block.prepare(self.batch(rows))

    def entity(self, rows: I64) -> Tensor:
        """Dense columns, embedded attributes, and the mean past item, plain and by what was done with it."""
        return entity_features(self.block.ranker, self.batch(rows), self.columns)

    def labels(self, rows: I64) -> Tensor:
        """See `memberwise.meta.rows.Rows`."""
        return torch.from_numpy(np.ascontiguousarray(self.arrays["labels"].take(rows, axis=0)))

    def weights(self, rows: I64) -> Tensor:
        """See `memberwise.meta.rows.Rows`."""
        return torch.from_numpy(np.ascontiguousarray(self.arrays["weights"].take(rows, axis=0)))


def entity_features(ranker: Ranker, batch: Batch, columns: EntityColumns) -> Tensor:
    """Meta features of a batch's rows, ``[B, dim]``."""
    with torch.no_grad():
        parts = [batch.dense[:, list(columns.dense)]]
        if columns.fields:
            embedded = ranker.embed(batch.ids)
            parts += [embedded[name] for name in columns.fields]
        for field in ranker.layout.histories:
            if field.name in columns.histories:
                history = batch.histories[field.name]
                mask = history.items[:, :: field.parts] >= 0
                items = ranker.look_up(field.item_table, history.items)
                actions = ranker.look_up(field.action_table, history.actions)
                parts.append(masked_mean(items, mask))
                if items.shape == actions.shape:
                    parts.append(masked_mean(items * actions, mask))
        return torch.cat(parts, 1)


def entity_dim(ranker: Ranker, columns: EntityColumns) -> int:
    """Width of the meta features."""
    layout = ranker.layout
    histories = {}
    for h in layout.histories:
        none = torch.zeros(0, h.length, dtype=torch.int32)
        histories[h.name] = HistoryBatch(none.repeat(1, h.parts), none, none.float())
    dense = sum(1 + c.indicator for c in layout.dense)
    ids = torch.zeros(0, layout.id_columns, dtype=torch.int32)
    return entity_features(ranker, Batch(ids, torch.zeros(0, dense), histories, {}), columns).shape[1]
