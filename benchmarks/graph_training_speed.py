"""Time to the same validation AUC: all parts of the training pipeline against none of them.

A graph of 600,000 events: 2,000 members who have a taste in eight dimensions and come in visits of five
events on average, 1,500 items, some far more popular than others. Members have 300 edges in the mean (95 %
have more than 200), items 400: a node has 200 neighbours to look at, as the paper's have. The encoder
(attention, two towers, ids, width 64) learns from the newest 80,000 events before valid, in batches of 1,024.
Two processes of one thread each train one model, with one more process or thread each that makes batches. The
clock stands while validation is scored, always with 200 neighbours, which costs all the same.

- plain: one query a record, 200 neighbours from the start, batches from a worker process through a pickling
  queue, all-reduce in every step. Items of a batch are looked at once, here too;
- each part alone: grouping (4 events share a query), adaptive neighbours (10 at first), queue (shared memory
  instead of pickle; threads), gradients gathered over two batches, MLPInit (a quarter of an epoch);
- all on: grouping, adaptive neighbours, gathered gradients, MLPInit, threads; and the same but for gathering.

Batches, rates (at which the plain configuration is at its best) and what stops a run are the same for all.
Runs are interleaved, each turn from other weights and draws; the medians of wall time are compared, and the
CPU seconds of all processes stand beside them, both without validation. Finished runs are kept under
``.cache/graph_training_speed``.
``--quick`` runs it small, once.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from _graph_arms import known_ids
from _harness import ONE_THREAD, ROOT, Report, Target, quick_asked
from memberwise.graph import EdgeArrays, HeteroGraph
from memberwise.graph.batches import SharedMemoryQueue
from memberwise.graph.config import EncoderConfig, GraphTrainingConfig
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.feed import BatchRequest, LinkFeed
from memberwise.graph.fit import cold_nodes
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_loss
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.nodes import numbered
from memberwise.graph.optimizer import GraphOptimizer
from memberwise.graph.parallel import Team
from memberwise.graph.records import Records
from memberwise.graph.training import GraphTrainer

TARGETS = (Target("all_over_plain", 7.0, "all parts on: at least 7x sooner at the same validation AUC"),)
AUC = 0.95
"""Validation AUC to reach; where the plain configuration has done most of its learning."""
PROCESSES, FAN_OUT = 2, 200
RECIPE = 6  # Raise it when code changes what a run costs.
CACHE = ROOT / ".cache" / "graph_training_speed"
RATES = ("member", "rates", "item")


@dataclass(frozen=True)
class Arm:
    """One configuration of the pipeline."""

    name: str
    training: dict[str, Any] = field(default_factory=dict)
    supply: str = "pickle"


PLAIN: dict[str, Any] = {"group_size": 1, "adaptive": None, "accumulate": 1, "mlp_init": 0}
GROUPS: dict[str, Any] = {"group_size": 4}
ADAPTIVE: dict[str, Any] = {"adaptive": {"start": 10, "stride": 20}}
GATHERED: dict[str, Any] = {"accumulate": 2}
MLP: dict[str, Any] = {"mlp_init": 0.25}
ARMS = (
    Arm("plain"),
    Arm("grouping", GROUPS),
    Arm("adaptive neighbours", ADAPTIVE),
    Arm("shared-memory queue", supply="shared"),
    Arm("threads", supply="threads"),
    Arm("gathered gradients", GATHERED),
    Arm("MLPInit", MLP),
    Arm("all on", GROUPS | ADAPTIVE | GATHERED | MLP, supply="threads"),
    Arm("all on but gathering", GROUPS | ADAPTIVE | MLP, supply="threads"),
)


def graph_of(events: int, seed: int = 0, members: int = 2000, items: int = 1500) -> HeteroGraph:
    """Members who choose by taste and popularity, ``p(d | s) ~ exp(3 u_s . v_d + b_d)``, an event a minute.

    Tastes are normal in eight dimensions; visits are of geometric length, five events in the mean.
    """
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(members, 8))
    logits = 3.0 * taste @ (rng.normal(size=(items, 8)) / np.sqrt(8)).T + 0.7 * rng.normal(size=items)
    sizes = rng.geometric(1 / 5, events // 2)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), events)]
    who = np.repeat(rng.integers(0, members, len(sizes)), sizes)
    what = np.empty(len(who), np.int64)
    order = np.argsort(who, kind="stable")
    for member, rows in enumerate(np.split(order, np.searchsorted(who[order], np.arange(1, members)))):
        total = np.cumsum(np.exp(logits[member] - logits[member].max()))
        what[rows] = np.searchsorted(total, rng.random(len(rows)) * total[-1])
    minute = np.arange(len(who)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    begin = np.repeat(rng.integers(1, 60 * 86_400, len(sizes)), sizes)
    when = (begin + minute * 60) * 10**6
    nodes = [numbered("member", members), numbered("item", items)]
    return HeteroGraph.from_arrays(nodes, [EdgeArrays(RATES, who, what, time=when)])


class PickledBatches:
    """A worker process that sends batches through a `multiprocessing.Queue`: the usual way."""

    def __init__(self, feed: LinkFeed) -> None:
        context: Any = multiprocessing.get_context("fork")
        self._asked, self._made = context.Queue(), context.Queue(maxsize=4)
        self._worker = context.Process(target=self._work, args=(feed,), daemon=True)
        self._worker.start()

    def _work(self, feed: LinkFeed) -> None:
        while (request := self._asked.get()) is not None:
            self._made.put(feed.batch(request))

    def __call__(self, requests: Sequence[BatchRequest]) -> Iterator[dict[str, Any]]:
        for request in requests:
            self._asked.put(request)
        for _ in requests:
            yield self._made.get()

    def close(self) -> None:
        """End the worker, so that its CPU time is counted."""
        self._asked.put(None)
        while self._worker.is_alive():
            while not self._made.empty():
                self._made.get()
            self._worker.join(0.1)


@dataclass(frozen=True)
class _Planned:
    """Makes the batch with a number: what a queue's worker process is given."""

    feed: LinkFeed
    plan: tuple[BatchRequest, ...]

    def __call__(self, index: int) -> dict[str, Any]:
        return self.feed.batch(self.plan[index])


class SharedBatches:
    """The same through shared memory; what will be asked for is known, because the fan-out stays."""

    def __init__(self, trainer: GraphTrainer) -> None:
        epochs = range(trainer.epochs)
        plan = [r for epoch in epochs for r in trainer.requests(epoch, 0, trainer.length(epoch))]
        make = _Planned(trainer.feed, tuple(plan))
        self._queue = SharedMemoryQueue(make, len(plan), workers=1, start_method="fork")
        self._batches = iter(self._queue)
        self._first = next(self._batches)  # the worker has started

    def __call__(self, requests: Sequence[BatchRequest]) -> Iterator[dict[str, Any]]:
        for _ in requests:
            first, self._first = self._first, {}
            yield first or next(self._batches)

    def close(self) -> None:
        """End the worker."""
        self._queue.close()


class Timed(GraphTrainer):
    """Stops at the AUC, and stands still while validation is scored."""

    scoring = scoring_cpu = 0.0
    track: list[float]

    def _evaluate(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        super()._evaluate()
        self.track = [*getattr(self, "track", []), self.records[-1]["auc"]]
        self.scoring += time.perf_counter() - wall
        self.scoring_cpu += time.process_time() - cpu
        self.at.finished = self.at.finished or self.track[-1] >= AUC


def warm_up(encoder: GraphEncoder, feed: LinkFeed, training: GraphTrainingConfig) -> None:
    """Steps of a copy: compiled kernels are loaded and libraries set up before the clock starts."""
    model = copy.deepcopy(encoder.model).train()
    optimizer = GraphOptimizer(model, training, 10, Team())
    for step, fan_out in enumerate((2, 10, FAN_OUT)):
        arrays = feed.batch(BatchRequest(0, fan_out, training.group_size, 0))
        batch = LinkBatch.from_arrays(arrays, feed.queries.table.numbers.types)
        optimizer.add(link_loss(model, batch, training))
        optimizer.step(step)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """One process of one run; started by `run`."""
    rank, size = int(os.environ["RANK"]), PROCESSES
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{settings['folder']}/meet", rank=rank, world_size=size
    )
    graph = graph_of(settings["events"])
    records = Records.of(graph, [RATES])
    cut = int(records.times[int(0.9 * len(records))])
    config = EncoderConfig(
        dim=64,
        heads=2,
        aggregator="attention",
        temporal=None,
        ids={"min_count": 2},  # type: ignore[arg-type]
    )
    around = Neighbourhood(fan_out=FAN_OUT)
    ids = known_ids(graph, cut, 2)
    encoder = GraphEncoder.new(graph, (RATES,), config, around, ids, settings["seed"])
    queries = encoder.queries(graph, training=True)
    past = records.between(0, cut)
    past = past.take(slice(len(past) - settings["trained"], len(past)))
    later = records.between(cut, 2**62).take(slice(0, 2000))
    training = GraphTrainingConfig(
        batch_size=settings["batch_size"],
        negatives=settings["batch_size"] // 2,
        epochs=settings["epochs"],
        lr=3e-3,
        embedding_lr=0.1,
        evaluations_per_epoch=settings["evaluations"],
        evaluation_events=1000,
        patience=10**6,
        workers=1,
        checkpoint_seconds=1e9,
        **(PLAIN | settings["training"]),
    )
    feeds = [LinkFeed(queries, r, training.batch_size, training.negatives) for r in (past, later)]
    trainer = Timed(
        encoder.model,
        feeds[0],
        feeds[1],
        training,
        FAN_OUT,
        cold_nodes(graph, "member", "item", cut),
        Path(settings["folder"]),
        seed=settings["seed"],
    )
    source: PickledBatches | SharedBatches | None = None
    if settings["supply"] == "pickle":
        source = PickledBatches(feeds[0])
    elif settings["supply"] == "shared":
        source = SharedBatches(trainer)
    if source is not None:
        trainer.supply = source
    warm_up(encoder, feeds[0], training)
    dist.barrier()
    started, used = time.perf_counter(), time.process_time()
    trainer.fit()
    wall = time.perf_counter() - started - trainer.scoring
    cpu = time.process_time() - used - trainer.scoring_cpu
    if source is not None:
        source.close()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu += children.ru_utime + children.ru_stime
    dist.destroy_process_group()
    return {
        "wall": wall,
        "cpu": cpu,
        "auc": trainer.track,
        "batches": trainer.at.seen,
        "fan_out": trainer.schedule.now,
    }


def run(arm: Arm, scale: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train once with all processes; wall time of the slowest, CPU seconds of all."""
    with tempfile.TemporaryDirectory() as folder:
        settings = scale | {"training": arm.training, "supply": arm.supply, "folder": folder, "seed": seed}
        command = [sys.executable, __file__, "--process", json.dumps(settings)]
        processes = [
            subprocess.Popen(
                command, env=os.environ | ONE_THREAD | {"RANK": str(rank)}, stdout=subprocess.PIPE
            )
            for rank in range(PROCESSES)
        ]
        replies = []
        for process in processes:
            out, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{arm.name}: a process ended with {process.returncode}")
            replies.append(json.loads(out.splitlines()[-1]))
    return replies[0] | {"wall": max(r["wall"] for r in replies), "cpu": sum(r["cpu"] for r in replies)}


def kept(arm: Arm, scale: dict[str, Any], turn: int) -> dict[str, Any]:
    """The reply of one run, kept on disk, so that an interrupted benchmark goes on where it stood."""
    about = json.dumps([RECIPE, AUC, FAN_OUT, PROCESSES, scale, dataclasses.asdict(arm), turn])
    path = CACHE / f"{hashlib.sha256(about.encode()).hexdigest()[:20]}.json"
    if not path.is_file():
        reply = run(arm, scale, seed=turn)
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(reply))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    """Run all arms in turn and print the claim."""
    if len(sys.argv) > 2 and sys.argv[1] == "--process":
        print(json.dumps(train(json.loads(sys.argv[2]))))
        return
    quick = quick_asked(__doc__ or "")
    report = Report("graph_training_speed", TARGETS)
    scale: dict[str, Any] = {
        "events": 600_000,
        "trained": 80_000,
        "batch_size": 1024,
        "epochs": 5,
        "evaluations": 8,
    }
    if quick:
        scale = {"events": 20_000, "trained": 2_000, "batch_size": 256, "epochs": 2, "evaluations": 2}
    arms = [a for a in ARMS if not quick or a.name in ("plain", "all on", "shared-memory queue")]
    found: dict[str, list[dict[str, Any]]] = {a.name: [] for a in arms}
    turns = 1 if quick else 3
    # The claim is about the whole: it and the plain arm run in turn; each part alone is shown, and runs once.
    whole = [a for a in arms if a.name == "plain" or a.name.startswith("all on")]
    for turn, some in [*((t, whole) for t in range(turns)), (0, [a for a in arms if a not in whole])]:
        for arm in some:
            reply = kept(arm, scale, turn)
            found[arm.name].append(reply)
            print(
                f"  {arm.name}: {reply['wall']:.1f} s, AUC {reply['auc'][-1]:.4f}",
                file=sys.stderr,
                flush=True,
            )
    wall = {name: statistics.median(r["wall"] for r in replies) for name, replies in found.items()}
    cpu = {name: statistics.median(r["cpu"] for r in replies) for name, replies in found.items()}
    rows = [
        (
            name,
            wall[name],
            wall["plain"] / wall[name],
            cpu[name],
            cpu["plain"] / cpu[name],
            statistics.median(r["batches"] for r in replies),
            statistics.median(r["fan_out"] for r in replies),
            statistics.median(r["auc"][-1] for r in replies),
        )
        for name, replies in found.items()
    ]
    columns = [
        "",
        "wall s",
        "x plain",
        "CPU s, all",
        "x plain",
        "batches a process",
        "neighbours at the end",
        "AUC",
    ]
    report.table(f"To a validation AUC of {AUC}, {PROCESSES} processes", columns, rows)
    report.measures |= {f"{n.replace(' ', '_')}_wall": w for n, w in wall.items()}
    report.measures["all_over_plain_cpu"] = cpu["plain"] / cpu["all on"]
    reached = all(r["auc"][-1] >= AUC for n in ("plain", "all on") for r in found[n])
    report.measures["all_over_plain"] = wall["plain"] / wall["all on"] if reached or quick else 0.0
    report.finish()


if __name__ == "__main__":
    main()
