"""Which part of a ranker's input belongs to the request, and which to each candidate.

``x0 = [fields | dense | histories | vectors | padding]`` is sorted into *shared* columns, equal for all
candidates of a request (member, context, clock, history), and *own* ones. What only the item's table says
does not change within a version: it is looked up once for all requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memberwise.data.layout import HistoryField, IdField, Layout, VectorField
from memberwise.data.pipeline import FeaturePipeline
from memberwise.nn.history import MeanHistory
from memberwise.ranking.ranker import Ranker
from memberwise.schema import Age, Categorical, Clock, Numeric, Schema

I64 = npt.NDArray[np.int64]


@dataclass
class Side:
    """Shared or own: what is computed, and where it stands in x0.

    Attributes
    ----------
    fields
        Id fields, with the column that each reads ('' for the clock).
    dense : list of int
        Columns of the batch's raw dense numbers.
    vectors
        Vector features.
    columns : list of int
        Columns of x0, in the order of this side's input: fields, dense, vectors.
    curves : list of int
        Columns of x0 of the curves of this side's numbers.
    """

    fields: list[tuple[IdField, str]] = field(default_factory=list)
    dense: list[int] = field(default_factory=list)
    vectors: list[VectorField] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    curves: list[int] = field(default_factory=list)


@dataclass
class Plan:
    """How a request becomes the ranker's input.

    Attributes
    ----------
    shared, own
        The two sides.
    histories : dict
        Columns of x0 of each history, and whether its encoder looks at the candidate.
    candidate_field
        For histories that look at the candidate: the id field that holds it.
    """

    shared: Side
    own: Side
    histories: list[tuple[HistoryField, list[int], bool]]
    width: int


def is_own(schema: Schema, column: str) -> bool:
    """Whether a column differs between the candidates of a request."""
    item = schema.entities["item"]
    return column == item.id or (item.path is not None and column.startswith("item."))


def make_plan(pipeline: FeaturePipeline, ranker: Ranker) -> Plan:
    """The plan of a version."""
    schema, layout = pipeline.schema, pipeline.layout
    shared, own = Side(), Side()
    dims = {t.name: t.dim or ranker.config.embedding_dim for t in layout.tables}
    at = 0
    for f, column in zip(layout.ids, _field_columns(schema), strict=True):
        side = own if is_own(schema, column) else shared
        side.fields.append((f, column))
        side.columns += range(at, at + dims[f.table])
        at += dims[f.table]
    at = _dense(pipeline, layout, shared, own, at)
    if ranker.numbers is not None:
        dim = ranker.numbers.out_dim // len(layout.dense)
        for side in (shared, own):
            side.curves = [at + i * dim + d for i in side.dense for d in range(dim)]
        at += len(layout.dense) * dim
    histories = []
    for h in layout.histories:
        encoder = ranker.histories[h.name]
        width = int(encoder.out_dim)  # type: ignore[arg-type]
        histories.append((h, list(range(at, at + width)), not isinstance(encoder, MeanHistory)))
        at += width
    for v in layout.vectors:
        side = own if any(is_own(schema, c) for c in v.by) else shared
        dim = pipeline.vectors[v.name].dim
        side.vectors.append(v)
        side.columns += range(at, at + dim)
        at += dim
    return Plan(shared, own, histories, at)


def _field_columns(schema: Schema) -> list[str]:
    """The column that each id field reads, in the order of `Layout.ids`."""
    columns = []
    for f in schema.features:
        if isinstance(f, Categorical):
            columns.append(f.column)
        elif isinstance(f, Clock):
            columns += ["", ""]
    return columns


def _dense(pipeline: FeaturePipeline, layout: Layout, shared: Side, own: Side, at: int) -> int:
    """Sort the dense columns: numbers, then their missing-indicators behind all of them."""
    schema, owned = pipeline.schema, []
    for f in schema.features:
        match f:
            case Numeric():
                owned.append(is_own(schema, f.column))
            case Age():
                owned.append(is_own(schema, f.since))
    for state in pipeline.aggregates:
        owned += [any(is_own(schema, c) for c in state.spec.by)] * len(state.columns)
    indicators = [i for i, c in enumerate(layout.dense) if c.indicator]
    for side, mine in ((shared, False), (own, True)):
        side.dense = [i for i, o in enumerate(owned) if o == mine]
        side.columns += [at + i for i in side.dense]
        side.columns += [at + len(owned) + k for k, i in enumerate(indicators) if owned[i] == mine]
    return at + len(owned) + len(indicators)
