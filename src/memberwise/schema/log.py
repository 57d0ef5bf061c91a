"""The log: where it is, who is in it, what is to be predicted, and how it is cut in time."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from memberwise.schema.basics import DAY, Duration, Model, to_micros


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
