"""What updates and replays say to a person."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from memberwise.errors import counted
from memberwise.fresh.gate import Quality
from memberwise.fresh.update import Outcome
from memberwise.report.freshness import FreshnessReport


def update(outcome: Outcome, out: Console) -> None:
    """What was done, what it cost, and how good it is."""
    if outcome.known is not None:
        out.print(f"Nothing to do: version {outcome.known} was made of these events.")
        return
    out.print(
        f"{counted(outcome.rows, 'row')} from {_when(outcome.first)} to {_when(outcome.last)}",
        highlight=False,
    )
    if outcome.plan is not None:
        out.print(f"Learned: {', '.join(outcome.plan.learns)}", highlight=False)
    if outcome.before:
        out.print(_quality(outcome))
    advice = outcome.plan.advice if outcome.plan else ()
    if outcome.drift is not None and outcome.drift.sentence() not in advice:
        out.print(f"Drift since the fit: {outcome.drift.sentence()}", highlight=False)
    spent = ", ".join(f"{step} {seconds:.2f}" for step, seconds in outcome.seconds.items())
    out.print(f"CPU-seconds: {spent}", highlight=False)
    for reason in outcome.why:
        out.print(f"[yellow]Forced past the gate:[/] {reason}", highlight=False)
    for said in advice:
        out.print(f"[yellow]Advice:[/] {said}", highlight=False)
    out.print(f"Published [bold]{outcome.version}[/]", soft_wrap=True, highlight=False)


def _quality(outcome: Outcome) -> Table:
    table = Table("predicted before they were learned", "rows", "AUC", "log-loss", "observed / expected")
    for task, all_rows in outcome.before.items():
        table.add_row(f"{task}: all, by the version before", *_cells(all_rows))
        if task in outcome.checked:
            old, new = outcome.checked[task]
            table.add_row(f"{task}: the latest, by the version before", *_cells(old))
            table.add_row(f"{task}: the latest, having learned the others", *_cells(new))
    return table


def _cells(q: Quality) -> list[str]:
    auc = "" if q.auc is None else f"{q.auc:.4f}"
    return [f"{q.rows:,}", auc, f"{q.log_loss:.4f}", f"{q.observed_over_expected:.2f}"]


def replay(report: FreshnessReport, out: Console) -> None:
    """All arms, best first, and the answer."""
    table = Table("arm", "AUC", "log-loss", "observed / expected", "CPU-seconds", "MB written")
    for total in report.totals():
        auc = "" if total["auc"] is None else f"{total['auc']:.4f}"
        ratio = total["observed_over_expected"]
        table.add_row(
            total["arm"],
            auc,
            f"{total['log_loss']:.4f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{total['seconds'] or 0:.1f}",
            f"{(total['bytes'] or 0) / 1e6:.1f}",
        )
    out.print(table)
    out.print(report.answer(), highlight=False)


def _when(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
