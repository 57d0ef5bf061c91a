"""In production: serve, follow, compress, forget."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from memberwise.cli._app import SERVE, ProjectPath, app, beside, literal, out
from memberwise.errors import counted

if TYPE_CHECKING:
    from memberwise.project import Project

StoreAddress = Annotated[
    str,
    typer.Option(
        envvar="MEMBERWISE_STORE",
        help="Where vectors of requests come from: memory (the version itself), lmdb, or redis://HOST/DB.",
    ),
]


@app.command(rich_help_panel=SERVE)
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
    engine: Annotated[str, typer.Option(help="auto, float32, int8, torch; or aoti (C++ compiler).")] = "auto",
    tables: Annotated[str, typer.Option(help="Embedding tables in memory: float32 or int8.")] = "float32",
    store: StoreAddress = "memory",
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

    loaded = Project.load(project)
    out.print(
        f"Loading the current version, then listening on [bold]http://{host}:{port}[/] "
        f"(curl -s {host}:{port}/ready says when)",
        soft_wrap=True,
    )
    run(
        loaded,
        settings(
            host=host,
            port=port,
            workers=workers,
            clock=clock,
            engine=engine,
            tables=tables,
            store=store,
            max_candidates=max_candidates,
            timeout=timeout,
        ).with_token(token_file),
    )


@app.command(rich_help_panel=SERVE)
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

    Reads what the server's POST /events has stored, or any directory or Redis stream; updates the current
    version by the same policy and gate as memberwise update, and publishes. Kill it when you like: where it
    stands is a part of the version that it publishes. With --once, exit code 1 if the gate refuses.

        memberwise follow project.yaml --source events/
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
    total, left_out = 0, Counter[str]()
    while True:
        done = follower.step()
        left_out += done.left_out
        if done.version is None:
            break
        total += done.counted
        out.print(f"{counted(done.counted, 'event')} -> [bold]{done.version}[/]")
    if not total and not left_out and done.refused is None:
        out.print("Nothing new.")
    for reason, count in left_out.items():
        out.print(f"[yellow]{counted(count, 'event')} left out[/]: {literal(reason)}")
    if done.refused is not None:
        out.print(f"[red]Refused[/]: {done.refused}. {counted(done.held, 'event')} kept waiting.")
        raise typer.Exit(1)


@app.command(rich_help_panel=SERVE)
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
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([asdict(c) for c in choices], indent=1))
    out.print(f"Written: [bold]{target}[/]")


@app.command(rich_help_panel=SERVE)
def forget(
    project: ProjectPath,
    member: Annotated[
        list[str] | None,
        typer.Option(help="Id of a member to forget (repeat); none to complete what was begun."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for an update at work.")] = 60.0,
    store: StoreAddress = "memory",
    unseen: Annotated[
        bool, typer.Option(help="Also block ids that nothing of the project knows (yet).")
    ] = False,
    undo: Annotated[
        bool, typer.Option(help="Let events of these members count again; what was erased stays erased.")
    ] = False,
) -> None:
    """Remove members from everything that the project keeps, for good.

    Their aggregates, histories, effects, vectors, rows and their own embeddings leave every saved version;
    prepared rows and checkpoints are deleted; events that came through the server are overwritten. From then
    on their events are left out wherever a log is read: a new fit or a replay does not bring them back, and
    a version that still knows them is not rolled back to. Stores of vectors are emptied and filled again.

    Weights that were learned from all members together stay until the next full fit. Your own files are
    yours: the list at the end names those of the project and of its updates that still hold their rows.
    Members whom the server was asked to forget (DELETE /members/ID) are completed by the same command,
    without --member. An id that no version, event or file knows is refused, since it may be mistyped.

    The rows that a version was fitted and judged on go too: run memberwise fit before you evaluate on the
    test split or compress.
    """
    from memberwise.project import Project
    from memberwise.recommender.removal import remove, take_back

    loaded = Project.load(project)
    if undo:
        take_back(loaded, member or [])
        out.print(
            "Events of these members count again from now on. What was erased does not come back; the next "
            "fit reads what your log still holds of them."
        )
        return
    with out.status("Rewriting versions"):
        done = remove(loaded, member or [], wait=wait, unseen=unseen)
        refilled = _forget_in_stores(loaded, store)
    if done.published is not None:
        earlier = counted(len(done.rewritten), "earlier version")
        out.print(f"Current version: [bold]{done.published}[/]; {earlier} rewritten")
    for name in done.removed:
        out.print(f"[yellow]Version {literal(name)} could not be read, and was removed[/]")
    for name, what in done.files.items():
        out.print(f"- {literal(name)}: {what}")
    for name in refilled:
        out.print(f"- {literal(name)}: emptied, and filled again with the current version")
    out.print("Traces that remain, inseparable from all others:")
    for trace in done.traces:
        out.print(f"- {trace}")
    if done.outside:
        out.print("Yours to clean, since their rows still stand there:")
        for path in done.outside:
            out.print(f"- {literal(path)}", soft_wrap=True)
    if done.unknown:
        names = ", ".join(repr(name) for name in done.unknown)
        beside(
            f"Never seen, and blocked: {names}. Events under such an id will be left out; --undo lifts it."
        )
    if done.needs_fit:
        beside(
            "Rows that the version was fitted and judged on are left out of your log now: run "
            f"memberwise fit {project} before you evaluate on the test split or compress. Files that you "
            "give to evaluate can be judged at once."
        )


def _forget_in_stores(project: Project, address: str) -> list[str]:
    """Empty the stores that a project's vectors stand in, and fill them again; returns which."""
    from memberwise.serving.publishing import FOLDER, open_store, refill

    embedded = ["lmdb"] if (project.output / FOLDER).is_dir() else []
    found = []
    for name in dict.fromkeys([*embedded, address]):
        if (opened := open_store(project, name)) is not None:
            refill(project, opened)
            opened.close()
            found.append("vectors" if name == "lmdb" else "the store of --store")
    return found
