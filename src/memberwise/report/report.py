"""The report: metrics as plain values, a headline, a table, a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from memberwise.errors import DataError
from memberwise.metrics import Interval, reliability_curve
from memberwise.report import text
from memberwise.report.evaluation import (
    METRICS,
    Cut,
    Evaluation,
    evaluate,
    freshness_warning,
    strongest_baseline,
)
from memberwise.report.inputs import Predictions, ReportContext

# What fits a terminal of 80 columns; `Report.metrics` and the page have the rest.
TERMINAL = (
    "auc",
    "grouped_auc",
    "log_loss",
    "expected_calibration_error",
    "observed_over_expected",
    "ndcg@10",
)


@dataclass(frozen=True, repr=False)
class Report:
    """What an evaluation found, ready to be read by people and by programs.

    Attributes
    ----------
    predictions : Predictions
        The rows.
    context : ReportContext
        Where they come from.
    evaluation : Evaluation
        Metrics with intervals: all rows, segments, slices of time.
    baselines : dict of str or None
        By task: the baseline that the headline compares with.
    draws : int
        Bootstrap draws of members behind the intervals.
    """

    predictions: Predictions
    context: ReportContext
    evaluation: Evaluation
    baselines: Mapping[str, str | None]
    draws: int

    @classmethod
    def build(
        cls,
        predictions: Predictions,
        *,
        context: ReportContext,
        baseline: str | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> Report:
        """Evaluate predictions.

        Parameters
        ----------
        predictions : Predictions
            The rows to evaluate.
        context : ReportContext
            Where they come from.
        baseline : str, optional
            The model that the headline compares with; the strongest one of each task (least log-loss) if
            not given.
        draws : int
            Bootstrap draws of members.
        seed : int
            Of the draws.

        Returns
        -------
        Report

        Raises
        ------
        DataError
            The baseline is not among the models, a score is not a probability, or a request has rows of
            several members.
        """
        if baseline is not None and baseline not in predictions.models[1:]:
            raise DataError(
                f"no baseline '{baseline}'", where="report", fix=f"one of {', '.join(predictions.models[1:])}"
            )
        evaluation = evaluate(predictions, draws=draws, seed=seed)
        baselines = {
            task: baseline or strongest_baseline(evaluation.overall, task, predictions.otherwise)
            for task in predictions.tasks
        }
        return cls(predictions, context, evaluation, baselines, draws)

    @property
    def baseline(self) -> str | None:
        """What tables of all tasks compare with: the baseline of the first."""
        return self.baselines[self.predictions.tasks[0]]

    @property
    def metrics(self) -> dict[str, Any]:
        """Model to task to metric to ``{"value", "low", "high"}``; ``None`` stands for not defined."""
        return plain_table(self.evaluation.overall.values)

    @property
    def differences(self) -> dict[str, Any]:
        """Baseline to task to metric to ``{"value", "low", "high"}`` of the model's paired gain over it."""
        return plain_table(self.evaluation.overall.differences)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        found = [*self.context.cautions, freshness_warning(self.context, self.predictions.otherwise)]
        overall = self.evaluation.overall
        if overall.members < 30:
            found.append(
                f"Only {overall.members} members are evaluated: intervals, which resample members, are rough."
            )
        found.extend(
            f"Task '{task}' has {'no rows' if math.isnan(rate) else 'only one label'}: "
            "most of its metrics are not defined."
            for task, rate in overall.rates.items()
            if math.isnan(rate) or rate in (0.0, 1.0)
        )
        return [warning for warning in found if warning]

    def headline(self) -> str:
        """Say the answer in a line for each task: AUC, and the gain over the baseline."""
        return "\n".join(map(self._headline, self.predictions.tasks))

    def _headline(self, task: str) -> str:
        overall, model, baseline = self.evaluation.overall, self.predictions.models[0], self.baselines[task]
        line = f"{task}: AUC {text.interval(overall.values[model][task]['auc'])}"
        if baseline is None:
            return line
        gain = overall.differences[baseline][task]["auc"]
        return f"{line}; {text.interval(gain, signed=True)} over {baseline}"

    def subject(self) -> str:
        """Say in one line which version was judged, on which rows."""
        overall = self.evaluation.overall
        rows = (
            f"{overall.rows:,} rows of {overall.members:,} members, {text.when(overall.first)} to "
            f"{text.when(overall.last)} UTC"
        )
        return f"{self.context.version}, on {rows}" if self.context.version else rows

    def table(self) -> RichTable:
        """Lay out every model's metrics, task by task, for the terminal."""
        values = self.evaluation.overall.values
        names = [
            name for name in TERMINAL if name in values[self.predictions.models[0]][self.predictions.tasks[0]]
        ]
        table = RichTable(title=text.literal(self.headline()), title_justify="left", title_style="")
        table.add_column("task", min_width=8, overflow="fold")
        table.add_column("model", min_width=16, overflow="fold")
        for name in names:
            table.add_column(METRICS[name].label, justify="right", no_wrap=True)
        for task in self.predictions.tasks:
            for i, model in enumerate(self.predictions.models):
                table.add_row(
                    text.literal(task if i == 0 else ""),
                    text.literal(model),
                    *(text.number(values[model][task][name].value) for name in names),
                    end_section=i + 1 == len(self.predictions.models),
                    style="bold" if i == 0 else None,
                )
        return table

    def to_dict(self) -> dict[str, Any]:
        """All that the report holds but the rows, as plain values that JSON can carry."""
        return {
            "title": self.context.title,
            "date": self.context.date,
            "version": self.context.version,
            "headline": self.headline(),
            "warnings": self.warnings,
            "notes": list(self.context.notes),
            "models": list(self.predictions.models),
            "tasks": list(self.predictions.tasks),
            "baseline": self.baseline,
            "baselines": dict(self.baselines),
            "draws": self.draws,
            "metrics": self.metrics,
            "differences": self.differences,
            "overall": plain_cut(self.evaluation.overall, tables=False),
            "segments": [plain_cut(cut) for cut in self.evaluation.segments],
            "slices": [plain_cut(cut) for cut in self.evaluation.slices],
            "reliability": self.reliability(),
            "context": json.loads(json.dumps(_finite(asdict(self.context)), default=str)),
        }

    def reliability(self) -> dict[str, dict[str, list[float]]]:
        """Predicted and observed rates of the first model in 15 bins, by task (those that have rows)."""
        p = self.predictions
        found = {}
        for t, task in enumerate(p.tasks):
            labels, weights = p.column(t)
            if not np.isnan(labels).all():
                scores = p.scores[p.models[0]][:, t]
                curve = reliability_curve(labels, scores, weights, clusters=p.members)
                found[task] = {k: np.asarray(v, float).tolist() for k, v in asdict(curve).items()}
        return _finite(found)

    def to_json(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON.

        Parameters
        ----------
        path : str or Path
            File to write.

        Returns
        -------
        Path
        """
        target = Path(path)
        target.write_text(
            json.dumps(self.to_dict(), indent=1, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8"
        )
        return target

    def html(self) -> str:
        """Render the page."""
        from memberwise.report.page import render  # matplotlib is slow to import, and not always needed

        return render(self)

    def write(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Parameters
        ----------
        path : str or Path
            File to write.

        Returns
        -------
        Path
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Lone surrogates, which a hostile id may hold, cannot be encoded: they become a question mark.
        target.write_bytes(self.html().encode("utf-8", errors="replace"))
        return target

    def __repr__(self) -> str:
        p = self.predictions
        return (
            f"Report({self.context.title!r}, {len(p)} rows, {self.evaluation.overall.members} members, "
            f"tasks={list(p.tasks)}, models={list(p.models)})\n{self.headline()}"
        )

    def __rich__(self) -> RichTable:
        return self.table()


def plain_interval(interval: Interval) -> dict[str, float | None]:
    """An interval as ``{"value", "low", "high"}``, ``nan`` as ``None``."""
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: x if math.isfinite(x) else None for name, x in ends.items()}


def plain_table(table: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> dict[str, Any]:
    """A table of intervals as plain values."""
    return {
        model: {
            task: {name: plain_interval(interval) for name, interval in found.items()}
            for task, found in tasks.items()
        }
        for model, tasks in table.items()
    }


def plain_cut(cut: Cut, tables: bool = True) -> dict[str, Any]:
    """A cut as plain values."""
    plain: dict[str, Any] = {
        "name": cut.name,
        "rows": cut.rows,
        "members": cut.members,
        "first": cut.first,
        "last": cut.last,
        "rates": _finite(cut.rates),
    }
    if tables:
        plain |= {"metrics": plain_table(cut.values), "differences": plain_table(cut.differences)}
    return plain


def _finite(value: Any) -> Any:
    """Plain containers with ``None`` for floats that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
