"""The profile that drift is measured against: of valid at the fit, carried from version to version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.fresh.drift import Drift, Profile, compare
from memberwise.recommender import Recommender
from memberwise.schema import Clock

PROFILE = "profile"
"""Where it stands in a manifest."""
_ROWS = 50_000


def fit_info(rec: Recommender) -> dict[str, Any]:
    """What a version just fitted says in its manifest: the profile of the latest rows of valid.

    Valid, because predictions on train are too good to compare later ones with.
    """
    prepared = rec._prepared()
    arrays = {k: np.array(a[-_ROWS:]) for k, a in prepared.packed.rows("valid").items()}
    return {PROFILE: profile(rec, arrays, rec._score_packed(arrays)).to_dict()}


def profile(
    rec: Recommender,
    arrays: Mapping[str, npt.NDArray[Any]],
    scores: npt.NDArray[np.float32],
    like: Profile | None = None,
) -> Profile:
    """Summarise rows as a version sees them."""
    return Profile.of(
        arrays, rec.pipeline.layout, scores=scores, segments=rec.seen.segments(arrays), like=like
    )


def drift(
    rec: Recommender,
    info: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    scores: npt.NDArray[np.float32],
) -> tuple[Drift | None, dict[str, Any]]:
    """What has changed since the profile of a manifest, and the profile to carry on.

    A version without one takes that of these rows: its updates are compared with its first.
    """
    if PROFILE not in info:
        return None, profile(rec, arrays, scores).to_dict()
    before = Profile.from_dict(info[PROFILE])
    clocks = [f for f in rec.project.config.features if isinstance(f, Clock)]
    cycles = {f"{f.name}.{part}": days for f in clocks for part, days in (("hour", 1.0), ("weekday", 7.0))}
    return compare(before, profile(rec, arrays, scores, like=before), cycles), dict(info[PROFILE])
