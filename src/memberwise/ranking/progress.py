"""What a person sees of a training: a bar with speed and time left, and TensorBoard if it is installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds between two lines where there is no terminal to draw on."""


class ProgressBar:
    """A bar for each stage: preparing rows, then training with rows per second and the last metrics.

    Where the output is no terminal, as in a file, a line every now and then says the same.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._lines = not self._console.is_terminal
        self._said: dict[str, float] = {}
        self._ended: set[str] = set()
        self._bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=self._lines,
        )
        self._stages: dict[str, TaskID] = {}
        self._rows, self._since = 0, time.monotonic()
        self._metric = ""

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for task in self._bar.tasks:  # training may stop before its last epoch
                self._bar.update(task.id, completed=task.total)
        self._bar.stop()

    def stage(self, what: str, done: int, of: int) -> None:
        """How far a stage of the preparation has come."""
        self._update(what, done, of, "")

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of the training log."""
        if record["split"] == "resume":
            self._bar.console.print(f"Resumed at step {record['step']:,} of epoch {record['epoch'] + 1}")
        elif record["split"] == "valid":
            star = " *" if record.get("best") else ""
            self._metric = f"valid log-loss {record['log_loss']:.4f} AUC {record['auc']:.4f}{star}"

    def progress(self, step: int, steps: int, rows: int) -> None:
        """A step of the training."""
        self._rows += rows
        speed = self._rows / max(time.monotonic() - self._since, 1e-9)
        self._update("train", step, steps, f"{speed:,.0f} rows/s  {self._metric}")

    def _update(self, what: str, done: int, of: int, note: str) -> None:
        if what not in self._stages:
            self._stages[what] = self._bar.add_task(what, total=of, note=note)
            self._rows, self._since = 0, time.monotonic()
        self._bar.update(self._stages[what], completed=done, total=of, note=note)
        if self._lines:
            self._line(what, done, of, note)

    def _line(self, what: str, done: int, of: int, note: str) -> None:
        """Say how far it is, at the beginning of a stage, from time to time, and at its end."""
        now, ended = time.monotonic(), done >= of
        if what in self._said and (what in self._ended if ended else now - self._said[what] < EVERY):
            return
        self._said[what] = now
        (self._ended.add if ended else self._ended.discard)(what)
        share = f"{100 * done // max(of, 1)} %"
        self._console.print(f"{what}: {share} {note}".rstrip(), highlight=False, markup=False, soft_wrap=True)


class TensorBoard:
    """Writes the training log as TensorBoard scalars."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an optional dependency

        self._writer = SummaryWriter(str(folder))

    @staticmethod
    def installed() -> bool:
        """Whether TensorBoard is there."""
        return importlib.util.find_spec("tensorboard") is not None

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of the training log."""
        for key, value in record.items():
            if isinstance(value, float) and key != "cpu_seconds":
                self._writer.add_scalar(f"{record['split']}/{key}", value, record["step"])
        self._writer.flush()

    def progress(self, step: int, steps: int, rows: int) -> None:
        """Nothing: only records are written."""
