"""What all settings share: immutable models, durations, moments, delays."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

MICROSECOND = 1
SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR

Delay = Literal["none", "hourly", "daily", "frozen"]
"""How old what a row may know is; see `Aggregate.delay`."""

_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}


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
