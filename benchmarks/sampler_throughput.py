"""How many edges a sampler draws in a second of CPU: 200,000 nodes, 4 million edges, [15, 10], batch 1,024.

Every node looks at 20 others on average, at whom is Pareto. ``static``: without replacement, no cut-offs,
nodes reached twice counted once, edges as pairs of numbered places. ``last``: the newest before each seed's
own moment, neighbourhoods kept apart. ``tree``: the padded blocks that our encoder reads. Beside it, in turn,
kumo-relational-engine's native sampler (neighbourhoods kept apart). pyg-lib, built from source, and DGL were
measured on a machine of this kind at 12.5 M and 11 to 14 M edges a CPU second (static), pyg-lib at 6.6 M for
the newest before a moment; neither installs from the registry with a current torch, so they are not run here.

``--quick`` runs 20,000 nodes and two batches; its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from _harness import ROOT, Report, Target, Worker, interleave, quick_asked

NODES, EDGES, BATCH, BATCHES, ROUNDS = 200_000, 4_000_000, 1024, 20, 7
PEER = "kumo-relational-engine==1.0.2"
TARGETS = (
    Target("static", 20e6, "static, deduplicated, relabelled: at least 20 M edges a CPU second"),
    Target("last", 13e6, "the newest before a moment: at least 13 M edges a CPU second"),
    Target("ratio_kumo", 10, "at least ten times the edges a CPU second of kumo's sampler"),
    Target("two_hop", 10e3, "personalised PageRank, two hops: at least 10,000 seeds a CPU second"),
)
KINDS = ("static", "last", "before", "weighted", "tree", "tree_last")


def library() -> Path:
    """kumo's native sampler, without what its package asks for."""
    folder = ROOT / ".cache" / "kumo"
    if not list(folder.glob("kumo_relational_engine/relationallib*.so")):
        command = (sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder), PEER)
        subprocess.run(command, check=True, stdout=sys.stderr)
    return next(folder.glob("kumo_relational_engine/relationallib*.so"))


def main() -> None:
    """Run, print, compare."""
    quick = quick_asked(__doc__ or "")
    nodes, edges, batches, rounds = (20_000, 200_000, 2, 1) if quick else (NODES, EDGES, BATCHES, ROUNDS)
    report = Report("sampler_throughput", TARGETS)
    report.versions |= {"numpy": np.__version__, "numba": numba.__version__, "kumo": PEER.split("==")[1]}
    with Worker("_graph_sampling.py") as ours, Worker("_kumo_sampling.py") as kumo:
        ours.call("setup", nodes=nodes, edges=edges)
        kumo.call("setup", library=str(library()), nodes=nodes, edges=edges)
        calls = {
            kind: lambda kind=kind: ours.call("neighbours", kind=kind, batches=batches, size=BATCH)
            for kind in KINDS
        }
        calls["kumo"] = lambda: kumo.call("neighbours", batches=max(batches // 4, 1), size=BATCH)
        calls["two_hop"] = lambda: ours.call(
            "ppr", method="two_hop", batches=max(batches // 4, 1), size=BATCH
        )
        calls["push"] = lambda: ours.call("ppr", method="push", batches=1, size=BATCH)
        replies = interleave(rounds, calls)
    rows = []
    for name in (*KINDS, "kumo"):
        rates = [r.result["edges"] / r.cpu_seconds for r in replies[name]]
        done = batches if name in KINDS else max(batches // 4, 1)
        report.measures[name] = statistics.median(rates)
        report.measures[f"{name}_best"] = max(rates)
        rows.append(
            (
                name,
                report.measures[name] / 1e6,
                max(rates) / 1e6,
                replies[name][0].result["edges"] / done,
                replies[name][0].result.get("places", 0) / done,
            )
        )
    report.table(
        f"{nodes:,} nodes, {edges:,} edges, [15, 10], {BATCH} seeds, one thread, median of {rounds}",
        ["sampler", "M edges / CPU-s", "best", "edges / batch", "places / batch"],
        rows,
    )
    seeds = []
    for name in ("two_hop", "push"):
        rates = [r.result["seeds"] / r.cpu_seconds for r in replies[name]]
        report.measures[name] = statistics.median(rates)
        report.measures[f"{name}_best"] = max(rates)
        seeds.append((name, report.measures[name], max(rates)))
    report.table("Personalised PageRank, 50 best nodes", ["method", "seeds / CPU-s", "best"], seeds)
    ratios = [
        (a.result["edges"] / a.cpu_seconds) / (b.result["edges"] / b.cpu_seconds)
        for a, b in zip(replies["static"], replies["kumo"], strict=True)
    ]
    report.measures["ratio_kumo"] = statistics.median(ratios)
    report.finish()


if __name__ == "__main__":
    main()
