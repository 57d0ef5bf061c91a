"""The gate: a version that is clearly worse, or much larger, than the one in service is not published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise import metrics
from memberwise.errors import MemberwiseError
from memberwise.project import FreshConfig

Floats = npt.NDArray[np.float64]
_CLIP = 1e-7
_DEVIATIONS = 2.0
"""A difference counts when it stands this many standard errors beyond its limit."""


class GateError(MemberwiseError):
    """A version that the gate does not let through."""


@dataclass(frozen=True)
class Quality:
    """How one task was predicted on some rows.

    Attributes
    ----------
    rows : int
        Where the task is defined.
    log_loss, observed_over_expected : float
    auc : float or None
        None where only one label occurs.
    """

    rows: int
    log_loss: float
    observed_over_expected: float
    auc: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def quality(labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: int) -> Quality | None:
    """Measure one task; None where it is defined on no row.

    Parameters
    ----------
    labels, probabilities : [n, T]
    """
    y, p = _defined(labels, probabilities, task)
    if not len(y):
        return None
    both = 0 < (y > 0.5).sum() < len(y)
    return Quality(
        len(y),
        float(metrics.log_loss(y, p)),
        float(y.sum() / p.sum()),
        float(metrics.auc(y > 0.5, p)) if both else None,
    )


def reasons(
    config: FreshConfig,
    tasks: Sequence[str],
    labels: npt.ArrayLike,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
) -> list[str]:
    """Why a version should not be published; none if it may.

    Log-loss and calibration of both are compared on the same rows, which neither has learned from. A
    difference must pass its limit by two standard errors: few rows refuse nothing.

    Parameters
    ----------
    config
        Limits.
    tasks
        Names.
    labels, before, after : [n, T]
        NaN where a task is not defined; probabilities of the version in service and of the candidate.
    """
    if not np.isfinite(np.asarray(after, np.float64)).all():
        return ["some of its predictions are not numbers"]
    found = []
    for t, task in enumerate(tasks):
        y, old = _defined(labels, before, t)
        _, new = _defined(labels, after, t)
        if len(y) < config.check_rows:
            continue
        gap = _losses(y, new) - _losses(y, old)
        limit = config.log_loss * float(_losses(y, old).mean())
        if gap.mean() - _DEVIATIONS * gap.std() / np.sqrt(len(gap)) > limit:
            share = 100 * gap.mean() / _losses(y, old).mean()
            found.append(f"{task}: log-loss grows by {share:.1f} % ({len(y):,} rows)")
        growth = abs(_log_ratio(y, new)) - abs(_log_ratio(y, old))
        error = np.sqrt((new * (1 - new)).sum()) / new.sum()
        if growth - _DEVIATIONS * error > config.calibration:
            found.append(
                f"{task}: observed over expected goes from {np.exp(_log_ratio(y, old)):.2f} "
                f"to {np.exp(_log_ratio(y, new)):.2f}"
            )
    return found


def size_reason(
    config: FreshConfig, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Why the files of a version are too large, if they are (names to ``{"bytes": ...}``)."""
    old, new = (sum(int(f["bytes"]) for f in files.values()) for files in (before, after))
    if old and new > config.size * old:
        return f"its files grow from {old / 1e6:.1f} to {new / 1e6:.1f} MB"
    return None


def refuse(why: Sequence[str]) -> None:
    """Raise `GateError` if there is a reason."""
    if why:
        raise GateError(
            "the new version was not published: " + "; ".join(why),
            fix="look at the new events; publish all the same with --force, or fit again",
        )


def _defined(labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: int) -> tuple[Floats, Floats]:
    y = np.asarray(labels, np.float64)[:, task]
    p = np.clip(np.asarray(probabilities, np.float64)[:, task], _CLIP, 1 - _CLIP)
    there = ~np.isnan(y)
    return y[there], p[there]


def _losses(y: Floats, p: Floats) -> Floats:
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def _log_ratio(y: Floats, p: Floats) -> float:
    """Logarithm of observed over expected; half a positive stands for none."""
    return float(np.log(max(y.sum(), 0.5) / p.sum()))
