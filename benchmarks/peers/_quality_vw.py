"""Vowpal Wabbit on hashed ids, one namespace a field, and the numeric columns; several passes by a cache."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from vowpalwabbit import Workspace

Arrays = dict[str, np.ndarray]
FIXED = "--loss_function logistic --bit_precision 20 --holdout_off --quiet"


def fit(data: dict[str, Arrays], setting: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Train by the options of the setting."""
    with TemporaryDirectory() as folder:
        text = {part: Path(folder) / f"{part}.txt" for part in data}
        for part, rows in data.items():
            _write(rows, text[part])
        model, cache = Path(folder) / "model", Path(folder) / "cache"
        options = f"{FIXED} --random_seed {seed} {setting['options']}"
        Workspace(f"{options} -d {text['train']} --cache_file {cache} -f {model}").finish()
        scores = {}
        for part in ("valid", "test"):
            out = Path(folder) / f"{part}.scores"
            Workspace(f"-t -i {model} -d {text[part]} -p {out} --link logistic --quiet").finish()
            scores[part] = np.loadtxt(out, usecols=0)
    return scores


def _write(rows: Arrays, path: Path) -> None:
    """One line a row: its label, a namespace per field with its ids, the numbers in namespace N."""
    names = [chr(ord("a") + f) for f in rows["fields"]]
    ids, dense, labels = rows["ids"].tolist(), rows["dense"].tolist(), rows["label"]
    with path.open("w") as stream:
        for line, numbers, label in zip(ids, dense, labels, strict=True):
            parts = [f"|{name} {i}" for name, i in zip(names, line, strict=True) if i >= 0]
            values = " ".join(f"{j}:{v:.4g}" for j, v in enumerate(numbers) if v)
            stream.write(f"{1 if label > 0.5 else -1} {' '.join(parts)} |N {values}\n")
