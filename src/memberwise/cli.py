"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from memberwise import __version__
from memberwise.errors import ConfigError, MemberwiseError

app = typer.Typer(
    name="memberwise",
    help="Turn a log of who saw what and what they did into a ranker that is personal to every member.\n\n"
    "Start with [bold]memberwise demo[/], then [bold]memberwise init your_events.parquet[/] on your own log.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()

ProjectPath = Annotated[
    Path,
    typer.Argument(metavar="PROJECT", help="The project file, or the directory that holds project.yaml."),
]
EventFiles = Annotated[
    list[str],
    typer.Argument(metavar="EVENTS...", help="Parquet, CSV or Arrow: files, directories, globs, URLs."),
]


def main() -> None:
    """Entry point: a user's mistake ends with a message and exit code 2, not with a traceback."""
    try:
        app()
    except MemberwiseError as error:
        Console(stderr=True, highlight=False).print(
            f"[bold red]Error[/] {_literal(str(error))}", soft_wrap=True
        )
        sys.exit(2)


def _literal(text: str) -> str:
    return text.replace("[", "\\[")


def _version(value: bool) -> None:
    if value:
        out.print(f"memberwise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("runs/demo"),
) -> None:
    """Fit, evaluate and rank on bundled real data, in minutes.

    Trains on 80,000 film ratings (MovieTweetings, 2013), compares with simple models on the last 10,000, and
    ranks films for a member. Leaves metrics.json, report.html and bundles/ in the output directory.
    """
    from memberwise.demo import run

    run(output, out)


@app.command()
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
    what it cannot guess from the names.
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
    output.write_text(proposal.yaml, encoding="utf-8")
    for note in proposal.notes:
        out.print(f"- {_literal(note)}")
    out.print(f"\nWrote [bold]{output}[/]. Read it, then: [bold]memberwise doctor {output}[/]")


@app.command()
def doctor(project: ProjectPath) -> None:
    """Check a project against its data before any training.

    Looks for what makes a ranker wrong without an error: columns that give the label away, time that is out
    of order, ids that never return, duplicate rows, splits that differ. Exit code 1 if it finds an error.
    """
    from memberwise.doctor import examine
    from memberwise.project import Project

    diagnosis = examine(Project.load(project))
    out.print(diagnosis.render())
    if not diagnosis.ok:
        raise typer.Exit(1)


@app.command()
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

    The log is prepared once and found again as long as neither the schema nor the files change. Stop it as
    you like, even with kill -9: --resume goes on from the last checkpoint and ends with the same numbers.
    """
    from memberwise.fresh.reference import fit_info
    from memberwise.project import Project
    from memberwise.ranking.progress import ProgressBar, TensorBoard
    from memberwise.recommender import Recommender

    loaded = Project.load(project)
    if resume and not (loaded.output / "run" / "checkpoint.safetensors").exists():
        out.print("There is no checkpoint to resume from: the fit starts at the beginning.")
    with ProgressBar() as bar:
        watchers: list[Any] = [bar]
        if tensorboard and TensorBoard.installed():
            watchers.append(TensorBoard(loaded.output / "run" / "tensorboard"))
        rec = Recommender.fit(loaded, resume=resume, watchers=watchers, progress=bar.stage)
    _say_rows(rec.summary)
    path = rec.save(info=fit_info(rec))
    best = min((r for r in rec.log if r["split"] == "valid" and r["best"]), key=lambda r: -r["step"])
    out.print(f"Best on valid: log-loss {best['log_loss']:.4f}, AUC {best['auc']:.4f} at step {best['step']}")
    out.print(
        f"Published [bold]{path}[/] in {rec.fit_seconds:.0f} s. Next: [bold]memberwise evaluate {project}[/]"
    )


def _say_rows(summary: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} {part['rows']:,}" for name, part in summary["splits"].items())
    out.print(f"Rows: {parts}; {summary['members']:,} members, {summary['items']:,} items")
    if summary["rows rejected"]:
        reasons = "; ".join(f"{n:,} x {r}" for r, n in summary["reasons"].items())
        out.print(
            f"[yellow]{summary['rows rejected']:,} rows could not be used[/]: {reasons} (see rejects.parquet)"
        )
    if summary.get("negatives"):
        out.print(summary["negatives"])


@app.command()
def tune(
    project: ProjectPath,
    trials: Annotated[int, typer.Option(min=1, help="How many in all, earlier runs included.")] = 40,
) -> None:
    """Search better settings of the ranker and its training, and print what to paste into the project.

    Judged by training.metric on valid; the project as it stands is tried first. Trials that fall behind are
    given up, and all are kept in a journal: stop it as you like, the same command goes on.
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
        out.print(f"Paste into [bold]{project}[/], in place of its ranker and training keys of that name:\n")
        print(found.snippet)
    else:
        out.print("The project as it stands is the best that was found.")


@app.command()
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

    Every row sees only its past, as old as the declared delays say. Intervals resample members; differences
    to the simple models are paired.
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
    out.print(found.table())
    for warning in found.warnings:
        out.print(f"[yellow]{_literal(warning)}[/]")
    out.print(f"Report: [bold]{target}[/]")


@app.command()
def rank(
    project: ProjectPath,
    member: Annotated[str, typer.Option(help="Id of the member.")],
    item: Annotated[
        list[str] | None, typer.Option(help="A candidate (repeat); default: all of the item table.")
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

    With --explore the order is a draw from the posterior of the last layer (section exploration of the
    project). Log the propensity with what you show: memberwise offpolicy can then judge other policies.
    """
    from memberwise.project import Project
    from memberwise.recommender import Recommender

    try:
        values = json.loads(context)
    except ValueError as error:
        raise ConfigError(
            f"is not JSON: {error}", where="--context", fix="""write it like '{"store": 3}'"""
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("is not a JSON object", where="--context", fix="""write it like '{"store": 3}'""")
    rec = Recommender.load(Project.load(project).bundles)
    ranked = rec.rank(member, item or None, k, at=at, context=values, explore=explore, seed=seed)
    if as_json:
        print("\n".join(json.dumps(found) for found in ranked.to_dicts()))
        return
    table = Table("", *ranked.columns, title=f"member {_literal(member)}, version {rec.version}")
    for i, row in enumerate(ranked.iter_rows(), 1):
        table.add_row(str(i), *(f"{v:.4f}" if isinstance(v, float) else _literal(str(v)) for v in row))
    out.print(table)


@app.command()
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
    what is clearly worse. Events must be newer than what the version has seen: each counts once.
    """
    from memberwise.fresh import say
    from memberwise.fresh.update import update as run
    from memberwise.project import Project

    outcome = run(Project.load(project), events, force=force, train=train, wait=wait)
    if as_json:
        print(json.dumps(outcome.to_dict() | {"version": str(outcome.version or outcome.known)}))
        return
    say.update(outcome, out)


@app.command()
def refresh(
    project: ProjectPath,
    events: EventFiles,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Refresh what moves by itself, and publish the result: the weights of the ranker and of all blocks stay.

    Meta embeddings are adapted anew for the entities with new events alone, graph embeddings near-line;
    aggregates and histories move forward. The same as update --no-train, meant to run often.
    """
    from memberwise.fresh import say
    from memberwise.fresh.update import update as run
    from memberwise.project import Project

    outcome = run(Project.load(project), events, train=False)
    if as_json:
        print(json.dumps(outcome.to_dict() | {"version": str(outcome.version or outcome.known)}))
        return
    say.update(outcome, out)


@app.command()
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

    Starts from the version that was fitted, before all updates. Writes curves of every arm through time,
    and says how stale your model may get.
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


@app.command()
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
            _literal(r["policy"]), r["estimator"], f"{r['value']:.4f}", f"{r['low']:.4f} to {r['high']:.4f}",
            f"{r['gain']:+.4f}", f"{r['gain_low']:+.4f} to {r['gain_high']:+.4f}", f"{r['effective']:,.0f}",
        )  # fmt: skip
    out.print(table)
    for warning in warnings(found):
        out.print(f"[yellow]{_literal(warning)}[/]")
    if report is not None:
        page = FreshnessReport(Path(log[0]).stem, offpolicy=records(found))
        page.to_json(page.write(report).with_suffix(".json"))
        out.print(f"Report: [bold]{report}[/]")


@app.command()
def serve(
    project: ProjectPath,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8600,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients must send; default: MEMBERWISE_TOKEN, or none."),
    ] = None,
    clock: Annotated[str, typer.Option(help="wall, or log: just after the last event seen.")] = "wall",
    engine: Annotated[str, typer.Option(help="auto, float32, int8 or torch.")] = "auto",
    tables: Annotated[str, typer.Option(help="Embedding tables in memory: float32 or int8.")] = "float32",
    max_candidates: Annotated[int, typer.Option(min=1, help="Candidates of one request.")] = 10_000,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that a request may wait.")] = 1.0,
) -> None:
    """Serve the current version over HTTP, and swap to a newer one without losing a request.

    POST /rank orders candidates, POST /events stores what happened, / is a page for people and /docs
    describes the rest. Events are seen by the next version that `memberwise follow` publishes.
    """
    from memberwise.project import Project
    from memberwise.serving.run import serve as run
    from memberwise.serving.settings import settings

    run(
        Project.load(project),
        settings(
            host=host,
            port=port,
            workers=workers,
            clock=clock,
            engine=engine,
            tables=tables,
            max_candidates=max_candidates,
            timeout=timeout,
        ).with_token(token_file),
    )


@app.command()
def follow(
    project: ProjectPath,
    source: Annotated[
        str | None,
        typer.Option(
            help="Directory of events, or redis://HOST/DB?stream=NAME; default: the server's inbox."
        ),
    ] = None,
    pause: Annotated[float, typer.Option(min=0.05, help="Seconds between looks when nothing is new.")] = 1.0,
    settle: Annotated[float, typer.Option(min=0, help="Seconds that an event waits for late ones.")] = 2.0,
    limit: Annotated[int, typer.Option(min=1, help="Events of one version.")] = 100_000,
    once: Annotated[bool, typer.Option(help="Take what is there, publish, and stop.")] = False,
) -> None:
    """Let new versions see new events as they come, each event once.

    Kill it when you like: where it stands is a part of the version that it publishes.
    """
    from memberwise.project import Project
    from memberwise.serving import logs
    from memberwise.serving.follow import Follower, source_of

    loaded = Project.load(project)
    follower = Follower(loaded, source_of(loaded, source), limit=limit, settle=settle)
    if not once:
        logs.to_json()
        follower.run(pause)
        return
    while (done := follower.step()).version is not None:
        out.print(f"{done.counted:,} events -> [bold]{done.version}[/]")
    for reason, count in done.left_out.items():
        out.print(f"[yellow]{count:,} events left out[/]: {reason}")


@app.command()
def compress(
    project: ProjectPath,
    report: Annotated[
        Path | None, typer.Option(help="JSON file to write; default: compress.json in the runs.")
    ] = None,
    fewer: Annotated[
        int, typer.Option(min=0, help="Also fit again with so many times fewer rows in large tables (slow).")
    ] = 0,
) -> None:
    """Measure what int8 and smaller tables save and cost: size, time, AUC; and test the int8 ranker.

    `memberwise serve --engine int8` takes the int8 ranker only where it lost next to nothing here.
    """
    from dataclasses import asdict

    from memberwise.project import Project
    from memberwise.serving.compress import compress as measure
    from memberwise.serving.compress import refit

    loaded = Project.load(project)
    choices = measure(loaded)
    if fewer > 1:
        choices += refit(loaded, fewer, choices[0].auc)
    tasks = loaded.config.task_names
    table = Table("", "tables MB", "dense MB", "ms / 256", *(f"AUC {t}" for t in tasks), "largest change")
    for c in choices:
        change = max(c.change, key=abs)
        numbers = f"{c.table_mb:.2f}", f"{c.core_mb:.2f}", f"{c.ms:.2f}", *(f"{a:.4f}" for a in c.auc)
        table.add_row(c.name, *numbers, f"{change:+.5f}")
    out.print(table)
    target = report or loaded.output / "compress.json"
    target.write_text(json.dumps([asdict(c) for c in choices], indent=1))
    out.print(f"Written: [bold]{target}[/]")


@app.command()
def forget(
    project: ProjectPath,
    member: Annotated[
        list[str] | None,
        typer.Option(help="Id of a member to forget (repeat); none to complete what was begun."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for an update at work.")] = 60.0,
) -> None:
    """Remove members from everything that the project keeps, for good.

    Their aggregates, histories, effects, vectors, rows and their own embeddings leave every saved version;
    prepared rows and checkpoints are deleted; events that came through the server are overwritten. From then
    on their events are left out wherever a log is read: a new fit or a replay does not bring them back, and
    a version that still knows them is not rolled back to.

    Weights that were learned from all members together stay until the next full fit. Your own files are
    yours: the list at the end names those that still hold their rows. Members whom the server was asked to
    forget (DELETE /members/ID) are completed by the same command, without --member.
    """
    from memberwise.project import Project
    from memberwise.recommender.removal import remove

    with out.status("Rewriting versions"):
        done = remove(Project.load(project), member or [], wait=wait)
    if done.published is not None:
        out.print(f"Current version: [bold]{done.published}[/]; {len(done.rewritten)} earlier ones rewritten")
    for name in done.removed:
        out.print(f"[yellow]Version {_literal(name)} could not be read, and was removed[/]")
    for name, what in done.files.items():
        out.print(f"- {_literal(name)}: {what}")
    out.print("Traces that remain, inseparable from all others:")
    for trace in done.traces:
        out.print(f"- {trace}")
    out.print("Yours to clean: " + ", ".join(_literal(str(p)) for p in done.outside))


graphs = typer.Typer(help="Work on the graph of a project's events.", no_args_is_help=True)
app.add_typer(graphs, name="graph")


@graphs.command("densify")
def graph_densify(
    project: ProjectPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for the graph.")],
    before: Annotated[
        datetime | None, typer.Option(help="Know nothing from this moment on, UTC; default: all events.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Edges that a node with few edges gets.")] = 20,
    low: Annotated[float, typer.Option(help="Percentile of degree up to which a node is cold.")] = 30.0,
    high: Annotated[float, typer.Option(help="Percentile of degree from which on a node is hot.")] = 90.0,
) -> None:
    """Write the graph with edges from cold nodes to hot ones that resemble them in content.

    Content is what the vector features of an entity say. Open the result with HeteroGraph.open.
    """
    from memberwise.graph.densify import DensifyConfig, densify
    from memberwise.graph.store import HeteroGraph
    from memberwise.project import Project
    from memberwise.schema import to_micros

    if low >= high:
        raise ConfigError(f"{low:g} must be below --high {high:g}", where="--low")
    loaded = Project.load(project)
    edges = loaded.config.graph.edges if loaded.config.graph is not None else []
    moment = None if before is None else to_micros(before)
    graph = HeteroGraph.from_project(loaded, edges, moment)
    denser, done = densify(graph, DensifyConfig(k=k, low=low, high=high), moment)
    denser.write(output)
    table = Table("node type", "nodes", "cold", "hot", "new edges")
    for part in done:
        node_type = part.edge_type[0]
        table.add_row(
            node_type, *(f"{n:,}" for n in (graph.count(node_type), part.cold, part.hot, part.edges))
        )
    out.print(table)
    out.print(f"Wrote [bold]{output}[/]", soft_wrap=True)


bundles = typer.Typer(help="List the saved versions of a project, or go back to one.", no_args_is_help=True)
app.add_typer(bundles, name="bundles")


@bundles.command("list")
def bundles_list(project: ProjectPath) -> None:
    """List the versions, oldest first; the star marks the current one."""
    from memberwise import bundle
    from memberwise.project import Project

    directory = Project.load(project).bundles
    table = Table("", "version", "created", "from", "as of", "size")
    now = bundle.current(directory)
    for path in bundle.versions(directory):
        manifest = bundle.read_manifest(path)
        size = sum(f["bytes"] for f in manifest.files.values())
        table.add_row(
            "*" if path.name == now else "",
            path.name,
            manifest.created,
            manifest.parent or "",
            str(manifest.info.get("as_of", "")),
            f"{size / 1e6:.1f} MB",
        )
    out.print(table)


@bundles.command("rollback")
def bundles_rollback(
    project: ProjectPath,
    version: Annotated[
        str | None, typer.Argument(help="Version to go back to; default: the parent of the current.")
    ] = None,
) -> None:
    """Make an earlier version the current one. Nothing is deleted."""
    from memberwise import bundle
    from memberwise.project import Project
    from memberwise.recommender.removal import refuse_forgotten

    loaded = Project.load(project)
    directory = loaded.bundles
    if version is None:
        version = bundle.read_manifest(bundle.resolve(directory)).parent
        if version is None:
            raise ConfigError("the current version has no parent", where=str(directory), fix="name a version")
    if version in {path.name for path in bundle.versions(directory)}:
        bundle.verify(directory / version)
        refuse_forgotten(loaded, directory / version)
    bundle.point(directory, version)
    out.print(f"Current version: [bold]{version}[/]")


@app.command()
def schema() -> None:
    """Print the JSON Schema of project.yaml, for completion and checks in your editor.

    In VS Code, save it as project.schema.json and put this on the first line of project.yaml:
    # yaml-language-server: $schema=project.schema.json
    """
    from memberwise.project import json_schema

    print(json.dumps(json_schema(), indent=1))


if __name__ == "__main__":
    main()
