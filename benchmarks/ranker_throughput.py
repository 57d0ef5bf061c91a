"""Training throughput, quality and memory of the deep ranker against three peers, on one core.

A synthetic log like Criteo's (13 numbers, 26 ids, 611,694 ids in all, known truth), DCNv2 with embeddings of
16, three full cross layers and an MLP 256-128 beside them. Every system trains by its own loop, on batches
that are in memory in the form its loop takes; Adam everywhere, ours with row-wise Adagrad on the tables.

1. Rows per CPU-second, batch 2,048, systems interleaved; ours also against the bare matrix products.
2. AUC on held-out rows after one epoch, each system at the best of three learning rates, of which the peers
   like the middle one. (A second epoch lowers every system's AUC: ids are then known by heart.)
3. One vocabulary of five million ids, batch 8,192: rows per CPU-second and peak memory.

``--quick`` runs all of it on a handful of batches; its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import _criteo
from _harness import Reply, Report, Target, Worker, interleave, peers_python, quick_asked
from memberwise.metrics import auc

TARGETS = (
    Target("full_over_fastest_peer", 1.3, "equal architecture, 624 inputs: at least 1.3x the fastest peer"),
    Target("share_of_floor", 0.85, "at least 85 % of the speed of the bare matrix products"),
    Target("low_rank_over_fastest_peer", 2.0, "cross layers of rank 64: at least 2x the fastest peer"),
    Target("low_rank_auc_gain", 0.0, "rank 64: AUC no lower than the fastest peer's, same data, one epoch"),
    Target("large_over_fuxictr", 2.0, "one vocabulary of 5 M ids: at least 2x FuxiCTR"),
    Target("large_memory_of_fuxictr", 0.6, "5 M ids: at most 0.6x FuxiCTR's peak memory", at_most=True),
    Target("large_of_small", 0.9, "5 M ids: at most 10 % slower than 0.6 M ids"),
)
RANK = 64
LARGE = 5_000_000


@dataclass(frozen=True)
class System:
    """One system under measurement and how its process is set up."""

    name: str
    script: str
    options: dict[str, Any] = field(default_factory=dict)
    equal: bool = True

    @property
    def ours(self) -> bool:
        """Whether it runs in the project's own environment."""
        return self.script == "_ours.py"

    def start(self, folder: Path, batch: int, rate: float, seed: int) -> tuple[Worker, dict[str, str]]:
        """A process that has the log in memory and the model ready, and the versions in it."""
        worker = Worker(self.script, None if self.ours else peers_python())
        try:
            reply = worker.call(
                "setup", folder=str(folder), batch=batch, rate=rate, seed=seed, **self.options
            )
        except BaseException:
            worker.close()
            raise
        return worker, reply.result


FUXICTR = System("FuxiCTR 624", "peers/fuxictr_dcnv2.py")
PEERS = (
    FUXICTR,
    System("DeepCTR-Torch 624", "peers/deepctr_dcn.py"),
    System("torch-rechub 624", "peers/rechub_dcnv2.py"),
    # As they come, numbers enter raw: a narrower, cheaper model, shown but not compared.
    System("DeepCTR-Torch 429", "peers/deepctr_dcn.py", {"embedded_numbers": False}, equal=False),
    System("torch-rechub 429", "peers/rechub_dcnv2.py", {"embedded_numbers": False}, equal=False),
)
FULL = System("memberwise, full", "_ours.py")
LOW_RANK = System(f"memberwise, rank {RANK}", "_ours.py", {"rank": RANK}, equal=False)


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    batches: int
    test_rows: int
    rounds: int
    batches_a_round: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    large: int
    large_batch: int
    large_batches: int


HONEST = Scale(100, 100_000, 7, 5, (1e-3, 3e-3, 1e-2), (0, 1, 2), LARGE, 8192, 2)
QUICK = Scale(4, 4_000, 1, 1, (1e-3,), (0,), 500_000, 1024, 1)


def speed(reply: Reply) -> float:
    """Rows per CPU-second of a call that returned its number of rows."""
    return float(reply.result / reply.cpu_seconds)


def median_speed(replies: Sequence[Reply]) -> float:
    """Median over rounds."""
    return statistics.median(map(speed, replies))


def median_ratio(a: Sequence[Reply], b: Sequence[Reply]) -> float:
    """Median over rounds of the ratio of speeds within a round, which shares its noise."""
    return statistics.median(speed(x) / speed(y) for x, y in zip(a, b, strict=True))


def throughput(report: Report, folder: Path, scale: Scale) -> System:
    """Table 1; gives back the fastest peer of equal architecture."""
    with ExitStack() as stack:
        calls = {}
        for system in (*PEERS, FULL, LOW_RANK):
            worker, versions = system.start(folder, 2048, 1e-3, seed=0)
            stack.callback(worker.close)
            report.versions.update(versions)
            calls[system.name] = lambda w=worker: w.call("train", count=scale.batches_a_round)
            if system.ours:
                calls[f"{system.name}: floor"] = lambda w=worker: w.call("floor", count=scale.batches_a_round)
        interleave(1, calls)  # Warm: allocations, compiled kernels, optimiser state.
        replies = interleave(scale.rounds, calls)
    fastest = max((p for p in PEERS if p.equal), key=lambda p: median_speed(replies[p.name]))
    rows = [
        (name, median_speed(taken), median_ratio(taken, replies[fastest.name]), taken[-1].peak_mb)
        for name, taken in replies.items()
    ]
    report.table(
        f"Training, batch 2,048, one thread (fastest peer at 624 inputs: {fastest.name})",
        ["system", "rows / CPU-s", "x fastest peer", "peak MB"],
        rows,
    )
    full, low = replies[FULL.name], replies[LOW_RANK.name]
    report.measures |= {
        "full_rows_per_cpu_second": median_speed(full),
        "low_rank_rows_per_cpu_second": median_speed(low),
        "fastest_peer_rows_per_cpu_second": median_speed(replies[fastest.name]),
        "full_over_fastest_peer": median_ratio(full, replies[fastest.name]),
        "low_rank_over_fastest_peer": median_ratio(low, replies[fastest.name]),
        "share_of_floor": median_ratio(full, replies[f"{FULL.name}: floor"]),
    }
    return fastest


def aucs_after_an_epoch(
    system: System, folder: Path, rate: float, seed: int, batches: int
) -> tuple[float, ...]:
    """Train one epoch; the AUC on valid and on test."""
    worker, _ = system.start(folder, 2048, rate, seed)
    found = []
    with worker:
        worker.call("train", count=batches)
        for part in ("valid", "test"):
            worker.call("score", path=str(folder / "scores.npy"), part=part)
            found.append(auc(np.load(folder / f"{part}-labels.npy"), np.load(folder / "scores.npy")))
    return tuple(found)


def quality(report: Report, folder: Path, scale: Scale, fastest: System) -> None:
    """Table 2: the learning rate is chosen on valid with the first seed, the AUC reported is on test."""
    results: dict[str, list[float]] = {}
    rows: list[Sequence[object]] = []
    first, *others = scale.seeds
    for system in (fastest, FULL, LOW_RANK):
        tried = {r: aucs_after_an_epoch(system, folder, r, first, scale.batches) for r in scale.rates}
        rate = max(tried, key=lambda r: tried[r][0])
        runs = [tried[rate], *(aucs_after_an_epoch(system, folder, rate, s, scale.batches) for s in others)]
        tests = results[system.name] = [test for _, test in runs]
        rows.append((system.name, rate, statistics.mean(tests), min(tests), max(tests)))
    truth = auc(np.load(folder / "test-labels.npy"), np.load(folder / "test-logits.npy"))
    rows.append(("the truth", "", truth, truth, truth))
    report.table(
        f"AUC on {scale.test_rows:,} rows after {scale.batches * 2048:,} rows, {len(scale.seeds)} seeds",
        ["system", "learning rate", "mean", "lowest", "highest"],
        rows,
    )
    mean = {name: statistics.mean(tests) for name, tests in results.items()}
    report.measures |= {
        "low_rank_auc": mean[LOW_RANK.name],
        "full_auc": mean[FULL.name],
        "fastest_peer_auc": mean[fastest.name],
        "low_rank_auc_gain": mean[LOW_RANK.name] - mean[fastest.name],
        "full_auc_gain": mean[FULL.name] - mean[fastest.name],
    }


def large_vocabulary(report: Report, small: Path, large: Path, scale: Scale) -> None:
    """Table 3."""
    systems = {
        "FuxiCTR, 5 M ids": (FUXICTR, large),
        "memberwise, 5 M ids": (FULL, large),
        "memberwise, 0.6 M ids": (FULL, small),
    }
    with ExitStack() as stack:
        calls = {}
        for name, (system, folder) in systems.items():
            worker, _ = system.start(folder, scale.large_batch, 1e-3, seed=0)
            stack.callback(worker.close)
            calls[name] = lambda w=worker: w.call("train", count=scale.large_batches)
        interleave(1, calls)
        replies = interleave(scale.rounds, calls)
    peer, ours, few = (replies[name] for name in systems)
    report.table(
        f"One vocabulary of {scale.large:,} ids, batch {scale.large_batch:,}",
        ["system", "rows / CPU-s", "x FuxiCTR", "peak MB"],
        [(name, median_speed(r), median_ratio(r, peer), r[-1].peak_mb) for name, r in replies.items()],
    )
    report.measures |= {
        "large_over_fuxictr": median_ratio(ours, peer),
        "large_memory_of_fuxictr": ours[-1].peak_mb / peer[-1].peak_mb,
        "large_of_small": median_ratio(ours, few),
    }


def main() -> None:
    """Run the three parts and print the claims."""
    scale = QUICK if quick_asked(__doc__ or "") else HONEST
    report = Report("ranker_throughput", TARGETS)
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        held_out = {"valid": scale.test_rows, "test": scale.test_rows}
        _criteo.write(Path(small), {"train": 2048 * scale.batches, **held_out})
        fastest = throughput(report, Path(small), scale)
        quality(report, Path(small), scale, fastest)
        _criteo.write(Path(large), {"train": scale.large_batch * 4}, largest=scale.large)
        large_vocabulary(report, Path(small), Path(large), scale)
    report.finish()


if __name__ == "__main__":
    main()
