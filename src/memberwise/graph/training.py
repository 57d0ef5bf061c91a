"""Training of the encoder: adaptive neighbours, shared queries, early stopping, and exact resume.

Its run folder (`memberwise.nn.run_folder`) holds one record per evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise.errors import DataError
from memberwise.graph.batches import ThreadQueue
from memberwise.graph.config import GraphTrainingConfig
from memberwise.graph.evaluation import ColdNodes, link_metrics
from memberwise.graph.feed import BatchRequest, LinkFeed
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_loss
from memberwise.graph.model import GraphModel
from memberwise.graph.optimizer import GraphOptimizer
from memberwise.graph.parallel import Team
from memberwise.graph.precision import autocast
from memberwise.graph.schedule import FanOutSchedule
from memberwise.nn.devices import choose_device
from memberwise.nn.run_folder import RunFolder, Watcher, below

Arrays = dict[str, npt.NDArray[Any]]
Supply = Callable[[Sequence[BatchRequest]], Iterator[Arrays]]
"""Answers requests in their order, perhaps ahead of time."""


@dataclass
class Position:
    """Where a training stands."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    finished: bool = False
    final: int = 0
    """Batches of the newest events."""
    losses: list[float] = field(default_factory=list)
    """Of the batches since the last evaluation."""


class GraphTrainer:
    """Trains an encoder to predict the edges of a feed.

    Parameters
    ----------
    model
        The encoder; on return it holds the best weights.
    train, valid
        Feeds over one graph: `valid` holds later records, whose queries may see all that is before them.
    config
        How to train.
    fan_out : int
        Neighbours a node and edge type, in the end and in validation.
    cold
        Nodes whose metrics are reported apart.
    run : Path
        Folder for the log and the checkpoints.
    seed
        Of shuffling, sampling and dropout.
    identity
        Names the data; a checkpoint made from other data is refused.
    watchers
        Progress bar, ...
    supply
        Where batches come from; default: threads that work ahead.
    team
        Processes that train together; default: those of `torch.distributed`.
    newest
        The records of `valid` once more, with queries that know their ids: when they have decided when to
        stop, the best weights learn from them too, in `final_passes`. None to leave that out.
    """

    def __init__(
        self,
        model: GraphModel,
        train: LinkFeed,
        valid: LinkFeed,
        config: GraphTrainingConfig,
        fan_out: int,
        cold: ColdNodes,
        run: Path,
        seed: int = 0,
        identity: str = "",
        watchers: Sequence[Watcher] = (),
        supply: Supply | None = None,
        team: Team | None = None,
        newest: LinkFeed | None = None,
    ) -> None:
        self.device = choose_device(config.device, "graph.training.device")
        self.model, self.feed, self.valid = model.to(self.device), train, valid
        self.config, self.fan_out, self.cold = config, fan_out, cold
        self.seed, self.team = seed, team or Team.current()
        self.supply: Supply = supply or self._ahead
        if train.batches < self.team.size or not valid.batches:
            raise DataError(
                "there are too few edges to learn from, or none to validate on",
                where="graph",
                fix="give a longer log, or a smaller training.batch_size",
            )
        self.mine = train.batches // self.team.size  # equally many for every process
        self.alone = round(config.mlp_init * self.mine)  # batches without neighbours
        self.first = -(-self.alone // self.mine)  # epoch with neighbours
        self.epochs = self.first + config.epochs
        self.total_batches = self.alone + config.epochs * self.mine
        self.newest = newest
        self.newest_mine = newest.batches // self.team.size if newest is not None else 0
        self.final_batches = config.final_passes * self.newest_mine
        steps, final = (
            n * config.gradient_steps // config.accumulate for n in (self.total_batches, self.final_batches)
        )
        self.optimizer = GraphOptimizer(model, config, steps, self.team, final)
        self.schedule = FanOutSchedule(config.adaptive, fan_out)
        self.evaluate_every = max(1, -(-self.mine // config.evaluations_per_epoch))
        wanted = -(-config.evaluation_events // valid.batch_size)
        spread = np.linspace(0, valid.batches - 1, min(wanted, valid.batches)).astype(int)
        self.evaluated = sorted({int(i) for i in spread})
        self.at = Position()
        fixed = {
            "training settings": config.model_dump(mode="json", exclude={"workers"}),
            "encoder settings": model.config.model_dump(mode="json"),
            "fan-out": fan_out,
            "seed": seed,
            "data": identity,
        }
        self.run = RunFolder(run, fixed, config.checkpoint_seconds, watchers, writes=self.team.rank == 0)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log."""
        return self.run.records

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self, resume: bool = False) -> Position:
        """Train until validation stops getting better; the best weights then learn the newest events.

        Parameters
        ----------
        resume
            Go on from the last checkpoint, if there is one. The result is the same as without a stop.
        """
        if not (resume and self._resume()):
            self.run.begin()
            self.team.start_alike(self.model)
            torch.manual_seed(self.seed + self.team.rank)
        while not self.at.finished:
            self._stretch()
        if not self.at.final:
            self._save()
            if self.team.size > 1:
                torch.distributed.barrier()
            self.model.load_state_dict(self.run.best_weights())
        while self.newest is not None and self.at.final < self.final_batches:
            self._final_pass(self.newest)
        return self.at

    def _stretch(self) -> None:
        """Batches up to the next evaluation, which is where the fan-out may change."""
        end = length = self.length(self.at.epoch)
        if self.at.epoch >= self.first:
            end = min((self.at.batch // self.evaluate_every + 1) * self.evaluate_every, length)
        self.model.train()
        for arrays in self.supply(self.requests(self.at.epoch, self.at.batch, end)):
            self._train_on(arrays)
            self.at.batch += 1
            if self.at.batch < end:  # behind the last one stands an evaluation
                self._maybe_save()
        if self.at.epoch >= self.first:
            self._evaluate()
        if self.at.batch >= length:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            self.at.finished = self.at.finished or self.at.epoch >= self.epochs
        self._maybe_save()

    def length(self, epoch: int) -> int:
        """Batches of an epoch; of those without neighbours the last may be cut short."""
        return min(self.mine, self.alone - epoch * self.mine) if epoch < self.first else self.mine

    def _final_pass(self, newest: LinkFeed) -> None:
        """The newest events once, from where it stopped."""
        if not self.at.final:  # gradients of other weights
            self.optimizer.drop()
        done, first = divmod(self.at.final, self.newest_mine)
        order = self._order(self.epochs + done, newest.batches, self.newest_mine, self.fan_out)
        self.model.train()
        for arrays in self._ahead(order[first:], newest):
            self._train_on(arrays)
            self.at.final += 1
            if self.at.final % self.newest_mine:  # behind the last one stands a record
                self._maybe_save()
        self._record(final_pass=done + 1)
        self._save()

    def _ahead(self, requests: Sequence[BatchRequest], feed: LinkFeed | None = None) -> Iterator[Arrays]:
        """Batches by threads that work while the model trains; here, if there are none."""
        make = (feed or self.feed).batch
        if not self.config.workers:
            return map(make, requests)
        return iter(ThreadQueue(lambda i: make(requests[i]), len(requests), self.config.workers))

    def requests(self, epoch: int, first: int, end: int) -> list[BatchRequest]:
        """What this process asks for in an epoch, by the seed, the position and the fan-out of now alone."""
        fan_out = 0 if epoch < self.first else self.schedule.now
        return self._order(epoch, self.feed.batches, self.mine, fan_out)[first:end]

    def _order(self, epoch: int, batches: int, mine: int, fan_out: int) -> list[BatchRequest]:
        """An epoch's requests of this process."""
        seed, order_seed = np.random.SeedSequence((self.seed, epoch)).generate_state(2)
        order = np.random.default_rng(int(order_seed)).permutation(batches)
        chosen = order[self.team.rank :: self.team.size][:mine]
        return [BatchRequest(int(i), fan_out, self.config.group_size, int(seed)) for i in chosen]

    @property
    def _place(self) -> int:
        """Of the next update on the schedule of rates."""
        if not self.at.finished:
            return self.at.step
        done = self.at.final * self.config.gradient_steps // self.config.accumulate
        return self.optimizer.total_steps + done

    def _train_on(self, arrays: Arrays) -> None:
        batch = LinkBatch.from_arrays(arrays, self.feed.queries.table.numbers.types).to(self.device)
        slices = self.config.gradient_steps
        for part in range(slices):
            rows = None if slices == 1 else batch.place % slices == part
            if rows is not None and not bool(rows.any()) and self.team.size == 1:
                continue
            with autocast(self.device, self.config.mixed_precision == "auto"):
                loss = link_loss(self.model, batch, self.config, rows)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise DataError(
                    f"the loss became {value} in batch {self.at.seen}",
                    where="training of the graph",
                    fix="lower graph.training.lr, or lengthen graph.training.warmup",
                )
            self.at.losses.append(value)
            self.optimizer.add(loss)
            if self.optimizer.ready:
                self.optimizer.step(self._place)
                self.at.step += 1
        self.at.seen += 1
        self.run.progress(self.at.seen, self.total_batches + self.final_batches, len(batch))

    def _evaluate(self) -> None:
        values = link_metrics(
            self.model, self.valid, self.evaluated, self.fan_out, self.cold, self.seed, self.team
        )
        metric = values[self.config.metric]
        if np.isnan(metric):
            raise DataError(
                "no negatives to validate with",
                where="graph.training.negatives",
                fix="draw some: negatives: 256",
            )
        better = self.at.best is None or metric > self.at.best
        used = self.schedule.now
        grown = self.schedule.observe(metric)
        if better:
            self.at.best, self.at.best_step, self.at.since_best = metric, self.at.step, 0
            self.run.keep_best(self.model.state_dict(), step=self.at.step, **values)
        elif not grown:  # with more neighbours it gets another chance
            self.at.since_best += 1
        self.at.finished = self.at.since_best >= self.config.patience
        self._record(best=better, fan_out=used, **values)

    def _record(self, **values: Any) -> None:
        loss = float(np.mean(self.at.losses)) if self.at.losses else None
        self.at.losses = []
        self.run.record(
            split="graph",
            step=self.at.step,
            epoch=self.at.epoch,
            cpu_seconds=round(self.run.cpu_seconds, 3),
            train_loss=loss,
            **{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()},
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def _maybe_save(self) -> None:
        # Half-gathered gradients are no part of a checkpoint.
        if self.run.due and self.team.size == 1 and not self.optimizer.gathered:
            self._save()

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer.tensors().items()}
        self.run.save(
            tensors | {"random": torch.get_rng_state()},
            position=asdict(self.at),
            schedule=self.schedule.state(),
            sparse_steps=self.optimizer.sparse.steps,
        )

    def _resume(self) -> bool:
        """Go on from the last checkpoint; False if there is none."""
        if (found := self.run.resume()) is None:
            return False
        tensors, state = found
        self.at = Position(**state["position"])
        self.schedule.load(state["schedule"])
        self.model.load_state_dict(below(tensors, "model."))
        self.optimizer.load(below(tensors, "optimizer."))
        self.optimizer.sparse.steps = state["sparse_steps"]
        torch.set_rng_state(tensors["random"])
        return True
