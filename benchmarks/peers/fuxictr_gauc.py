"""FuxiCTR's gAUC, which calls scikit-learn for each group in child processes."""

from __future__ import annotations

import resource

import numpy as np
from fuxictr.metrics import evaluate_metrics

import _child

_rows: dict[str, np.ndarray] = {}


def warm_up(path: str) -> None:
    """Read the rows."""
    with np.load(path) as stored:
        _rows.update(stored)


def grouped_auc() -> dict[str, float]:
    """The value, and the CPU seconds of this process and of the children that the call starts."""
    before = _cpu_seconds()
    found = evaluate_metrics(_rows["labels"], _rows["scores"], ["gAUC"], _rows["member"])
    return {"value": float(found["gAUC"]), "cpu_seconds": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


if __name__ == "__main__":
    _child.serve({"warm_up": warm_up, "grouped_auc": grouped_auc})
