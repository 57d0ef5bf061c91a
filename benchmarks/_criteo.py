"""A log like Criteo's with a known truth: 13 numbers, 26 ids of power-law popularity, a logistic label.

The label of a row is Bernoulli with

    logit = c + x.w + sum_f a_f[id_f] + sum_(f,g) <p_f[id_f], q_g[id_g]>

so that a model has linear effects of numbers and ids to learn, and pairs of fields that only a product
finds. The AUC of the true logits is the ceiling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NUMERIC, CATEGORICAL = 13, 26
_PAIRS = ((3, 9), (5, 12), (7, 10), (11, 14), (8, 16), (4, 18))
_PAIR_DIMENSIONS = 3
_TRUE_MEAN = -1.9


def vocabularies(largest: int = 221_000) -> list[int]:
    """Ids per field: a geometric ladder of 26 steps from 3, about 611,000 in all at the default."""
    return [int(size) for size in np.geomspace(3, 221_000, CATEGORICAL)[:-1]] + [largest]


def write(folder: Path, rows: dict[str, int], seed: int = 0, largest: int = 221_000) -> dict[str, Any]:
    """Draw the log and write it as ``folder/{part}-{numeric,ids,labels,logits}.npy`` and ``meta.json``.

    Parameters
    ----------
    folder : Path
        An existing directory.
    rows : dict
        Part to number of rows, for example ``{"train": 200_000, "test": 50_000}``; same truth in all.
    seed : int
        Seed of everything.
    largest : int
        Ids of the last field.

    Returns
    -------
    dict
        What ``meta.json`` holds: ``vocabularies`` and ``rows``.
    """
    truth_seed, *part_seeds = np.random.SeedSequence(seed).spawn(1 + len(rows))
    truth = _truth(np.random.default_rng(truth_seed), vocabularies(largest))
    for part_seed, (part, count) in zip(part_seeds, rows.items(), strict=True):
        for name, array in _draw(np.random.default_rng(part_seed), truth, count).items():
            np.save(folder / f"{part}-{name}.npy", array)
    meta = {"vocabularies": vocabularies(largest), "rows": rows}
    (folder / "meta.json").write_text(json.dumps(meta))
    return meta


def _truth(rng: np.random.Generator, sizes: list[int]) -> dict[str, Any]:
    fields = sorted({field for pair in _PAIRS for field in pair})
    return {
        "weights": rng.normal(0, 0.12, NUMERIC),
        "effects": [rng.normal(0, 0.3, size).astype(np.float32) for size in sizes],
        "factors": {f: rng.normal(0, 0.45, (sizes[f], _PAIR_DIMENSIONS)).astype(np.float32) for f in fields},
        # An id's popularity says nothing about its place in a table, as with hashed ids.
        "names": [rng.permutation(size).astype(np.int32) for size in sizes],
    }


def _draw(rng: np.random.Generator, truth: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    numeric = rng.standard_normal((count, NUMERIC)).astype(np.float32)
    # Log-uniform ranks: the rank r comes with probability proportional to about 1/r.
    ranks = [(len(names) ** rng.random(count)).astype(np.int64) - 1 for names in truth["names"]]
    ids = np.stack([names[rank] for names, rank in zip(truth["names"], ranks, strict=True)], axis=1)
    logits = _TRUE_MEAN + numeric @ truth["weights"]
    for f, effects in enumerate(truth["effects"]):
        logits += effects[ids[:, f]]
    for f, g in _PAIRS:
        logits += (truth["factors"][f][ids[:, f]] * truth["factors"][g][ids[:, g]]).sum(axis=1)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return {"numeric": numeric, "ids": ids, "labels": labels, "logits": logits.astype(np.float32)}


def load(folder: str | Path, part: str) -> dict[str, np.ndarray]:
    """Read one part into memory: ``numeric`` [n, 13], ``ids`` [n, 26], ``labels`` [n]."""
    return {name: np.load(Path(folder) / f"{part}-{name}.npy") for name in ("numeric", "ids", "labels")}


def meta(folder: str | Path) -> dict[str, Any]:
    """Read ``meta.json``."""
    content: dict[str, Any] = json.loads((Path(folder) / "meta.json").read_text())
    return content
