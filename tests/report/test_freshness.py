"""The freshness report: the answer it gives, and a page that holds it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from memberwise.errors import DataError
from memberwise.report import FreshnessReport

DAY = 86_400_000_000
START = 1_375_315_200_000_000


def records(costs: dict[str, list[float]], base: float = 0.5, rows: int = 100) -> list[dict]:
    return [
        {
            "arm": arm, "slice": i, "first": START + i * DAY, "last": START + (i + 1) * DAY, "rows": rows,
            "log_loss": base + cost, "auc": 0.7 - cost, "observed_over_expected": 1.0 + cost,
            "seconds": 0.0 if arm == "stale" else 1.5, "bytes": 0 if arm == "stale" else 2_000_000,
        }
        for arm, arm_costs in costs.items()
        for i, cost in enumerate(arm_costs)
    ]  # fmt: skip


FLAT = [0.0] * 10


def test_the_answer_is_the_last_age_that_was_bearable():
    # A cost of .001 a day on a loss of .5 passes 1.1 % between slices 5 (.005) and 6 (.006).
    costs = [i / 1000 for i in range(10)]
    report = FreshnessReport("Films", records({"stale": costs, "all": FLAT}), limit=0.011)
    found = report.staleness()
    assert found is not None
    assert found.reference == "all"
    assert found.days == pytest.approx(5.5)
    assert found.span == 10
    assert found.cost == pytest.approx((0.008 + 0.009) / 2 / 0.5)
    assert report.answer().startswith("Refresh the model at least every 5.5 days")


def test_noise_does_not_move_the_answer_to_the_first_bad_slice():
    costs = [i / 1000 for i in range(10)]
    costs[1], costs[2] = 0.0075, -0.0045  # a bad day and a good one about the same trend
    found = FreshnessReport("Films", records({"stale": costs, "all": FLAT}), limit=0.011).staleness()
    assert found is not None
    assert found.days == pytest.approx(5.5)


def test_a_model_that_does_not_age_is_said_to_be_fine():
    answer = FreshnessReport("Films", records({"stale": [0.001] * 10, "all": FLAT})).answer()
    assert "did not lose 1 %" in answer
    answer = FreshnessReport("Films", records({"stale": [0.02] * 10, "all": FLAT})).answer()
    assert "from the first slice on" in answer
    assert "would say" in FreshnessReport("Films", records({"all": FLAT})).answer()


def test_the_reference_is_the_best_arm_and_stands_first():
    report = FreshnessReport(
        "Films", records({"stale": [0.01] * 10, "warm start": [0.002] * 10, "everything": FLAT})
    )
    assert report.arms == ("everything", "warm start", "stale")
    totals = {t["arm"]: t for t in report.totals()}
    assert totals["everything"]["seconds"] == 15
    assert totals["everything"]["bytes"] == 20_000_000
    assert totals["stale"]["auc"] == pytest.approx(0.69)


def test_totals_weigh_slices_by_their_rows_and_skip_what_is_not_defined():
    some = records({"all": [0.0, 0.1]})
    some[0]["rows"], some[1]["rows"], some[0]["auc"] = 300, 100, float("nan")
    total = FreshnessReport("Films", some).totals()[0]
    assert total["log_loss"] == pytest.approx(0.525)
    assert total["auc"] == pytest.approx(0.6)


def test_bad_records_are_refused():
    with pytest.raises(DataError, match="lacks log_loss"):
        FreshnessReport("x", [{"arm": "a", "slice": 0, "first": 0, "last": 1, "rows": 1}])
    with pytest.raises(DataError, match="twice"):
        FreshnessReport("x", records({"a": [0.0]}) * 2)


def test_the_page_holds_all_parts_needs_nothing_else_and_is_escaped(tmp_path: Path):
    evil = "<script>alert(1)</script>"
    report = FreshnessReport(
        evil,
        records({"stale": [i / 1000 for i in range(10)], evil: FLAT}),
        drift=[
            {
                "name": "price", "segment": "all rows", "measure": "psi", "before": None, "now": None,
                "value": 0.4, "chance": 0.01, "verdict": "drifted",
            }
        ],
        offpolicy=[
            {
                "estimator": "snips", "value": 0.2, "low": 0.1, "high": 0.3, "gain": 0.05, "gain_low": -0.05,
                "gain_high": float("nan"), "decisions": 1000, "effective": 321.0,
            }
        ],
        notes=[evil],
    )  # fmt: skip
    page = report.write(tmp_path / "freshness.html").read_text()
    assert evil not in page
    assert page.count("<svg viewBox") >= 5
    assert not re.search(r'(?:src|href)="(?!#)', page)
    for part in ("at least every 4.5 days", "drifted", "snips", "321", ".400"):
        assert part in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    saved = json.loads(report.to_json(tmp_path / "freshness.json").read_text())
    assert saved["offpolicy"][0]["gain_high"] is None
    assert len(saved["slices"]) == 20


def test_an_empty_report_is_still_a_page():
    assert "would say how stale" in FreshnessReport("Films").html()


def test_arms_without_costs_or_times_do_not_break_the_figures():
    some = records({"stale": [0.0], "all": [0.0]})
    for r in some:
        r["seconds"], r["bytes"], r["auc"] = 0.0, None, np.nan
    assert "<svg" in FreshnessReport("Films", some).html()
