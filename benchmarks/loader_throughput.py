"""How fast a log becomes shuffled batches, on one core.

Two million rows of a synthetic log like Criteo's (13 numbers, 26 ids, a label, a time; Parquet, zstd, 16 row
groups; 611,694 ids):

- *stream*: Parquet to the last batch of the first epoch: checked, sorted by time, encoded by vocabulary,
  normalised, packed to disk, read back in random order;
- *cached*: a later epoch, from the memory-mapped packed rows, in random order;
- *row-wise*: `torch.utils.data.DataLoader` over a `Dataset` that indexes NumPy arrays in memory which are
  encoded already: what a careful user writes first.

Then the share of time in which the trainer of the fastest ranker (rank 64) waits for its next batch.

``--quick`` runs all of it on 40,000 rows; its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import _criteo
from _harness import Reply, Report, Target, Worker, interleave, quick_asked

TARGETS = (
    Target(
        "stream_rows_per_cpu_second", 300_000, "Parquet to shuffled batches, 39 columns: 300 k rows per CPU-s"
    ),
    Target("cached_rows_per_cpu_second", 5_000_000, "packed cache, shuffled: 5 M rows per CPU-s"),
    Target("cached_over_rowwise", 20, "at least 20x a row-wise Dataset over NumPy with DataLoader"),
    Target("waiting_share", 0.03, "the trainer waits on data less than 3 % of the time", at_most=True),
)
BATCH = 2048


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    rows: int
    rounds: int
    epochs: int
    rowwise_batches: int
    training_batches: int


HONEST = Scale(2_000_000, 5, 2, 40, 150)
QUICK = Scale(40_000, 1, 1, 4, 4)


def write_log(folder: Path, rows: int) -> Path:
    """The log as a Parquet file, in order of time, four rows a second."""
    _criteo.write(folder, {"all": rows})
    data = _criteo.load(folder, "all")
    columns = {f"n{i}": data["numeric"][:, i] for i in range(_criteo.NUMERIC)}
    columns |= {f"c{i}": data["ids"][:, i] for i in range(_criteo.CATEGORICAL)}
    seconds = np.datetime64("2026-01-01", "s") + np.arange(rows) // 4
    columns |= {"label": data["labels"], "time": seconds.astype("datetime64[us]")}
    path = folder / "log.parquet"
    pl.DataFrame(columns).write_parquet(path, compression="zstd", row_group_size=max(1, rows // 16))
    return path


def median_speed(replies: list[Reply]) -> float:
    """Rows per CPU-second, median over rounds."""
    return statistics.median(reply.result / reply.cpu_seconds for reply in replies)


def main() -> None:
    """Run, print the tables and the claims."""
    scale = QUICK if quick_asked(__doc__ or "") else HONEST
    report = Report("loader_throughput", TARGETS)
    report.versions |= {"numpy": np.__version__, "polars": pl.__version__}
    with tempfile.TemporaryDirectory() as folder, Worker("_loaders.py") as worker:
        log = write_log(Path(folder), scale.rows)
        worker.call("setup", log=str(log), work=folder, batch=BATCH)
        replies = interleave(
            scale.rounds,
            {
                "stream": lambda: worker.call("stream"),
                "cached": lambda: worker.call("cached", epochs=scale.epochs),
                "row-wise": lambda: worker.call("rowwise", batches=scale.rowwise_batches),
            },
        )
        waits = [
            worker.call("waiting", batches=scale.training_batches).result for _ in range(min(3, scale.rounds))
        ]
    speeds = {name: median_speed(taken) for name, taken in replies.items()}
    report.table(
        f"{scale.rows:,} rows of 39 columns, batch {BATCH:,}, one core",
        ["way", "rows / CPU-s", "x row-wise"],
        [(name, value, value / speeds["row-wise"]) for name, value in speeds.items()],
    )
    report.measures |= {
        "stream_rows_per_cpu_second": speeds["stream"],
        "cached_rows_per_cpu_second": speeds["cached"],
        "rowwise_rows_per_cpu_second": speeds["row-wise"],
        "cached_over_rowwise": speeds["cached"] / speeds["row-wise"],
        "waiting_share": statistics.median(wait["waited"] / wait["seconds"] for wait in waits),
    }
    report.finish()


if __name__ == "__main__":
    main()
