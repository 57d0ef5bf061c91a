"""What point-in-time aggregates cost: ten million events under twelve keys, on one core.

The log spans 60 days (half a million members and 100,000 items by a power law, stores, categories, one to
three tags an event); the keys are members, items, attributes, crossings, several values, a window, a decay
and a distinct count, with delays from none to daily. Each row reads what its delay allows and then counts.
The log is generated in memory: reading files is measured by `loader_throughput`.

``--quick`` runs 100,000 events; its numbers mean nothing.
"""

from __future__ import annotations

import numba
import numpy as np
import polars as pl

from _harness import Report, Target, Worker, quick_asked

ROWS, CHUNK, KEYS = 10_000_000, 131_072, 12
TARGETS = (
    Target(
        "cpu_seconds",
        60,
        "ten million events under twelve keys: less than a minute of CPU, compilation included",
        at_most=True,
    ),
)


def main() -> None:
    """Run, print, compare."""
    rows = 100_000 if quick_asked(__doc__ or "") else ROWS
    report = Report("aggregate_throughput", TARGETS)
    report.versions |= {"numpy": np.__version__, "numba": numba.__version__, "polars": pl.__version__}
    with Worker("_aggregates.py") as worker:
        made = worker.call("write", rows=rows, size=CHUNK)
        walked = worker.call("walk")
    found = walked.result
    report.table(
        f"{rows:,} events, {KEYS} keys, one core",
        ["", "CPU s", "rows / CPU-s", "columns", "distinct keys", "peak MB"],
        [
            (
                "absorb and read",
                walked.cpu_seconds,
                rows / walked.cpu_seconds,
                found["columns"],
                f"{found['keys']:,}",
                walked.peak_mb,
            )
        ],
    )
    report.measures |= {
        "cpu_seconds": walked.cpu_seconds,
        "wall_seconds": walked.wall_seconds,
        "rows_per_cpu_second": rows / walked.cpu_seconds,
        "peak_mb": walked.peak_mb,
        "log_mb": made.peak_mb,
    }
    report.finish()


if __name__ == "__main__":
    main()
