"""What a person sees of a fit whose output goes into a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from memberwise.ranking import progress
from memberwise.ranking.progress import ProgressBar


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with ProgressBar(Console(file=file)) as bar:
        for done in range(0, 101, 10):
            bar.stage("prepare", done, 100)
            now[0] += 4.0
        bar.record({"split": "valid", "log_loss": 0.5, "auc": 0.75, "best": True})
        for step in range(1, 5):
            bar.progress(step, 1000, 50)
            now[0] += 10.0
    lines = file.getvalue().splitlines()
    assert [line.split(" rows/s")[0].split("%")[0] + "%" for line in lines] == [
        "prepare: 0 %", "prepare: 40 %", "prepare: 80 %", "prepare: 100 %", "train: 0 %", "train: 0 %",
    ]  # fmt: skip
    assert "rows/s  valid log-loss 0.5000 AUC 0.7500 *" in lines[-1]
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with ProgressBar(Console(file=file, force_terminal=True, width=100)) as bar:
        bar.stage("prepare", 1, 2)
    assert "prepare" in file.getvalue()
    assert "prepare: " not in file.getvalue()
