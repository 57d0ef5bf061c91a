"""Meta learning on one thread: against loops over tasks, and generation for many members.

1. One outer step over 64 tasks (K = 3, support and query of 16 rows, MLP 64-64-1, cross-entropy), first and
   second order, with the loops of `higher` and `torchopt` on the same tasks: loss and gradient must agree.
2. Embeddings of 100,000 members with 32 support rows each, K = 3, p = 32: CPU time with a small global block
   (MLP 64-64-1), peak memory at a quarter and at all of the members.
3. The same with a whole ranker as global block, against nothing but K forward and backward passes over the
   same rows.
4. Three million members whose block has 10^5 parameters, published as half-precision vectors and looked up.

``--quick`` is a smoke run; its numbers mean nothing.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import _meta_peers
from _harness import Report, Target, Worker, quick_asked

TASKS, ROWS, WIDTHS, RATE, STEPS = 64, 16, (64, 64, 1), 0.1, 3
MEMBERS, SERVED = 100_000, 3_000_000
TARGETS = (
    Target("first_order_ratio", 10, "first order: tasks per CPU-second against the better of two loops"),
    Target("second_order_ratio", 7, "second order: the same"),
    Target("difference", 1e-5, "largest difference in loss or gradient from the loops", at_most=True),
    Target("small_cpu_seconds", 60, "100,000 embeddings, small global block: CPU-seconds", at_most=True),
    Target("ranker_over_floor", 1.3, "whole ranker: CPU time over K bare passes", at_most=True),
    Target(
        "memory_growth_mb", 64, "peak memory, four times the members: growth beyond the result", at_most=True
    ),
    Target("parity", 1e-5, "generated against in-graph embeddings: largest difference", at_most=True),
    Target("vector_mb", 192.5, "3 million members at p = 32 in half precision: megabytes", at_most=True),
    Target("represented", 3e11, "parameters that these vectors stand for"),
    Target("lookup_us", 100, "looking a member up: microseconds of CPU", at_most=True),
)


def main() -> None:
    """Run, print, compare."""
    quick = quick_asked(__doc__ or "")
    report = Report("meta_throughput", TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.npz"
        np.savez(path, **tasks())
        with Worker("_meta_ours.py") as ours, Worker("_meta_peers.py", _meta_peers.python()) as peers:
            report.versions |= ours.call("setup", path=str(path)).result
            report.versions |= {f"peer {k}": v for k, v in peers.call("setup", path=str(path)).result.items()}
            loops(report, ours, peers, 1 if quick else 5)
    generation(report, 2_000 if quick else MEMBERS, 1_000 if quick else 8_000)
    serving(report, 30_000 if quick else SERVED, 2_000 if quick else 20_000)
    report.finish()


def tasks() -> dict[str, Any]:
    """Tasks with a taste each, and the initial weights."""
    rng = np.random.default_rng(0)
    d = WIDTHS[0]
    out: dict[str, Any] = {}
    for i, (a, b) in enumerate(pairwise(WIDTHS)):
        out[f"weights.{i}"] = (rng.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32)
        out[f"biases.{i}"] = np.zeros(b, np.float32)
    taste = rng.normal(size=(TASKS, d, 1)) / 4
    for name in ("", "q"):
        x = rng.normal(size=(TASKS, ROWS, d))
        out[f"{name}x"] = x.astype(np.float32)
        out[f"{name}y"] = (rng.random((TASKS, ROWS, 1)) < 1 / (1 + np.exp(-(x @ taste)))).astype(np.float32)
    return out


def loops(report: Report, ours: Worker, peers: Worker, rounds: int) -> None:
    """Tables 1: one outer step, interleaved with the peers' loops."""
    rows, worst = [], 0.0
    for second in (False, True):
        systems = [(ours, "stacked"), (ours, "vmap"), (peers, "higher"), (peers, "torchopt")]
        times: dict[str, list[float]] = {name: [] for _, name in systems}
        found: dict[str, Any] = {}
        for _ in range(rounds + 1):
            for worker, name in systems:
                repeats = 8 if worker is ours else 1
                used = 0.0
                for _ in range(repeats):
                    reply = worker.call("run", peer=name, steps=STEPS, rate=RATE, second_order=second)
                    used += reply.cpu_seconds / repeats
                times[name].append(used)
                found[name] = reply.result
        speed = {name: TASKS / float(np.median(t[1:])) for name, t in times.items()}
        for name in ("higher", "torchopt"):
            gap = np.abs(np.subtract(found[name]["gradient"], found["stacked"]["gradient"])).max()
            worst = max(worst, float(gap), abs(found[name]["loss"] - found["stacked"]["loss"]))
        best = max(speed["higher"], speed["torchopt"])
        order = "second" if second else "first"
        report.measures[f"{order}_order_ratio"] = speed["stacked"] / best
        report.measures |= {f"{order}_{name}_tasks": s for name, s in speed.items()}
        rows.append((f"{order} order", *(speed[n] for _, n in systems), speed["stacked"] / best))
    report.measures["difference"] = worst
    report.table(
        f"{TASKS} tasks, K = {STEPS}, support {ROWS}, MLP {'-'.join(map(str, WIDTHS))}: tasks per CPU-second",
        ["", "stacked", "vmap", "higher", "torchopt", "stacked / better loop"],
        rows,
    )


def generation(report: Report, members: int, few: int) -> None:
    """Tables 2 and 3: embeddings of many members."""
    with Worker("_meta_ours.py") as worker:
        less = worker.call("small", count=members // 4)
    with Worker("_meta_ours.py") as worker:
        all_of_them = worker.call("small", count=members)
        parity = worker.call("parity", count=512).result
    with Worker("_meta_ours.py") as worker:
        whole = worker.call("ranker", count=few).result
    with Worker("_meta_ours.py") as worker:
        large = worker.call("small", count=few, dim=128, hidden=[256, 240]).result
    small = all_of_them.result
    # What must grow: the vectors, and the rows' numbers that say who has which support.
    grown = (members - members // 4) * (32 * 4 + 8 * (32 + 5)) / 1e6
    report.measures |= {
        "small_cpu_seconds": small["cpu_seconds"],
        "small_members_per_cpu_second": members / small["cpu_seconds"],
        "memory_growth_mb": all_of_them.peak_mb - less.peak_mb - grown,
        "peak_mb": all_of_them.peak_mb,
        "ranker_over_floor": whole["cpu_seconds"] / whole["floor_seconds"],
        "ranker_members_per_cpu_second": whole["members"] / whole["cpu_seconds"],
        "large_members_per_cpu_second": few / large["cpu_seconds"],
        "block_parameters": large["parameters"],
        "parity": parity,
    }
    report.table(
        "embeddings, 32 support rows each, K = 3, p = 32",
        ["global block", "members", "CPU s", "members / CPU-s", "floor: K passes, CPU s", "ratio"],
        [
            ("MLP 64-64-1", f"{members:,}", small["cpu_seconds"], members / small["cpu_seconds"], "", ""),
            (
                f"the same, meta block of {large['parameters']:,} parameters",
                f"{few:,}",
                large["cpu_seconds"],
                few / large["cpu_seconds"],
                "",
                "",
            ),
            (
                "whole ranker",
                f"{whole['members']:,.0f}",
                whole["cpu_seconds"],
                whole["members"] / whole["cpu_seconds"],
                whole["floor_seconds"],
                whole["cpu_seconds"] / whole["floor_seconds"],
            ),
        ],
    )


def serving(report: Report, members: int, lookups: int) -> None:
    """Table 4: publish and look up."""
    with Worker("_meta_ours.py") as worker:
        served = worker.call("serve", count=members, lookups=lookups).result
    represented = members * report.measures["block_parameters"]
    report.measures |= served | {"represented": represented}
    report.table(
        f"{members:,} members",
        [
            "parameters represented",
            "as their weights, TB",
            "vectors, MB",
            "file, MB",
            "publish CPU s",
            "look-up us",
        ],
        [
            (
                f"{represented:.2e}",
                represented * 4 / 1e12,
                served["vector_mb"],
                served["file_mb"],
                served["publish_cpu_seconds"],
                served["lookup_us"],
            )
        ],
    )


if __name__ == "__main__":
    main()
