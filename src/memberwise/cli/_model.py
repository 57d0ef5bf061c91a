"""From a log to a ranker: demo, init, doctor, fit, tune, evaluate, rank, similar."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from memberwise.cli._app import FIT, START, ProjectPath, app, beside, literal, out, say_if_ahead
from memberwise.errors import ConfigError, counted

if TYPE_CHECKING:
    from memberwise.recommender import Recommender


@app.command(rich_help_panel=START)
def demo(
    output: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("runs/demo"),
) -> None:
    """Fit, evaluate, rank and update on bundled real data, in minutes.

    Trains on 80,000 film ratings (MovieTweetings, 2013), compares with simple models on the last 10,000,
    ranks films for a member, and lets a thousand new ratings make a new version. What it leaves in the output
    directory is a project like your own will be: its data and its project.yaml, report.html, metrics.json and
    the versions in bundles/. Every other command works on it:

        memberwise rank runs/demo --member 17
    """
    from memberwise.demo import run

    run(output, out)


@app.command(rich_help_panel=START)
def init(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="The event log, and entity tables if any.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Project file to write.")] = Path(
        "project.yaml"
    ),
    force: Annotated[bool, typer.Option(help="Overwrite the file if it is there.")] = False,
    time: Annotated[str | None, typer.Option(help="Column with the time, if it is not found.")] = None,
    member: Annotated[str | None, typer.Option(help="Column with the member's id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column with the item's id.")] = None,
    request: Annotated[str | None, typer.Option(help="Column that groups the rows shown together.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Column to predict (repeat for several tasks).")
    ] = None,
) -> None:
    """Look at the columns of your files and propose a commented project file.

    Finds the time, the members, the items and what could be a label; counts values and missing ones; and
    writes a project.yaml that can be fitted as it stands. Read it before you trust it. Say with the options
    what it cannot guess from the names:

        memberwise init events.parquet items.parquet --member user_id --label clicked
    """
    from memberwise.starter import propose

    if output.exists() and not force:
        raise ConfigError(
            "is there already", where=str(output), fix="choose another --output, or add --force"
        )
    proposal = propose(
        files,
        base=output.parent,
        time=time,
        member=member,
        item=item,
        request=request,
        labels=label or (),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(proposal.yaml, encoding="utf-8")
    for note in proposal.notes:
        out.print(f"- {literal(note)}")
    out.print(
        f"\nWrote [bold]{output}[/]. Read it, then: [bold]memberwise doctor {output}[/]", soft_wrap=True
    )


@app.command(rich_help_panel=START)
def doctor(project: ProjectPath) -> None:
    """Check a project against its data before any training.

    Looks for what makes a ranker wrong without an error: columns that give the label away, time that is out
    of order, ids that never return, duplicate rows, splits that differ. Each finding names the line and the
    key of the project file, and what to do. Exit code 1 if it finds an error.
    """
    from memberwise.doctor import examine
    from memberwise.project import Project

    diagnosis = examine(Project.load(project))
    out.print(diagnosis.render())
    if not diagnosis.ok:
        raise typer.Exit(1)


@app.command(rich_help_panel=FIT)
def fit(
    project: ProjectPath,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last checkpoint of an interrupted fit.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option(help="Also write TensorBoard logs, if it is installed.")
    ] = True,
) -> None:
    """Train the ranker of a project and publish it as a new version.

    The log is sorted by time and cut into train, valid and test, in this order; what valid shows best is
    kept, and test is left for memberwise evaluate. The log is prepared once and found again as long as
    neither the schema nor the files change. Stop it as you like, even with kill -9: --resume goes on from the
    last checkpoint (training.checkpoint_seconds: one a minute) and ends with the same numbers. Where the
    project has sections beside the ranker (graph, meta, effects, exploration), the end says what each adds
    on valid.
    """
    from memberwise.fresh.reference import fit_info
    from memberwise.project import Project
    from memberwise.ranking.progress import ProgressBar, TensorBoard
    from memberwise.recommender import Recommender
    from memberwise.recommender.contributions import contributions, table

    loaded = Project.load(project)
    if resume and not any(
        (loaded.output / "run").rglob("checkpoint.safetensors")
    ):  # the ranker's or a part's
        out.print("There is no checkpoint to resume from: the fit starts at the beginning.")
    with ProgressBar() as bar:
        watchers: list[Any] = [bar]
        if tensorboard and TensorBoard.installed():
            watchers.append(TensorBoard(loaded.output / "run" / "tensorboard"))
        rec = Recommender.fit(loaded, resume=resume, watchers=watchers, progress=bar.stage)
    _say_rows(rec.summary)
    _say_unit(rec.summary)
    path = rec.save(info=fit_info(rec))
    best = min((r for r in rec.log if r["split"] == "valid" and r["best"]), key=lambda r: -r["step"])
    tasks = len(loaded.config.tasks)
    over = f" (mean of {tasks} tasks)" if tasks > 1 else ""
    figures = f"log-loss {best['log_loss']:.4f}, AUC {best['auc']:.4f}{over}"
    out.print(f"Best on valid: {figures} at step {best['step']}", highlight=False)
    if (cut := contributions(rec)) is not None:
        out.print(table(cut))
    out.print(
        f"Published [bold]{path}[/] in {rec.fit_seconds:.0f} s. Next: [bold]memberwise evaluate {project}[/]",
        soft_wrap=True,
    )


def _say_rows(summary: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} {part['rows']:,}" for name, part in summary["splits"].items())
    out.print(f"Rows: {parts}; {summary['members']:,} members, {summary['items']:,} items")
    if summary["rows rejected"]:
        reasons = "; ".join(f"{n:,} x {r}" for r, n in summary["reasons"].items())
        out.print(
            f"[yellow]{counted(summary['rows rejected'], 'row')} could not be used[/]: {reasons} "
            "(see rejects.parquet)"
        )
    if summary.get("negatives"):
        out.print(summary["negatives"])


def _say_unit(summary: dict[str, Any]) -> None:
    """A wrong unit puts a whole log into 1970, and trains without a word."""
    from memberwise.data.times import PLAUSIBLE

    if (last := int(summary["splits"]["test"]["last"])) < PLAUSIBLE:
        out.print(
            f"[yellow]The log ends on {datetime.fromtimestamp(last / 1e6, UTC):%Y-%m-%d}[/]: is "
            "events.time_unit right? memberwise doctor says what would fit."
        )


@app.command(rich_help_panel=FIT)
def tune(
    project: ProjectPath,
    trials: Annotated[int, typer.Option(min=1, help="How many in all, earlier runs included.")] = 40,
) -> None:
    """Search better settings of the ranker and its training, and print what to paste into the project.

    Judged by training.metric on valid; the project as it stands is tried first. Trials that fall behind are
    given up, and all are kept in a journal: stop it as you like, the same command goes on. Needs Optuna:
    pip install 'memberwise[tune]'.
    """
    from memberwise.project import Project
    from memberwise.ranking.progress import ProgressBar
    from memberwise.tune import tune as search

    def told(number: int, value: float | None) -> None:
        out.print(f"trial {number}: {'given up' if value is None else f'{value:.5f}'}")

    loaded = Project.load(project)
    with ProgressBar() as bar:
        found = search(loaded, trials, progress=bar.stage, told=told)
    out.print(
        f"{found.finished} trials, {found.given_up} given up. {found.metric} on valid: {found.own:.5f} as it "
        f"stands, {found.best:.5f} at best ({found.storage})",
        soft_wrap=True,
    )
    if found.settings:
        out.print(
            f"Paste into [bold]{loaded.file}[/], in place of its ranker and training keys of that name:\n"
        )
        print(found.snippet)
    else:
        out.print("The project as it stands is the best that was found.")


@app.command(rich_help_panel=FIT)
def evaluate(
    project: ProjectPath,
    events: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EVENTS...]", help="Labelled events; default: the test split."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also fit simple models and compare (on the test split only).")
    ] = True,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML report; default: report.html (or report-events.html) in the runs."),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=20, help="Bootstrap draws of members behind the intervals.")
    ] = 1000,
) -> None:
    """Score labelled events with the current version and write the report.

    Without events it judges the test split, the part of the project's log that no fit has learned from, and
    compares with simple models. With events it judges those:

        memberwise evaluate project.yaml events/2013-09-01.parquet

    Every row sees only its past, as old as the declared delays say. Intervals resample members; differences
    to the simple models are paired. Where the version knows rows already, because it was trained on them or
    an update has taught it what came later, that is said.
    """
    from memberwise.project import Project
    from memberwise.recommender import Recommender

    loaded = Project.load(project)
    rec = Recommender.load(loaded.bundles)
    with out.status("Scoring and resampling"):
        found = rec.evaluate(events or None, baselines=baselines and not events, draws=draws)
    # Simple models are fitted on the project's own rows: they have no features for other events.
    target = report or loaded.output / ("report-events.html" if events else "report.html")
    found.write(target)
    found.to_json(target.with_suffix(".json"))
    say_if_ahead(loaded, rec)
    out.print(f"Judged: {literal(found.subject())}", highlight=False)
    for said in found.warnings:
        out.print(f"[yellow]{literal(said)}[/]", highlight=False, soft_wrap=True)
    out.print(found.table())
    for said in found.context.notes:
        out.print(f"[yellow]{literal(said)}[/]", highlight=False)
    out.print(f"Report: [bold]{target}[/]", soft_wrap=True)


@app.command(rich_help_panel=FIT)
def rank(
    project: ProjectPath,
    member: Annotated[str, typer.Option(help="Id of the member.")],
    item: Annotated[
        list[str] | None,
        typer.Option(
            help="A candidate (repeat); default: what the graph retrieves, or all of the item table."
        ),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    at: Annotated[
        datetime | None, typer.Option(help="Moment of the request, UTC; default: now as the log knows it.")
    ] = None,
    context: Annotated[str, typer.Option(help="Event columns that features read, as JSON.")] = "{}",
    explore: Annotated[
        bool, typer.Option(help="Order by a draw from what is known; also shows each place's propensity.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the draw; new every time if not given.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
) -> None:
    """Order items for a member with the current version, best first.

    The score is the sum of the tasks' probabilities times their utility. Columns that a request must say,
    such as a device, go into --context; whoever is new is ranked as new members and items are:

        memberwise rank project.yaml --member 17 --item 0770828 --item 1300854 --context '{"device": "phone"}'

    With --explore the order is a draw from the posterior of the last layer (section exploration of the
    project): the score is that of the draw, the probabilities are what is believed. Log the propensity with
    what you show: memberwise offpolicy can then judge other policies.
    """
    from memberwise.project import Project
    from memberwise.recommender import Recommender
    from memberwise.recommender.request import needed_columns

    try:
        values = json.loads(context)
    except ValueError as error:
        raise ConfigError(
            f"is not JSON: {error}", where="--context", fix="""write it like '{"store": 3}'"""
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("is not a JSON object", where="--context", fix="""write it like '{"store": 3}'""")
    loaded = Project.load(project)
    rec = Recommender.load(loaded.bundles)
    ranked = rec.rank(member, item or None, k, at=at, context=values, explore=explore, seed=seed)
    say_if_ahead(loaded, rec)
    if unread := sorted(set(values) - set(needed_columns(rec.project.config))):
        beside(f"No feature reads {', '.join(map(repr, unread))} of --context.")
    _say_who_is_new(rec, member, item or [])
    if as_json:
        print("\n".join(json.dumps(found) for found in ranked.to_dicts()))
        return
    heads = {"score": "score of the draw" if explore else "score", "propensity": "propensity"}
    heads |= {task: f"P({task})" for task in rec.project.config.task_names}
    names = [literal(heads.get(column, column)) for column in ranked.columns]
    table = Table("", *names, title=f"member {literal(member)}, version {rec.version}")
    for i, row in enumerate(ranked.iter_rows(), 1):
        table.add_row(str(i), *(f"{v:.4f}" if isinstance(v, float) else literal(str(v)) for v in row))
    out.print(table)


@app.command(rich_help_panel=FIT)
def similar(
    project: Annotated[
        Path,
        typer.Argument(
            metavar="PROJECT",
            help="The project file or its directory, for the current version; or the directory of a version.",
        ),
    ],
    id: Annotated[str, typer.Option(help="Id of the one to compare with.")],
    entity: Annotated[str, typer.Option(help="What it is: item or member.")] = "item",
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many to show.")] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
) -> None:
    """Show the items or members that are most like one, by the graph's embeddings as of the last event.

    Two items are alike if the same members choose them at about the same time, two members if they choose
    alike; what the tables say of them counts where the graph has edges for it. The cosine is 1 for the same
    direction and 0 for nothing in common. Needs a project with a section graph:

        memberwise similar project.yaml --id 0770828 -k 5
        memberwise similar runs/demo/bundles/000001 --entity member --id 17
    """
    from memberwise.bundle import CURRENT, MANIFEST
    from memberwise.project import Project
    from memberwise.recommender import Recommender

    if (project / MANIFEST).is_file() or (project / CURRENT).is_symlink():
        rec = Recommender.load(project)
    else:
        loaded = Project.load(project)
        rec = Recommender.load(loaded.bundles)
        say_if_ahead(loaded, rec)
    found = rec.similar(entity, id, k)
    if as_json:
        print("\n".join(json.dumps(row) for row in found.to_dicts()))
        return
    moment = "" if rec.as_of is None else f", as of {rec.as_of:%Y-%m-%d %H:%M} UTC"
    out.print(f"Most like {entity} {literal(id)}, by version {rec.version}{moment}", highlight=False)
    table = Table("", entity, "cosine")
    for i, (name, cosine) in enumerate(found.iter_rows(), 1):
        table.add_row(str(i), literal(str(name)), f"{cosine:.3f}")
    out.print(table)


def _say_who_is_new(rec: Recommender, member: str, items: list[str]) -> None:
    """An id that the version has never seen may be a new one, or mistyped."""
    if rec.unknown("member", [member]):
        beside(f"Member {member!r} is new to this version: ranked by what is known of new members.")
    if new := rec.unknown("item", items):
        named = ", ".join(repr(i) for i in new[:5]) + (", ..." if len(new) > 5 else "")
        beside(
            f"{len(new)} of {len(items)} items are new to this version ({named}): scored by what is known of "
            "new items."
        )
