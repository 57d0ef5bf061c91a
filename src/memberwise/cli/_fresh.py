"""New events: update, refresh, replay, offpolicy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from memberwise.cli._app import FRESH, EventFiles, ProjectPath, app, literal, out


@app.command(rich_help_panel=FRESH)
def update(
    project: ProjectPath,
    events: EventFiles,
    force: Annotated[bool, typer.Option(help="Publish even what the gate would refuse.")] = False,
    train: Annotated[
        bool | None,
        typer.Option(
            "--train/--no-train", help="Let the ranker learn now, or not; default: as the policy says."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another update that is at work.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Let the current version learn from new events, and publish the result as a new version.

    Aggregates, histories, effects and the exploring head learn every time, the ranker every few updates. A
    gate compares the version before with the new one on events that neither has learned from, and refuses
    what is clearly worse. Events must be newer than what the version has seen: each counts once, and the same
    events given again do nothing.

        memberwise update project.yaml events/2013-09-01.parquet
        memberwise bundles rollback project.yaml

    The second line goes back to the version before.
    """
    from memberwise.fresh import say
    from memberwise.fresh.update import update as run
    from memberwise.project import Project

    outcome = run(Project.load(project), events, force=force, train=train, wait=wait)
    if as_json:
        print(json.dumps(outcome.to_dict() | {"version": str(outcome.version or outcome.known)}))
        return
    say.update(outcome, out)


@app.command(rich_help_panel=FRESH)
def refresh(
    project: ProjectPath,
    events: EventFiles,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Refresh what moves by itself, and publish the result: the weights of the ranker and of all blocks stay.

    Meta embeddings are adapted anew for the entities with new events alone, graph embeddings near-line;
    aggregates, histories and effects move forward. The same as update --no-train, meant to run often.
    """
    from memberwise.fresh import say
    from memberwise.fresh.update import update as run
    from memberwise.project import Project

    outcome = run(Project.load(project), events, train=False)
    if as_json:
        print(json.dumps(outcome.to_dict() | {"version": str(outcome.version or outcome.known)}))
        return
    say.update(outcome, out)


@app.command(rich_help_panel=FRESH)
def replay(
    project: ProjectPath,
    slices: Annotated[int, typer.Option(min=2, help="Slices that the log after train is cut into.")] = 20,
    retrain: Annotated[bool, typer.Option(help="Also train from nothing before every slice (slow).")] = True,
    report: Annotated[
        Path | None, typer.Option(help="HTML report; default: freshness.html in the runs.")
    ] = None,
    limit: Annotated[
        float, typer.Option(min=0, help="Cost of staleness that is too much, as a share of log-loss.")
    ] = 0.01,
) -> None:
    """Walk the log after train forward, predict, score, then learn: what is each way of staying fresh worth?

    Starts from the version that was fitted, before all updates, and touches no version. Arms range from a
    stale model to a full retrain before every slice. Writes curves of every arm through time, and says how
    stale your model may get. --no-retrain leaves out the slowest arm.
    """
    from memberwise.fresh import say
    from memberwise.fresh.study import study
    from memberwise.project import Project

    loaded = Project.load(project)
    with out.status("Replaying"):
        found = study(loaded, slices=slices, retrain=retrain, limit=limit)
    target = report or loaded.output / "freshness.html"
    found.write(target)
    found.to_json(target.with_suffix(".json"))
    say.replay(found, out)
    out.print(f"Report: [bold]{target}[/]", soft_wrap=True)


@app.command(rich_help_panel=FRESH)
def offpolicy(
    log: Annotated[
        list[str], typer.Argument(metavar="LOG...", help="A row per decision: Parquet, CSV or Arrow.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Column: the new policy's probability of what was done (repeat for several)."),
    ] = None,
    reward: Annotated[str, typer.Option(help="Column: what followed.")] = "reward",
    propensity: Annotated[
        str, typer.Option(help="Column: the logging policy's probability of what it did.")
    ] = "propensity",
    predicted: Annotated[str | None, typer.Option(help="Column: a model's reward of what was done.")] = None,
    expected: Annotated[
        str | None, typer.Option(help="Column: that model's mean reward under the new policy.")
    ] = None,
    placed: Annotated[
        str | None, typer.Option(help="For a replay of shuffled sessions, column: item that stood first.")
    ] = None,
    wanted: Annotated[
        str | None, typer.Option(help="With --placed, column: item that the new ranking puts first.")
    ] = None,
    member: Annotated[
        str | None, typer.Option(help="Column: whose decision; intervals resample members.")
    ] = None,
    clip: Annotated[float | None, typer.Option(min=1, help="Largest importance weight.")] = None,
    draws: Annotated[int, typer.Option(min=20, help="Bootstrap draws behind the intervals.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML page, and JSON beside it.")] = None,
) -> None:
    """Say what another policy would have earned, from the log of the one that ran.

    The log needs a column with the probability with which each decision was made (memberwise rank --explore
    and the server give it), and one with the probability that the new policy gives to the same decision:

        memberwise offpolicy decisions.parquet --target thompson --target greedy --member user

    IPS is right on average but noisy, SNIPS is calmer. With a reward model (--predicted, --expected) the
    doubly robust DR is usually the one to read. Look at the effective decisions first: below some hundred,
    log more exploration. A log whose first places were shuffled uniformly needs no probabilities:

        memberwise offpolicy sessions.parquet --placed first_shown --wanted first_by_new --reward clicked
    """
    from memberwise.fresh.decisions import Columns, judge, records, warnings
    from memberwise.report import FreshnessReport

    columns = Columns(
        reward=reward, propensity=propensity, targets=target or ["target"], predicted=predicted,
        expected=expected, member=member, placed=placed, wanted=wanted,
    )  # fmt: skip
    found = judge(log, columns, clip=clip, draws=draws)
    table = Table("policy", "estimator", "reward", "95 %", "gain", "95 % of the gain", "effective")
    for r in records(found):
        table.add_row(
            literal(r["policy"]), r["estimator"], f"{r['value']:.4f}", f"{r['low']:.4f} to {r['high']:.4f}",
            f"{r['gain']:+.4f}", f"{r['gain_low']:+.4f} to {r['gain_high']:+.4f}", f"{r['effective']:,.0f}",
        )  # fmt: skip
    out.print(table)
    for warning in warnings(found):
        out.print(f"[yellow]{literal(warning)}[/]")
    if report is not None:
        page = FreshnessReport(Path(log[0]).stem, offpolicy=records(found))
        page.to_json(page.write(report).with_suffix(".json"))
        out.print(f"Report: [bold]{report}[/]")
