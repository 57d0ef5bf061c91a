"""Fits one peer on arrays from files and writes its probabilities: ``python quality.py JOBS.json``.

The file names the peer, the folder of the arrays, and jobs: a setting, a seed, the file to write. A job with
``latest_rows`` trains on the latest rows of train only: that is a step of a search.
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


def load(folder: Path) -> dict[str, Arrays]:
    """Arrays of every part."""
    data: dict[str, Arrays] = {}
    for part in PARTS:
        with np.load(folder / f"{part}.npz") as stored:
            data[part] = {name: stored[name] for name in stored.files}
    return data


def latest(rows: Arrays, count: int | None) -> Arrays:
    """The latest rows, or all."""
    return {k: a if k in NOT_ROWS or not count else a[-count:] for k, a in rows.items()}


def run(jobs: dict[str, Any]) -> None:
    """Fit every job and write ``valid``, ``test`` and a note: CPU seconds, version."""
    data = load(Path(jobs["folder"]))
    module, package = FITS[jobs["peer"]]
    fit = import_module(module).fit
    for job in jobs["jobs"]:
        started = time.process_time()
        train = latest(data["train"], job["latest_rows"])
        scores = fit(data | {"train": train}, job["setting"], job["seed"])
        seconds = time.process_time() - started
        note = job["about"] | {"seconds": seconds, "version": f"{package} {version(package)}"}
        arrays = {part: np.asarray(scores[part], np.float32) for part in ("valid", "test")}
        path = Path(job["output"])
        half = path.with_suffix(".part.npz")
        np.savez(half, note=np.array(json.dumps(note)), **arrays)
        half.replace(path)
        print(f"{note['log']} {note['delay']} {jobs['peer']} seed {job['seed']}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    run(json.loads(Path(sys.argv[1]).read_text()))
