"""Aggregates: what happened before, counted under a key."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from memberwise.schema.basics import Delay, Duration, Model, format_duration


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
    means: list[str] = Field([])
    count: bool = True
    distinct: list[str] = Field([])
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
