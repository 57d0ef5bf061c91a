"""What a graph of 20 million edges takes in memory: made, written, mapped, sampled, appended to, trained on.

A million members, a million items, edges both ways with times. Making it holds the given edges, the sorting
and both directions at once; sampling maps the files. The peak is that of the resident memory of each process,
mapped pages included. Training is that of the default encoder (ids for all nodes with two edges or more,
attention, two towers, the temporal model) on the newest 20 batches, with one validation.

``--quick`` makes 200,000 edges; its numbers mean nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numba
import numpy as np

from _harness import Report, Target, Worker, quick_asked

NODES, EDGES, BATCHES = 1_000_000, 20_000_000, 30
GIB = 4 * 2**30 / 1e6
TARGETS = (
    Target("make_mb", GIB, "a graph of 20 M edges is made in less than 4 GiB", at_most=True),
    Target("train_mb", GIB, "the encoder trains on it in less than 4 GiB", at_most=True),
    Target("sample_mb", GIB, "it is sampled and appended to in less than 4 GiB", at_most=True),
)


def main() -> None:
    """Run, print, compare."""
    quick = quick_asked(__doc__ or "")
    nodes, edges, batches = (10_000, 200_000, 2) if quick else (NODES, EDGES, BATCHES)
    report = Report("graph_memory", TARGETS)
    report.versions |= {"numpy": np.__version__, "numba": numba.__version__}
    with tempfile.TemporaryDirectory() as work:
        folder = str(Path(work) / "graph")
        with Worker("_graph_large.py") as maker:
            made = maker.call("make", folder=folder, nodes=nodes, edges=edges)
        with Worker("_graph_large.py") as reader:
            read = reader.call("sample", folder=folder, batches=batches)
        with Worker("_graph_large.py") as trainer:
            trained = trainer.call("train", folder=folder, batches=2 if quick else 20)
    report.table(
        f"{nodes:,} members, {nodes:,} items, {edges:,} edges, both ways, timed",
        ["", "peak MB", "CPU s", "files MB", "edges sampled"],
        [
            ("make and write", made.peak_mb, made.cpu_seconds, made.result["bytes"] / 1e6, 0),
            ("map, sample, append", read.peak_mb, read.cpu_seconds, 0, f"{read.result['edges']:,}"),
            ("map, train", trained.peak_mb, trained.cpu_seconds, 0, 0),
        ],
    )
    report.measures |= {
        "make_mb": made.peak_mb,
        "sample_mb": read.peak_mb,
        "train_mb": trained.peak_mb,
        "trained_numbers": trained.result["parameters"],
        "files_mb": made.result["bytes"] / 1e6,
        "make_cpu_seconds": made.cpu_seconds,
    }
    report.finish()


if __name__ == "__main__":
    main()
