"""The update policy: the cheapest refresh that suffices, and what it cannot mend.

Effects and the last layer learn from every update. What makes vectors (graph and meta embeddings) refreshes
the entities that the events touch. The ranker learns every few updates, or at once when its predictions have
become clearly worse. What no update mends is for a fit, which the policy advises and does not start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.fresh.drift import Drift
from memberwise.fresh.gate import Quality
from memberwise.project import FreshConfig
from memberwise.recommender import Recommender
from memberwise.recommender.parts.incremental import IncrementalPart


@dataclass(frozen=True)
class Plan:
    """What an update does.

    Attributes
    ----------
    train : bool
        Whether the ranker learns.
    learns : tuple of str
        Everything that learns, as a person reads it.
    advice : tuple of str
        What an update cannot mend.
    """

    train: bool
    learns: tuple[str, ...]
    advice: tuple[str, ...]


def decide(
    rec: Recommender, before: dict[str, Quality], config: FreshConfig, drift: Drift | None = None
) -> Plan:
    """Choose the refresh.

    Parameters
    ----------
    rec
        The version in service.
    before
        How it predicted the new rows, by task.
    config
        When a fit is advised.
    drift
        Of the new rows against the fit.
    """
    loss, error = _loss(before)
    reference = reference_log_loss(rec)
    worse = None if reference is None or loss is None else loss / reference - 1.0
    # The loss of a few rows varies: only what stands two standard errors above counts.
    alarm = worse is not None and reference is not None and worse - 2 * error / reference > config.retrain
    part = rec.parts.get("incremental")
    train = isinstance(part, IncrementalPart) and (part.due or alarm)
    advice = []
    if alarm and worse is not None:
        advice.append(
            f"log-loss on the new events is {100 * worse:.0f} % above that of valid at the fit: "
            "fit again on a log that includes them"
        )
    if drift is not None and drift.advises_retraining:
        advice.append(drift.sentence())
    if isinstance(part, IncrementalPart) and len(part.memory.applied) >= config.increments:
        advice.append(
            f"the ranker has learned {len(part.memory.applied)} increments since its cold start, "
            "whose errors add up: fit again"
        )
    names = ["aggregates and histories", *(name for name in rec.parts if name != "incremental")]
    return Plan(train, tuple([*names, "ranker"] if train else names), tuple(advice))


def reference_log_loss(rec: Recommender) -> float | None:
    """Log-loss on valid at the fit, mean over tasks, if the log of the fit is there."""
    found = [r for r in rec.log if r.get("split") == "valid" and r.get("best")]
    return float(found[-1]["log_loss"]) if found else None


def _loss(before: dict[str, Quality]) -> tuple[float | None, float]:
    """Mean over tasks, and about its standard error (the loss of a row varies about as much as itself)."""
    if not before:
        return None, 0.0
    losses: npt.NDArray[np.float64] = np.array([q.log_loss for q in before.values()])
    rows = min(q.rows for q in before.values())
    return float(losses.mean()), float(losses.mean() / np.sqrt(rows))
