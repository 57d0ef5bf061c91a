"""The demo, whole: what a newcomer sees first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from memberwise import bundle
from memberwise.demo import run


@pytest.mark.slow
def test_the_demo_beats_ids_alone_on_real_data(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    metrics = run(output, Console(quiet=True))
    ours = metrics["models"]["memberwise"]["liked"]
    # A tuned DCN-V2 of FuxiCTR 2.3.10 reaches .7409 / .6149 on these rows, one-hot logistic regression .7501.
    assert ours["auc"]["value"] > 0.768
    assert ours["log_loss"]["value"] < 0.58
    assert metrics["differences"]["logistic on ids"]["liked"]["auc"]["low"] > 0
    # Adapted embeddings do not harm, whatever they add.
    assert metrics["differences"]["memberwise, without meta embeddings"]["liked"]["auc"]["high"] > 0
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert "<html" in (output / "report.html").read_text()
    assert (output / "bundles" / "current" / "manifest.json").is_file()
    assert bundle.current(output / "bundles") == "000002"
    arms = {total["arm"]: total for total in metrics["freshness"]["arms"]}
    assert arms["everything"]["log_loss"] < arms["stale"]["log_loss"]
