"""Numbers, times and names as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from rich.text import Text

from memberwise.metrics import Interval

MINUS = "\u2212"
MISSING = "\u2013"


def digits(interval: Interval) -> int:
    """Decimals worth printing: three, or four when the standard error is below .0005."""
    return 4 if 0 < interval.se < 0.0005 else 3


def number(x: float, places: int = 3, *, signed: bool = False) -> str:
    """A number without its leading zero, ``.774``; a dash when it is not defined.

    Examples
    --------
    >>> number(0.7741), number(-0.02, signed=True), number(float("nan")), number(1.25)
    ('.774', '−.020', '–', '1.250')
    """
    if not math.isfinite(x):
        return MISSING
    body = f"{abs(x):.{places}f}"
    sign = MINUS if x < 0 and float(body) != 0 else "+" if signed and float(body) != 0 else ""
    return sign + (body[1:] if body.startswith("0.") else body)


def bounds(interval: Interval, *, signed: bool = False) -> str:
    """The two ends, ``[.765, .783]``; empty when they are not defined."""
    if not math.isfinite(interval.low):
        return ""
    places = digits(interval)
    low, high = (number(x, places, signed=signed) for x in (interval.low, interval.high))
    return f"[{low}, {high}]"


def interval(interval: Interval, *, signed: bool = False) -> str:
    """A value and its ends, ``.774 [.765, .783]``."""
    value = number(interval.value, digits(interval), signed=signed)
    return f"{value} {bounds(interval, signed=signed)}".strip()


def percent(x: float) -> str:
    """A share as a percentage with sense: ``0.25 %``, ``12.3 %``."""
    if not math.isfinite(x):
        return MISSING
    share = 100 * x
    return f"{share:.0f} %" if share in (0.0, 100.0) else f"{share:.1f} %" if share >= 1 else f"{share:.2g} %"


def whole(n: int | float) -> str:
    """A count with thin spaces between thousands, ``595 695``."""
    return f"{n:,.0f}".replace(",", "\u202f")


def when(microseconds: int) -> str:
    """A time in UTC, ``2013-08-01 12:30``.

    Examples
    --------
    >>> when(1_000_000 * 86_400)
    '1970-01-02 00:00'
    """
    return datetime.fromtimestamp(microseconds / 1e6, tz=UTC).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """A length of time in its natural unit, ``3.2 min``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def literal(value: str) -> Text:
    """A name for the terminal, without the markup that it may hold."""
    return Text(value)
