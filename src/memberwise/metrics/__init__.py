"""Metrics of ranking and calibration, with intervals that respect members: numpy in, floats out.

Conventions
-----------
labels : array [n]
    0 or 1; ``nan`` means that the row is not defined for the task, and it is left out.
scores : array [n]
    Finite; probabilities in [0, 1] where the metric is one of probabilities.
weights : array [n], optional
    Finite and not negative; a weight of two is the row twice, a weight of zero the row not there.
groups, requests, clusters : array [n]
    Ids of any type that numpy can sort; integers are fastest.

A metric that is not defined on its rows (one class, no rows) is ``nan``. Rows with the same score are
tied, and every metric gives them the expectation over their possible orders: no result depends on the
order of rows in a file.
"""

from __future__ import annotations

from memberwise.metrics._inputs import defined_rows
from memberwise.metrics.calibration import (
    ReliabilityCurve,
    expected_calibration_error,
    log_loss,
    normalised_entropy,
    observed_over_expected,
    reliability_curve,
)
from memberwise.metrics.discrimination import Curve, auc, grouped_auc, lift_curve, roc_curve
from memberwise.metrics.intervals import Interval, Resamples, bootstrap, paired_bootstrap, resample
from memberwise.metrics.ranking import Grouped, mrr, ndcg_at_k, recall_at_k

__all__ = [
    "Curve",
    "Grouped",
    "Interval",
    "ReliabilityCurve",
    "Resamples",
    "auc",
    "bootstrap",
    "defined_rows",
    "expected_calibration_error",
    "grouped_auc",
    "lift_curve",
    "log_loss",
    "mrr",
    "ndcg_at_k",
    "normalised_entropy",
    "observed_over_expected",
    "paired_bootstrap",
    "recall_at_k",
    "reliability_curve",
    "resample",
    "roc_curve",
]
