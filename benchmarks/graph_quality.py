"""Link prediction on three logs, cut by time: what each part of the encoder adds, and against whom.

MovieTweetings (who rates which film), Wikipedia (who edits which page) and Complete Journey (which household
buys which promoted product). Every arm learns from train, keeps the weights that are best on valid, learns
from valid in two passes more, and is asked about edges spread over test; baselines learn from train and valid
at once. Members are seen at the moment of the question, items as of the
start of one of 18 slices, for baselines and encoders alike where they can. Three seeds (one for the steps on
the way to the encoder with two towers, and for PPR); intervals resample members and seeds together, paired.

The Wikipedia stream is read from ``$MEMBERWISE_BENCH_DATA/temporal/wikipedia_edits.parquet`` (columns user,
page, seconds; the JODIE stream); without it its table is left out and its claims do not hold. Each cell is
kept under ``.cache/graph_quality`` by its settings: an interrupted run goes on where it stood. It needs the
extra ``bench`` (implicit for the matrix factorisations).

``--quick`` runs a few cells on little data; its numbers mean nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import _graph_arms
from _graph_arms import ARMS, PLAIN, TRAINED, TRAINING, Arm, fitted, scores_of
from _graph_baselines import BASELINES, SEEDLESS
from _graph_data import DATA, LOGS, Log
from _graph_ranks import cold, figures, ranks
from _harness import ROOT, Report, Target, quick_asked

RECIPE = 6  # Raise it when code changes what a cell holds.
CACHE = ROOT / ".cache" / "graph_quality"
DRAWS = 1000
ALL, STATIC, TEMPORAL = "all: + long-term loss", "+ dual encoder", "dual + temporal"
ONCE = {"static SAGE, mean", "+ ids", "+ attention", "dual + PPR"}
"""Steps on the way, which no claim rests on: one seed."""
METRICS = ("AUC", "MRR", "recall@50")

TARGETS = (
    *(
        Target(
            f"{log}_{metric}_gain_low",
            0.0,
            f"{log}: all parts beat every baseline in {metric} (95 % low end)",
        )
        for log in LOGS
        for metric in METRICS
    ),
    Target("wikipedia_temporal_gain_low", 0.0, "the temporal model beats the static one on the stream (MRR)"),
    Target("densification_cold_gain_low", 0.0, "densification helps cold items (AUC, logs with content)"),
)
Cell = npt.NDArray[np.float64]


def cell(
    log: Log, arm: str, seed: int, settings: dict[str, Any], make: Callable[[], Cell]
) -> tuple[Cell, float]:
    """Ranks of one arm on one log with one seed, and the CPU seconds that they took; kept on disk."""
    about = [RECIPE, log.name, repr(log.graph), log.train_end, arm, seed, settings]
    name = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:20]
    path = CACHE / f"{name}.npz"
    if path.is_file():
        with np.load(path) as kept:
            return kept["ranks"], float(kept["seconds"])
    started = time.process_time()
    found = make()
    seconds = time.process_time() - started
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, ranks=found, seconds=seconds)
    partial.replace(path)
    print(f"  {log.name}, {arm}, seed {seed}: {seconds:.0f} CPU-s, {_brief(found)}", flush=True)
    return found, seconds


def _brief(found: Cell) -> str:
    return ", ".join(f"{k} {v:.4f}" for k, v in figures(found).items())


def run(
    log: Log, seeds: Sequence[int], arms: Sequence[Arm]
) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
    """Ranks ``[seeds, E, 2]`` and mean CPU seconds of every arm and baseline."""
    cells: dict[str, list[tuple[Cell, float]]] = {}
    if all(nodes.content is None for nodes in log.graph.nodes.values()):
        arms = [a for a in arms if not a.densify]
    for seed in seeds:
        shown = [a for a in arms if seed == seeds[0] or a.name not in ONCE]
        for name, baseline in BASELINES.items():
            if name in SEEDLESS and seed != seeds[0]:
                cells[name].append(cells[name][0])
                continue
            made = cell(log, name, seed, {}, lambda b=baseline, s=seed: ranks(log, b(log, s)))
            cells.setdefault(name, []).append(made)
        for arm in shown:
            settings = dataclasses.asdict(arm) | {"plain": PLAIN, "training": TRAINING, "trained": TRAINED}
            made = cell(log, arm.name, seed, settings, lambda a=arm, s=seed: _ranks_of(log, a, s))
            cells.setdefault(arm.name, []).append(made)
    return {n: (np.stack([r for r, _ in c]), float(np.mean([s for _, s in c]))) for n, c in cells.items()}


def _ranks_of(log: Log, arm: Arm, seed: int) -> Cell:
    encoder, graph, _ = fitted(log, arm, seed)
    return ranks(log, scores_of(encoder, graph, log))


def values(found: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    """One number per seed and question whose mean is the metric."""
    if metric == "AUC":
        return found[..., 0]
    return 1.0 / found[..., 1] if metric == "MRR" else (found[..., 1] <= 50).astype(np.float64)


def interval(log: Log, one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], keep: Any = None) -> Any:
    """Mean difference and the ends of its 95 % interval; members and seeds are drawn together."""
    asked, _ = log.asked()
    keep = np.ones(len(asked), bool) if keep is None else keep
    seeds = min(len(one), len(other))
    difference, members = (one[:seeds] - other[:seeds])[:, keep], asked.sources[keep]
    _, member = np.unique(members, return_inverse=True)
    count = int(member.max()) + 1
    sums = np.stack([np.bincount(member, row, count) for row in difference])
    sizes = np.bincount(member, minlength=count)
    rng, means = np.random.default_rng(0), []
    for _ in range(DRAWS):
        weight = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn = rng.integers(0, seeds, seeds)
        means.append((sums[drawn] @ weight).mean() / max(sizes @ weight, 1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def show(report: Report, key: str, log: Log, found: dict[str, Any]) -> None:
    """The table of a log, with cold and warm questions apart, and its measures."""
    asked, _ = log.asked()
    there = cold(log)
    parts = {
        "cold members": there.sources[asked.sources],
        "cold items": there.destinations[asked.destinations],
    }
    rows = []
    for name, (r, seconds) in found.items():
        numbers = [float(values(r, m).mean()) for m in METRICS]
        numbers += [float(values(r, "AUC")[:, mask].mean()) for p in parts.values() for mask in (p, ~p)]
        rows.append((name, *numbers, seconds, len(r)))
    columns = ["", *METRICS, "AUC cold members", "warm", "AUC cold items", "warm", "CPU s", "seeds"]
    report.table(f"{log.name}: {len(asked)} questions, {log.graph.count('item'):,} items", columns, rows)
    comparisons = []
    for metric in METRICS:
        best = max(BASELINES, key=lambda n: float(values(found[n][0], metric).mean()))
        gain, low, high = interval(log, values(found[ALL][0], metric), values(found[best][0], metric))
        comparisons.append((f"{metric}: all - {best}", gain, low, high))
        report.measures |= {f"{key}_{metric}": float(values(found[ALL][0], metric).mean())}
        report.measures |= {f"{key}_{metric}_gain": gain, f"{key}_{metric}_gain_low": low}
    for name in (TEMPORAL, ALL, "dual + densification", "dual + PPR"):
        if name not in found:
            continue
        base = TEMPORAL if name == ALL else STATIC
        for metric in ("AUC", "MRR"):
            one, other = (values(found[n][0], metric) for n in (name, base))
            comparisons.append((f"{metric}: {name} - {base}", *interval(log, one, other)))
            if name == TEMPORAL and metric == "MRR":
                report.measures[f"{key}_temporal_gain_low"] = comparisons[-1][2]
    if "dual + densification" in found:
        one, other = (values(found[n][0], "AUC") for n in ("dual + densification", STATIC))
        at = interval(log, one, other, parts["cold items"])
        comparisons.append(("AUC of cold items: densification", *at))
        report.measures[f"{key}_densification_cold_gain_low"] = at[1]
    report.table(f"{log.name}: paired differences", ["", "mean", "95 % low", "high"], comparisons)


def main() -> None:
    """Run all cells and print the claims."""
    quick = quick_asked(__doc__ or "")
    report = Report("graph_quality", TARGETS)
    seeds: Sequence[int] = (0,) if quick else (0, 1, 2)
    arms: Sequence[Arm] = [a for a in ARMS if not quick or a.name in (STATIC, TEMPORAL, ALL)]
    limit = 4000 if quick else None
    if quick:
        _graph_arms.TRAINING |= {"epochs": 1, "negatives": 64}
    logs: dict[str, Log] = {}
    for key, make in LOGS.items():
        if key == "wikipedia" and not (DATA / "temporal" / "wikipedia_edits.parquet").is_file():
            print(f"{key}: no file in {Path(DATA).resolve()}; see the head of this file")
            continue
        if quick and key == "completejourney":
            continue
        logs[key] = make(limit)
    for count in range(1, len(seeds) + 1):  # all logs with one seed before any with the next
        found = {key: run(log, seeds[:count], arms) for key, log in logs.items()}
    for key, log in logs.items():
        show(report, key, log, found[key])
    lows = [v for k, v in report.measures.items() if k.endswith("_densification_cold_gain_low")]
    if lows:
        report.measures["densification_cold_gain_low"] = min(lows)
    report.finish()


if __name__ == "__main__":
    main()
