"""What the columns of a log mean: entities, features, tasks and time.

Pure data models without input or output. A project file is one `Schema` plus the settings of the
ranker and of training (see `memberwise.project`).

A column is named as it stands in the event table (``hour``), or as ``entity.column`` when it stands
in the table of an entity (``item.genres``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    model_validator,
)

MICROSECOND = 1
SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR

Delay = Literal["none", "hourly", "daily", "frozen"]
"""How old what a row may know is; see `Aggregate.delay`."""

_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}
_BATCH_PARTS = ("ids", "dense", "labels", "weights", "time", "member", "item", "request", "scores")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_\-]*$")


def parse_duration(text: Any) -> int:
    """Microseconds of a duration such as ``"30d"``, ``"12h"``, ``"90m"`` or ``"45s"``.

    Examples
    --------
    >>> parse_duration("2h") == 2 * HOUR
    True
    """
    if isinstance(text, timedelta):
        text = round(text / timedelta(microseconds=1))
    if isinstance(text, int) and text >= SECOND:  # already microseconds
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 30d, 12h, 90m")
    return int(float(match[1]) * _UNITS[match[2]])


def format_duration(us: int) -> str:
    """The shortest exact way to write a duration, the inverse of `parse_duration`."""
    for unit in ("w", "d", "h", "m", "s"):
        if us % _UNITS[unit] == 0:
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us / SECOND:g}s"


def to_micros(when: datetime | date) -> int:
    """Microseconds since 1970 in UTC; a time without a zone is taken as UTC."""
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


Duration = Annotated[
    int,
    BeforeValidator(parse_duration, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
]


class Model(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Events(Model):
    """Where the log is, and which of its columns is the time."""

    path: str | list[str] = Field(
        description="Files, directories or glob patterns; Parquet, CSV or Arrow; local or any fsspec URL."
    )
    time: str = Field(description="Column with the time of the event.")
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="Unit of a numeric time column.")
    request: str | None = Field(None, description="Column that groups the rows shown together.")
    max_rejected: float = Field(
        0.01, ge=0, le=1, description="Share of unusable rows above which the run stops."
    )


class Entity(Model):
    """A thing with an id: the member, the item, or any other (a store, an advertiser)."""

    id: str = Field(description="Column of the events that holds the id.")
    path: str | list[str] | None = Field(None, description="Table with one row per id.")
    key: str | None = Field(None, description="Id column of that table, if named otherwise.")

    @property
    def table_key(self) -> str:
        """Id column of the entity's own table."""
        return self.key or self.id


class Percentile(Model):
    """High for its kind: above a percentile of the row's cluster in the period before, never in its own."""

    share: float = Field(0.9, gt=0, lt=1, description="Share of the cluster that lies at or below.")
    within: list[str] = Field([], description="Columns that make the cluster, the last left out first.")
    period: Duration = Field(DAY, description="Thresholds hold for one: 1d (from midnight, UTC).")
    min_rows: int = Field(100, ge=1, description="Rows that a cluster needs in the period before.")


class Task(Model):
    """A label to predict, as a probability."""

    name: str
    label: str = Field(description="SQL expression over event columns, true/false or 0..1: rating >= 8")
    percentile: Percentile | None = Field(
        None, description="The label is any number, such as dwell: is it high for its kind? See the docs."
    )
    weight: str | float = Field(1.0, description="Weight of a row in the loss: number or SQL expression.")
    mask: str | None = Field(None, description="SQL condition: the label is defined only where it holds.")
    loss_weight: float = Field(1.0, gt=0, description="Weight of the task in the sum of losses.")
    utility: float = Field(1.0, description="What a positive is worth when items are ordered.")


class Categorical(Model):
    """One id, or several (`max_values` > 1), looked up in an embedding table."""

    kind: Literal["categorical"] = "categorical"
    column: str
    name: str = ""
    max_values: int = Field(1, ge=1, le=256, description="Values kept of a list column, in its order.")
    table: str | None = Field(None, description="Features with the same table share their embeddings.")
    encoding: Literal["vocabulary", "hash"] = Field(
        "vocabulary", description="hash: no dictionary and no unknown value, however many there are."
    )
    min_count: int = Field(2, ge=1, description="Rarer values in train share the unseen-value row.")
    remainders: int | None = Field(
        None,
        ge=1,
        description="Rows of the table of remainders: a value is the sum of a quotient's row and of a "
        "remainder's. With a vocabulary null gives each value its own row; with hash it is 65,536.",
    )
    dim: int | None = Field(None, ge=1, le=1024, description="Width; default: ranker.embedding_dim.")


class Numeric(Model):
    """A number; missing values become the mean plus an indicator."""

    kind: Literal["numeric"] = "numeric"
    column: str
    name: str = ""
    transform: Literal["standard", "log1p", "quantile", "none"] = "standard"


class Vector(Model):
    """A vector per entity: made elsewhere, a list column, or made by this project itself.

    A row sees the newest vector whose cut-off is not after its time, and zeros where there is none.
    """

    kind: Literal["vector"] = "vector"
    entity: str | None = Field(None, description="Whose vector it is: member, item, ...")
    path: str | None = Field(None, description="Entity embeddings (Arrow).")
    column: str | None = Field(None, description="List column of the entity's table.")
    made_by: Literal["graph", "meta"] | None = Field(
        None, description="The section of the project that makes the vectors; it declares them by itself."
    )
    by: list[str] = Field(
        [], description="Columns of a combined key instead of 'entity', if made_by is given."
    )
    dim: int | None = Field(None, ge=1, le=1024, description="Width, needed with made_by.")
    name: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(source is not None for source in (self.path, self.column, self.made_by)) != 1:
            raise ValueError(
                "give one of 'path' (entity embeddings), 'column' (of the entity's table) and 'made_by'"
            )
        if (self.entity is None) == (not self.by):
            raise ValueError("say whose vector it is: 'entity', or 'by' with the columns of a combined key")
        if self.by and self.made_by is None:
            raise ValueError("'by' goes with 'made_by' only")
        if self.made_by is not None and self.dim is None:
            raise ValueError("'made_by' needs 'dim', the width of the vectors")
        return self


class History(Model):
    """The member's last events before the row: item, action and age of each, newest first."""

    kind: Literal["history"] = "history"
    name: str = "history"
    length: int = Field(20, ge=1, le=1000)
    item: str | None = Field(None, description="Column of the past item; default: the item's id.")
    action: str | None = Field(None, description="Column of what was done; default: the labels of the tasks.")
    where: str | None = Field(None, description="SQL condition for an event to enter the history.")
    delay: Delay = "daily"
    encoder: str = Field("mean", description="How the sequence becomes a vector (a name in the registry).")


class Clock(Model):
    """Hour of the day and day of the week of the row, as categories."""

    kind: Literal["clock"] = "clock"
    name: str = "clock"
    timezone: str = "UTC"


class Age(Model):
    """Days from a date in a column to the time of the row, as log1p; negative ages become 0."""

    kind: Literal["age"] = "age"
    since: str = Field(description="Column with a date or time.")
    name: str = ""


Feature = Annotated[Categorical | Numeric | Vector | History | Clock | Age, Field(discriminator="kind")]


class Aggregate(Model):
    """What happened before under a key, counted strictly from the past.

    For every combination of values in `by` (the *key*) and the events before the row's cut-off:

    - a smoothed log-odds of each label in `rates`, ``logit((s + a p) / (n + a))`` with `s` positives
      among `n` labelled events, `a` = `prior_strength` and `p` the rate over all keys at that moment;
    - ``log1p`` of the number of events (`count`), and of distinct values of the columns in `distinct`;
    - `means` of numeric columns, shrunk in the same way;
    - `recency`: ``log1p`` of the days since the key's last event, within the window or not.

    A key with several values (genres) pools the events of all of them.
    """

    by: Annotated[list[str], Field(min_length=1), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
    name: str = ""
    rates: list[str] | None = Field(None, description="Tasks; default: all.")
    means: list[str] = []
    count: bool = True
    distinct: list[str] = []
    recency: bool = False
    window: Duration | None = Field(None, description="Only events this recent: 7d.")
    half_life: Duration | None = Field(None, description="Exponential decay instead of a window: 14d.")
    prior_strength: float = Field(10.0, gt=0)
    max_values: int = Field(16, ge=1, le=256, description="Values used of a list column.")
    delay: Delay = Field(
        "daily",
        description="What counts as past for a row at t: none: before t; hourly, daily: before the start of "
        "t's hour or day (UTC); frozen: before t in train, up to the end of train after it.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window is not None and self.half_life is not None:
            raise ValueError("'window' and 'half_life' exclude each other; declare two aggregates")
        if self.half_life is not None and self.distinct:
            raise ValueError("distinct values do not decay; use 'window' or no 'half_life'")
        return self


class Negatives(Model):
    """For logs that hold only what was chosen: items that could have been shown and were not chosen.

    Every event is a positive of every task. For each, `per_positive` items are drawn from those that had
    an event strictly before that moment, in the same group if `within` is given, never one that the
    member chose at that same time. An event whose own item was not available gets no label.
    """

    per_positive: int = Field(4, ge=1, le=100)
    draw: Literal["uniform", "popularity"] = "uniform"
    within: list[str] = Field([], description="Event columns that must agree, e.g. the store.")
    window: Duration | None = Field(None, description="An item is available this long after an event.")


class Split(Model):
    """Train, valid and test, in time order: by shares of the rows, or by dates.

    All rows of one moment fall on the same side.
    """

    train: float = Field(0.8, gt=0, lt=1)
    valid: float = Field(0.1, gt=0, lt=1)
    valid_from: datetime | date | None = Field(None, description="Start of valid; then test_from too.")
    test_from: datetime | date | None = Field(None, description="Start of test.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train + self.valid > 1.0 - 1e-9:
            raise ValueError(f"train {self.train:g} + valid {self.valid:g} leave nothing for test")
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("give both 'valid_from' and 'test_from', or neither")
        if self.valid_from and self.test_from and to_micros(self.valid_from) >= to_micros(self.test_from):
            raise ValueError("'valid_from' must be before 'test_from'")
        return self


class Schema(Model):
    """The meaning of a log, whole."""

    name: str = "project"
    events: Events
    entities: dict[str, Entity] = Field(description="'member' and 'item', and any other.")
    tasks: list[Task] = Field(min_length=1)
    features: list[Feature] = []
    aggregates: list[Aggregate] = []
    negatives: Negatives | None = None
    split: Split = Split()
    seed: int = Field(0, ge=0)
    _forgotten: frozenset[int] = PrivateAttr(frozenset())

    @property
    def forgotten(self) -> frozenset[int]:
        """Hashed ids of members whose events are left out wherever they are read."""
        return self._forgotten

    def leave_out(self, members: Iterable[int]) -> None:
        """Leave the events of these members out from now on; settings stay as they are."""
        self._forgotten = frozenset(int(m) for m in members)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for needed in ("member", "item"):
            if needed not in self.entities:
                raise ValueError(f"entities: '{needed}' is missing; say which column holds its id")
        for entity in self.entities:
            if not _NAME.match(entity):
                raise ValueError(f"entities: {entity!r} is not a plain name (letters, digits, _)")
        if not self.name.strip(". ") or set(self.name) & set("/\\\0"):
            raise ValueError(f"name: {self.name!r} cannot be the name of a directory")
        _unique("tasks", [t.name for t in self.tasks])
        for task in self.tasks:
            if not _NAME.match(task.name):
                raise ValueError(f"tasks: {task.name!r} is not a plain name (letters, digits, _)")
            if task.percentile is not None and self.negatives is not None:
                raise ValueError(f"tasks: {task.name!r} has a percentile, and drawn negatives have no number")
        _unique("features", [feature_name(f) for f in self.features])
        _unique("aggregates", [aggregate_name(a) for a in self.aggregates])
        if not self.features and not self.aggregates:
            raise ValueError("no 'features' and no 'aggregates': a ranker needs something to look at")
        self._check_references()
        return self

    def _check_references(self) -> None:
        tasks = {t.name for t in self.tasks}
        for a in self.aggregates:
            for rate in a.rates or []:
                if rate not in tasks:
                    raise ValueError(f"aggregate {aggregate_name(a)}: 'rates' names {rate!r}, not a task")
        columns = [c for f in self.features for c in feature_columns(f)]
        columns += [c for a in self.aggregates for c in (*a.by, *a.means, *a.distinct)]
        columns += [c for t in self.tasks if t.percentile is not None for c in t.percentile.within]
        for column in columns:
            entity, dot, _ = column.partition(".")
            if dot and entity in self.entities and self.entities[entity].path is None:
                raise ValueError(f"column {column!r}: entity '{entity}' has no 'path' to a table")
        for f in self.features:
            if isinstance(f, Vector) and f.entity is not None and f.entity not in self.entities:
                raise ValueError(f"feature {feature_name(f)}: {f.entity!r} is not an entity")
            if isinstance(f, Vector) and f.name in _BATCH_PARTS:
                raise ValueError(f"feature {f.name}: every batch has a part of this name; choose another")
        tables: dict[str, tuple[Any, ...]] = {}
        for f in self.features:
            if isinstance(f, Categorical):
                table = f.table or feature_name(f)
                shape = (f.encoding, f.dim, f.min_count, f.remainders)
                if tables.setdefault(table, shape) != shape:
                    raise ValueError(
                        f"feature {feature_name(f)}: shares table {table!r} but differs in encoding, dim, "
                        "min_count or remainders"
                    )

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(t.name for t in self.tasks)


def feature_columns(feature: Categorical | Numeric | Vector | History | Clock | Age) -> list[str]:
    """Columns that a feature reads (expressions aside)."""
    match feature:
        case Categorical() | Numeric():
            return [feature.column]
        case Age():
            return [feature.since]
        case History():
            return [c for c in (feature.item, feature.action) if c is not None]
        case Vector():
            return [f"{feature.entity}.{feature.column}"] if feature.column else feature.by
        case Clock():
            return []


def feature_name(feature: Categorical | Numeric | Vector | History | Clock | Age) -> str:
    """The name of a feature: as given, else made from its column."""
    match feature:
        case Categorical() | Numeric():
            return feature.name or feature.column
        case Age():
            return feature.name or f"age({feature.since})"
        case Vector():
            whose = feature.entity or " x ".join(feature.by)
            return feature.name or f"{feature.made_by or 'vector'}({whose})"
        case History() | Clock():
            return feature.name


def aggregate_name(aggregate: Aggregate) -> str:
    """The name of an aggregate: as given, else its key, span and delay."""
    if aggregate.name:
        return aggregate.name
    span = ""
    if aggregate.window is not None:
        span = f", {format_duration(aggregate.window)}"
    if aggregate.half_life is not None:
        span = f", half-life {format_duration(aggregate.half_life)}"
    return f"{' x '.join(aggregate.by)}{span}"


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} stands twice; give one of them another 'name'")
        seen.add(name)
