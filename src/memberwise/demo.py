"""The demo: everything there is, on bundled real data, in minutes."""

from __future__ import annotations

import json
import shutil
import time
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from memberwise.data.datasets import movietweetings
from memberwise.fresh import say
from memberwise.fresh.reference import fit_info
from memberwise.fresh.study import study
from memberwise.fresh.update import update
from memberwise.project import Project
from memberwise.ranking.progress import ProgressBar
from memberwise.recommender import Recommender
from memberwise.recommender.contributions import contributions, table
from memberwise.recommender.reporting import OURS, UNADAPTED, versions
from memberwise.report import Report

LATER = 0.01
"""Share of the log, its end, that comes after the fit."""


def demo_project(output: Path) -> Project:
    """The bundled project over all but the end of the log, with its data and its results in `output`.

    Nothing in it names another place: the folder may be moved or copied.
    """
    files = movietweetings().files
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(files["movies"], output / "movies.parquet")
    # What is not in the log of the project comes later, as new events: new.parquet.
    ratings = pl.read_parquet(files["ratings"]).sort("timestamp", maintain_order=True)
    cut = ratings["timestamp"][round(len(ratings) * (1 - LATER))]
    parts = {"ratings": pl.col("timestamp") < cut, "new": pl.col("timestamp") >= cut}
    for name, which in parts.items():
        if not (output / f"{name}.parquet").is_file():
            ratings.filter(which).write_parquet(output / f"{name}.parquet")
    text = resources.files("memberwise").joinpath("demo.yaml").read_text(encoding="utf-8")
    (output / "project.yaml").write_text(text, encoding="utf-8")
    return Project.load(output)


def run(output: Path, out: Console) -> dict[str, Any]:
    """Fit, evaluate, save, load and rank; returns what ``metrics.json`` holds."""
    started, cpu = time.monotonic(), time.process_time()
    project = demo_project(output)
    out.print(
        "[bold]1. Fit[/]: will this member like this film? 99,000 ratings, first 80 % train, next 10 % valid"
    )
    with ProgressBar() as bar:
        rec = Recommender.fit(project, watchers=[bar], progress=bar.stage)
    fitted = time.process_time() - cpu
    path = rec.save(info=fit_info(rec))
    out.print(f"   {fitted:.0f} CPU-seconds; published {path}", soft_wrap=True)
    if (cut := contributions(rec)) is not None:
        out.print(table(cut))
    out.print("[bold]2. Evaluate[/] on the last 10 %, against simple models on the same rows")
    report = rec.evaluate(baselines=True)
    out.print(report.table())
    out.print(_personal(report))
    report.write(project.output / "report.html")
    report.to_json(project.output / "report.json")
    metrics = _metrics(report, fitted, time.process_time() - cpu)
    out.print("[bold]3. Rank[/] with the saved version")
    _rank(Recommender.load(project.bundles), project, out)
    out.print("[bold]4. Stay fresh[/]: the next thousand ratings make a new version")
    say.update(update(project, str(output / "new.parquet")), out)
    out.print("   and what refreshing was worth over the last 20 %, in ten slices:")
    freshness = study(project, slices=10, retrain=False)
    freshness.write(project.output / "freshness.html")
    say.replay(freshness, out)
    metrics["freshness"] = {"answer": freshness.answer(), "arms": freshness.totals()}
    (project.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
    out.print(
        f"\nReports: [bold]{project.output}[/]: report.html, freshness.html  "
        f"({time.monotonic() - started:.0f} s in all)\n"
        f"Serve it: [bold]memberwise serve {output} --clock log[/]\n"
        "Your own log: [bold]memberwise init your_events.parquet[/]"
    )
    return metrics


def _metrics(report: Report, fit_seconds: float, seconds: float) -> dict[str, Any]:
    return {
        "headline": report.headline(),
        "models": report.metrics,
        "differences": report.differences,
        "seconds": {OURS: round(fit_seconds, 1), "all": round(seconds, 1)},
        "versions": versions(),
    }


def _personal(report: Report) -> Table:
    """What the embedding of each member adds, by the number of ratings that it was adapted to."""
    task = report.predictions.tasks[0]
    table = Table("rows", "AUC", "AUC added", "log-loss added", title="What meta embeddings add")
    for cut in (report.evaluation.overall, *report.evaluation.segments):
        if cut is report.evaluation.overall or cut.name.startswith("meta("):
            added = cut.differences[UNADAPTED][task]
            cells = [cut.values[OURS][task]["auc"], added["auc"], added["log_loss"]]
            name = "all" if cut is report.evaluation.overall else cut.name
            table.add_row(f"{name} ({cut.rows:,})", f"{cells[0].value:.4f}", *(f"{i}" for i in cells[1:]))
    return table


def _rank(rec: Recommender, project: Project, out: Console) -> None:
    """Films of the year before for the member with most ratings, with the titles of what it liked last."""
    config = project.config
    ratings = pl.read_parquet(project.base / str(config.events.path))
    films = pl.read_parquet(project.base / str(config.entities["item"].path))
    member = ratings["user_id"].mode()[0]
    mine = ratings.filter(pl.col("user_id") == member).sort("timestamp")
    liked = mine.filter(pl.col("rating") >= 8).join(films, on="movie_id").tail(3)["title"].to_list()
    recent = films.filter(pl.col("year") == 2012)
    recent = recent.join(mine, on="movie_id", how="anti")
    ranked = rec.rank(member, recent["movie_id"].to_list(), 10).join(
        films, left_on="item", right_on="movie_id", maintain_order="left"
    )
    table = Table(
        "", "film", "genres", "P(liked)", title=f"member {member}, who last liked {', '.join(liked)}"
    )
    for i, row in enumerate(ranked.to_dicts(), 1):
        table.add_row(str(i), row["title"], ", ".join(row["genres"]), f"{row['liked']:.2f}")
    out.print(table)
    last = mine.filter(pl.col("rating") >= 8)["movie_id"][-1]
    near = rec.similar("item", last, 5).join(films, left_on="id", right_on="movie_id", maintain_order="left")
    out.print(f"   by the graph nearest to {liked[-1]}: {', '.join(near['title'])}")
