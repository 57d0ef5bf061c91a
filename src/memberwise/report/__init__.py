"""What an evaluation found: metrics with intervals, a table for the terminal, one HTML file for people.

A report is made of predictions, row by row, and of a context that says where they come from. It knows
nothing of models or files.

Examples
--------
>>> import numpy as np
>>> generator = np.random.default_rng(0)
>>> members, scores = np.arange(400) // 10, generator.random((400, 1))
>>> predictions = Predictions(
...     tasks=("click",),
...     labels=(generator.random((400, 1)) < scores).astype(np.float32),
...     scores={"ranker": scores, "base rate": np.full((400, 1), 0.5)},
...     members=members,
...     time=np.arange(400) * 3_600_000_000,
... )
>>> report = Report.build(predictions, context=ReportContext(title="Feed"), draws=100)
>>> report.metrics["base rate"]["click"]["auc"]
{'value': 0.5, 'low': 0.5, 'high': 0.5}
"""

from __future__ import annotations

from memberwise.report.freshness import FreshnessReport
from memberwise.report.inputs import FeatureRates, Freshness, Predictions, ReportContext, Split
from memberwise.report.report import Report

__all__ = ["FeatureRates", "Freshness", "FreshnessReport", "Predictions", "Report", "ReportContext", "Split"]
