"""What smaller tables cost on real logs: int8, quotients and remainders, and both.

Complete Journey (promoted products bought or not) with vocabularies that keep every id, so that there is
something to compress: the same ranker with plain tables, and with five times fewer rows in the large ones.
One seed; a difference below the standard error of the pair (about .0006) is none.

``--quick`` takes the latest tenth of the log; its numbers mean nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from _harness import ROOT, Report, Target, quick_asked
from _quality_logs import project
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.compress import Choice, compress, refit

FEWER = 5
TARGETS = (
    Target("int8_auc_change", 5e-4, "int8 tables change the AUC by at most .0005", at_most=True),
    Target("int8_engine_auc_change", 5e-4, "the int8 dense part loses at most .0005", at_most=True),
    Target("qr_int8_smaller", 12, "with five times fewer rows and int8, tables are twelve times smaller"),
    Target("qr_int8_auc_change", 2e-3, "and the AUC changes by at most .002", at_most=True),
)


def groceries(quick: bool) -> Project:
    """The log at a daily delay, every id in its vocabulary."""
    folder = ROOT / ".cache" / ("tables-quick" if quick else "tables")
    folder.mkdir(parents=True, exist_ok=True)
    values = project("completejourney", "daily", folder, 0.1 if quick else 1.0).to_dict()
    for f in values["features"]:
        if f["kind"] == "categorical":
            f["min_count"] = 1
    values["ranker"]["embedding_dim"] = 16
    if quick:
        values["training"]["epochs"] = 1
    return Project.from_dict(values)


def main() -> None:
    """Fit twice, compress, compare."""
    quick = quick_asked(__doc__ or "")
    report = Report("table_compression", TARGETS)
    report.versions |= {"torch": torch.__version__, "numpy": np.__version__}
    plain = groceries(quick)
    if not (plain.bundles / "current").exists():
        Recommender.fit(plain).save()
    choices = compress(plain)
    choices += refit(plain, FEWER, choices[0].auc)
    base, dense, tables, _, both = choices
    report.table("Complete Journey, test", ["choice", "tables MB", "smaller", "AUC", "change"], rows(choices))
    report.measures |= {
        "int8_auc_change": abs(tables.change[0]),
        "int8_engine_auc_change": -dense.change[0],
        "qr_int8_smaller": base.table_mb / both.table_mb,
        "qr_int8_auc_change": abs(both.change[0]),
        "int8_share": tables.table_mb / base.table_mb,
        "auc": base.auc[0],
    }
    report.finish()


def rows(choices: list[Choice]) -> list[tuple[object, ...]]:
    """The table."""
    largest = choices[0].table_mb
    return [
        (c.name, c.table_mb, f"{largest / c.table_mb:.1f}x", f"{c.auc[0]:.4f}", f"{c.change[0]:+.5f}")
        for c in choices
    ]


if __name__ == "__main__":
    main()
