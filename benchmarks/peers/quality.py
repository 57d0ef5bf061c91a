"""Fits one peer on arrays from files and writes its probabilities: ``python quality.py JOB.json``.

A job names the peer, the folder of the arrays, a setting, the seed and the file to write. With
``latest_rows`` it trains on the latest rows of train only: that is a step of a search.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
PARTS = ("train", "valid", "test")
FITS = {
    "lightgbm": ("_quality_lightgbm", "lightgbm"),
    "vw": ("_quality_vw", "vowpalwabbit"),
    "fuxictr": ("_quality_dcnv2", "fuxictr"),
}
"""Module whose ``fit(data, setting, seed)`` gives probabilities of valid and test, and its distribution."""
NOT_ROWS = frozenset({"fields", "sizes"})


def load(folder: Path, latest_rows: int | None) -> dict[str, Arrays]:
    """Arrays of every part; of train, the latest rows."""
    data: dict[str, Arrays] = {}
    for part in PARTS:
        with np.load(folder / f"{part}.npz") as stored:
            data[part] = {name: stored[name] for name in stored.files}
    if latest_rows:
        data["train"] = {k: a if k in NOT_ROWS else a[-latest_rows:] for k, a in data["train"].items()}
    return data


def run(job: dict[str, Any]) -> None:
    """Fit and write ``valid``, ``test`` and a note: CPU seconds, version."""
    data = load(Path(job["folder"]), job.get("latest_rows"))
    module, package = FITS[job["peer"]]
    fit = import_module(module).fit
    started = time.process_time()
    scores = fit(data, job["setting"], job["seed"])
    note = {"seconds": time.process_time() - started, "version": f"{package} {version(package)}"}
    arrays = {part: np.asarray(scores[part], np.float32) for part in ("valid", "test")}
    np.savez(job["output"], note=np.array(json.dumps(note)), **arrays)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    run(json.loads(Path(sys.argv[1]).read_text()))
