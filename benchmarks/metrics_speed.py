"""How long metrics take: AUC, grouped AUC and clustered intervals, against scikit-learn and FuxiCTR.

``.venv/bin/python benchmarks/metrics_speed.py`` takes about two minutes here, nearly all of it the peers'.
All systems read the same rows, run with one thread, and are measured in CPU seconds, child processes
included. scikit-learn has no grouped AUC and no clustered bootstrap: its side is the loop that
people write.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from _harness import Report, Target, Worker, interleave, peers_python, quick_asked

ROWS, MEMBERS, BOOTSTRAP_ROWS, DRAWS = 500_000, 20_000, 100_000, 1000
# A peer's draw costs the same as the next: a few are timed, and a thousand reckoned.
PEER_DRAWS = 20

TARGETS = (
    Target("auc_seconds", 0.08, "AUC of 500,000 rows takes at most 0.08 CPU seconds", at_most=True),
    Target(
        "grouped_auc_seconds",
        0.3,
        "Grouped AUC of 500,000 rows of 20,000 members takes at most 0.3 CPU seconds",
        at_most=True,
    ),
    Target("grouped_auc_speedup", 50, "Grouped AUC is at least 50 times as fast as a loop of scikit-learn"),
    Target(
        "bootstrap_seconds",
        1.0,
        "A member-clustered interval of AUC, 1,000 draws of 100,000 rows, takes at most one CPU second",
        at_most=True,
    ),
    Target("bootstrap_speedup", 50, "It is at least 50 times as fast as scikit-learn on resampled rows"),
    Target("largest_difference", 1e-9, "Results agree with the peers' to 1e-9", at_most=True),
)
FUXICTR_TARGET = Target(
    "grouped_auc_speedup_fuxictr", 50, "Grouped AUC is at least 50 times as fast as FuxiCTR's gAUC"
)


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("The speed of memberwise.metrics")
    rounds, scale = (1, 50) if quick else (3, 1)
    targets = list(TARGETS)
    report = Report("metrics_speed", targets)
    report.versions |= {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        write_rows(path, ROWS // scale, MEMBERS // scale)
        sizes = {"path": str(path), "rows": BOOTSTRAP_ROWS // scale}
        found, notes = measure(path, sizes, rounds, quick)
    if "fuxictr" in found:
        targets.append(FUXICTR_TARGET)
    tell(report, found, ROWS // scale, sizes["rows"])
    for note in notes:
        print(note)
    report.finish()


def write_rows(path: Path, rows: int, members: int) -> None:
    """Write labels, scores with some ties, and members of very different activity."""
    generator = np.random.default_rng(0)
    activity = generator.gamma(0.6, size=members)
    member = generator.choice(members, rows, p=activity / activity.sum())
    logit = generator.normal(size=members)[member] + generator.normal(size=rows)
    labels = (generator.random(rows) < 1 / (1 + np.exp(1 - logit))).astype(np.float64)
    scores = 1 / (1 + np.exp(1 - 0.7 * logit - 0.5 * generator.normal(size=rows)))
    np.savez(path, labels=labels, scores=scores.astype(np.float32), member=member)


def measure(
    path: Path, sizes: dict[str, object], rounds: int, quick: bool
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[str]]:
    """Seconds (median) and value of every task of every system, and what there is to say about it."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    notes = []
    with Worker("_metrics_ours.py") as ours:
        ours.call("warm_up", **sizes)
        for system in ("memberwise", "scikit-learn"):
            peer = system == "scikit-learn"
            draws = PEER_DRAWS if peer else DRAWS
            suffix = "_by_scikit_learn" if peer else ""
            calls = {
                "auc": lambda s=suffix: ours.call(f"auc{s}"),
                "grouped_auc": lambda s=suffix: ours.call(f"grouped_auc{s}"),
                "bootstrap": lambda s=suffix, d=draws: ours.call(f"bootstrap{s}", draws=d),
            }
            found[system] = {
                task: (
                    statistics.median(reply.cpu_seconds for reply in replies)
                    * (DRAWS / PEER_DRAWS if peer and task == "bootstrap" else 1),
                    replies[0].result,
                )
                for task, replies in interleave(1 if peer else 2 * rounds + 1, calls).items()
            }
    python = fuxictr_python(quick)
    if isinstance(python, Path):
        with Worker("peers/fuxictr_gauc.py", python) as peer:
            peer.call("warm_up", path=str(path))
            reply = peer.call("grouped_auc")
            found["fuxictr"] = {"grouped_auc": (reply.result["cpu_seconds"], reply.result["value"])}
    else:
        notes.append(python)
    return found, notes


def fuxictr_python(quick: bool) -> Path | str:
    """The peers' Python, or why there is none."""
    if quick:
        return "FuxiCTR is left out: a quick run does not make the peers' environment."
    try:
        return peers_python()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"FuxiCTR is left out: the peers' environment cannot be made ({error})."


def tell(
    report: Report, found: dict[str, dict[str, tuple[float, float]]], rows: int, bootstrap_rows: int
) -> None:
    """Print the table and set the measures."""
    ours, peer = found["memberwise"], found["scikit-learn"]
    titles = {
        "auc": f"AUC, {rows:,} rows",
        "grouped_auc": f"grouped AUC, {rows:,} rows",
        "bootstrap": f"interval of AUC, {DRAWS:,} draws, {bootstrap_rows:,} rows",
    }
    report.table(
        "CPU seconds, one thread; ours: median of seven calls",
        ["", "memberwise", "scikit-learn loop", "FuxiCTR"],
        [
            (title, ours[task][0], peer[task][0], found.get("fuxictr", {}).get(task, ("-",))[0])
            for task, title in titles.items()
        ],
    )
    report.measures |= {
        "auc_seconds": ours["auc"][0],
        "auc_speedup": peer["auc"][0] / ours["auc"][0],
        "grouped_auc_seconds": ours["grouped_auc"][0],
        "grouped_auc_speedup": peer["grouped_auc"][0] / ours["grouped_auc"][0],
        "bootstrap_seconds": ours["bootstrap"][0],
        "bootstrap_speedup": peer["bootstrap"][0] / ours["bootstrap"][0],
        "largest_difference": max(
            abs(value - ours[task][1])
            for system, tasks in found.items()
            if system != "memberwise"
            for task, (_, value) in tasks.items()
            if task != "bootstrap"
        ),
    }
    if "fuxictr" in found:
        report.measures["grouped_auc_speedup_fuxictr"] = (
            found["fuxictr"]["grouped_auc"][0] / ours["grouped_auc"][0]
        )


if __name__ == "__main__":
    main()
