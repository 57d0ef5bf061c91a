"""What graph embeddings add to the ranker: the same project with ``graph: {}`` and without, on two real logs.

MovieTweetings and Complete Journey as in ``ranker_quality``, everything refreshed daily, the package's
defaults: ids, point-in-time counts and the history are there in both arms. The encoder learns from the first
half of train; a row sees vectors of members and items that were made from the events before the last refresh.
Three seeds, of encoder and ranker together; intervals draw members and seeds together, paired, 1,000 times.
New members have no row before the one in question, infrequent ones 1 to 10; new items have at most 10.

Each cell is kept under ``.cache/graph-ranker``. ``--quick`` is a smoke run; its numbers mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from _environment import ROOT
from _harness import Report, Target, quick_asked
from _quality_logs import project as quality_project
from memberwise import metrics
from memberwise.data.prepare import Prepared
from memberwise.metrics import Interval
from memberwise.project import Project
from memberwise.ranking.predict import predict
from memberwise.recommender.fitting import loader, prepared_rows, train
from memberwise.recommender.parts import Fitting
from memberwise.recommender.parts.graph import GraphPart

LOGS = ("movietweetings", "completejourney")
FOLDER = ROOT / ".cache" / "graph-ranker"
SEEDS, DRAWS = 3, 1000
RECIPE = 1  # Raise it when code changes what a cell holds.
METRICS = ("auc", "grouped_auc", "log_loss")
TARGETS = tuple(
    Target(f"{log}: {metric}, high", 0.0, f"{log}: graph embeddings do no harm ({metric}, 95 % high end)")
    for log in LOGS
    for metric in METRICS
)
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cell:
    """One fit.

    Attributes
    ----------
    scores : ndarray of float32, [n]
        Probabilities of the test rows.
    seconds, graph_seconds : float
        CPU, of all training and of the graph's share in it.
    """

    scores: F32
    seconds: float
    graph_seconds: float


def project(log: str, seed: int, graph: bool, quick: bool) -> Project:
    """The project of ``ranker_quality``, with graph embeddings or without."""
    folder = FOLDER / ("quick" if quick else "runs") / f"{log}-{'graph' if graph else 'plain'}"
    values = quality_project(log, "daily", folder, 0.05 if quick else 1.0).to_dict()
    values |= {"seed": seed, "output": str(folder)}
    if graph:
        values["graph"] = {"training": {"epochs": 1}} if quick else {}
    if quick:
        values["training"] |= {"epochs": 1}
    return Project.from_dict(values)


def fitted(log: str, seed: int, graph: bool, quick: bool = False, *, kept: bool = False) -> Cell | None:
    """Fit one arm, or read what is kept of it; with `kept`, None if nothing is."""
    made = project(log, seed, graph, quick)
    path = made.output / f"{_name(made)}.npz"
    if path.is_file():
        with np.load(path) as found:
            return Cell(found["scores"], float(found["seconds"]), float(found["graph_seconds"]))
    if kept:
        return None
    made.output.mkdir(parents=True, exist_ok=True)
    prepared = prepared_rows(made)
    started = time.process_time()
    if graph:
        GraphPart.fit(Fitting(made, prepared))
    middle = time.process_time()
    ranker = train(made, prepared, resume=False, watchers=()).ranker
    seconds = time.process_time() - started
    cell = Cell(predict(ranker, loader(prepared, "test", 8192))[:, 0], seconds, middle - started)
    half = path.with_suffix(".part.npz")
    np.savez(half, **vars(cell))
    half.replace(path)
    print(
        f"{log}, {'graph' if graph else 'plain'}, seed {seed}: {seconds:.0f} CPU-s",
        file=sys.stderr,
        flush=True,
    )
    return cell


def _name(project: Project) -> str:
    """Of all settings, wherever the files of the log lie."""
    config = project.config.model_dump(mode="json", exclude={"output"})
    for source in (config["events"], *config["entities"].values()):
        source["path"] = Path(source["path"]).name if source.get("path") else None
    about = json.dumps([RECIPE, config, torch.__version__], sort_keys=True, default=str)
    return hashlib.sha256(about.encode()).hexdigest()[:20]


def segments(prepared: Prepared) -> dict[str, npt.NDArray[np.bool_]]:
    """Test rows by how much has been seen of their member and of their item before."""
    arrays = prepared.packed.arrays
    first, last = prepared.packed.splits["test"]
    member, item = (rows_before(np.asarray(arrays[k])[:last])[first:] for k in ("member", "item"))
    return {
        "all": np.ones(last - first, bool),
        "new members": member == 0,
        "members with 1-10 rows": (member > 0) & (member <= 10),
        "members with more": member > 10,
        "items with at most 10 rows": item <= 10,
    }


def rows_before(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """How many earlier rows have the same key; rows are in the order of time."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begin = np.searchsorted(ordered, ordered)
    out = np.empty(len(keys), np.int64)
    out[order] = np.arange(len(keys)) - begin
    return out


def compare(report: Report, log: str, quick: bool) -> None:
    """Both arms of one log, over all rows and over those of whom little is known."""
    seeds = range(1 if quick else SEEDS)
    cells = {
        arm: [c for s in seeds if (c := fitted(log, s, arm == "graph", quick))] for arm in ("plain", "graph")
    }
    prepared = prepared_rows(project(log, 0, False, quick))
    rows = prepared.packed.rows("test")
    labels, members = np.asarray(rows["labels"])[:, 0], np.asarray(rows["member"])
    scores = {arm: np.stack([c.scores for c in found]) for arm, found in cells.items()}
    lines = []
    for name, some in segments(prepared).items():
        if some.sum() < 30 or len(np.unique(labels[some])) < 2:
            continue
        gains = gain(labels[some], scores["graph"][:, some], scores["plain"][:, some], members[some])
        means = [_means(labels[some], scores[arm][:, some], members[some]) for arm in ("plain", "graph")]
        for metric in METRICS:
            plain, graph = (m[metric] for m in means)
            lines.append(
                (
                    f"{name} ({some.sum():,})" if metric == METRICS[0] else "",
                    metric,
                    f"{plain:.4f}",
                    f"{graph:.4f}",
                    "{:+.4f} [{:+.4f}, {:+.4f}]".format(*gains[metric]),
                )
            )
            if not np.isnan(gains[metric][0]):  # a member with one row has no order
                report.measures[f"{log}: {metric}, {name}"] = gains[metric][0]
            if name == "all":
                report.measures[f"{log}: {metric}, low"] = gains[metric][1]
                report.measures[f"{log}: {metric}, high"] = gains[metric][2]
    report.table(
        f"{log}: {len(labels):,} test rows, {len(seeds)} seeds; gains are positive where the graph is better",
        ["rows", "metric", "without", "with graph", "gain"],
        lines,
    )
    for arm, found in cells.items():
        report.measures[f"{log}: CPU-seconds, {arm}"] = float(np.mean([c.seconds for c in found]))
    graph_seconds = float(np.mean([c.graph_seconds for c in cells["graph"]]))
    report.measures[f"{log}: CPU-seconds of the graph"] = graph_seconds


def _means(labels: Any, scores: Any, members: Any) -> dict[str, float]:
    return {
        "auc": float(np.mean([metrics.auc(labels, s) for s in scores])),
        "grouped_auc": float(np.mean([metrics.grouped_auc(labels, s, members).value for s in scores])),
        "log_loss": float(np.mean([metrics.log_loss(labels, s) for s in scores])),
    }


def gain(labels: Any, ours: Any, other: Any, members: Any) -> Mapping[str, tuple[float, float, float]]:
    """Mean and ends of the 95 % interval of every metric; positive is better."""
    found = metrics.paired_bootstrap(
        labels, ours, other, members, metrics=METRICS, groups=members, draws=DRAWS
    )
    return {m: _turned(found[m]) if m == "log_loss" else (v.value, v.low, v.high) for m, v in found.items()}


def _turned(i: Interval) -> tuple[float, float, float]:
    return -i.value, -i.high, -i.low


def main() -> None:
    """Fit what is missing, then compare."""
    quick = quick_asked(__doc__ or "")
    torch.set_num_threads(1)
    logs = LOGS[:1] if quick else LOGS
    report = Report("graph_ranker", [t for t in TARGETS if t.measure.startswith(logs)])
    report.versions |= {name: version(name) for name in ("memberwise", "torch", "numpy")}
    for log in logs:
        compare(report, log, quick)
    report.finish()


if __name__ == "__main__":
    main()
