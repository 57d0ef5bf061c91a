"""What is compared: the peers with what is searched for each, and the ranker block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from _quality_cells import Case, Cell, NotKeptError, PeerFit

TRIALS = 8
"""Settings tried for each peer, judged by log-loss on valid; the ranker runs on its defaults."""
SEARCH_ROWS = 60_000
"""Latest rows of train that a trial is fitted on."""

_LIGHTGBM = [
    {"learning_rate": 0.05, "num_leaves": leaves, "min_data_in_leaf": least, "feature_fraction": share}
    for leaves, least, share in (
        (15, 100, 0.8), (31, 100, 0.8), (63, 100, 0.8), (127, 100, 0.8),
        (31, 20, 0.5), (31, 400, 0.5), (63, 400, 0.5), (127, 400, 0.5),
    )
]  # fmt: skip
_FUXICTR = [
    {
        "embedding_dim": dim,
        "rate": rate,
        "dropout": dropout,
        "embedding_regularizer": pull,
        "cross_layers": layers,
        "epochs": 5,
    }
    for dim, rate, dropout, pull, layers in (
        (8, 1e-3, 0.0, 1e-5, 2), (8, 1e-3, 0.2, 1e-4, 2), (8, 1e-3, 0.2, 1e-3, 3), (8, 3e-4, 0.2, 1e-4, 2),
        (16, 1e-3, 0.2, 1e-4, 2), (16, 3e-4, 0.2, 1e-5, 2), (16, 3e-4, 0.4, 1e-3, 3), (4, 1e-3, 0.4, 1e-3, 2),
    )
]  # fmt: skip
_VW = [
    {"options": f"--passes {passes} -l {rate} --l2 {pull} {crosses}".strip()}
    for passes, rate, pull, crosses in (
        (2, 0.1, 1e-8, ""), (2, 0.5, 1e-8, ""), (5, 0.1, 1e-7, ""), (5, 0.5, 1e-7, ""),
        (2, 0.1, 1e-7, "-q ab"), (2, 0.02, 1e-8, ""), (5, 0.02, 1e-7, ""), (2, 0.1, 1e-6, "-q aN"),
    )
]  # fmt: skip
SEARCHES = {"lightgbm": _LIGHTGBM, "fuxictr": _FUXICTR, "vw": _VW}
PEERS = {
    "logistic on ids": "logistic, one-hot ids",
    "logistic on counts": "logistic on counts",
    "lightgbm": "LightGBM on counts",
    "vw": "Vowpal Wabbit, ids and counts",
    "fuxictr": "FuxiCTR DCNv2, ids and counts",
}
"""Name of a row by what fits it."""


def peer(case: Case, searched_on: Case, name: str, seeds: int) -> list[Cell]:
    """Cells of a peer, one a seed, under the best of its settings on another case (the same log, daily)."""
    if name not in SEARCHES:
        return of_seeds(lambda seed: case.baseline(name), 1)
    try:
        setting = best_setting(searched_on, name)
    except NotKeptError:
        return []
    # Vowpal Wabbit gives the same for every seed here: no row sampling, no random initial weights.
    fits = [PeerFit(setting, seed) for seed in range(1 if name == "vw" else seeds)]
    if not case.kept:
        return case.peer(name, fits)
    return of_seeds(lambda seed: case.peer(name, [fits[seed]])[0], len(fits))


def of_seeds(cell: Callable[[int], Cell], seeds: int) -> list[Cell]:
    """Cells of the first seeds; where only kept ones may be taken, up to the first that is missing."""
    found = []
    for seed in range(seeds):
        try:
            found.append(cell(seed))
        except NotKeptError:
            break
    return found


def best_setting(case: Case, name: str) -> dict[str, Any]:
    """The setting with the least log-loss on valid when fitted on the latest rows of train."""
    rows = len(case.column("train", "labels"))
    latest = SEARCH_ROWS if rows > SEARCH_ROWS else None
    trials = SEARCHES[name][:TRIALS]
    labels = case.column("valid", "labels")
    cells = case.peer(name, [PeerFit(setting, latest_rows=latest) for setting in trials])
    losses = [_log_loss(labels, cell.valid) for cell in cells]
    return trials[int(np.argmin(losses))]


def _log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    p = np.clip(scores, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels > 0.5, np.log(p), np.log(1 - p))))


@dataclass(frozen=True)
class Variant:
    """Settings of the ranker that differ from the bare one."""

    ranker: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    history: str = "mean"

    def cells(self, case: Case, seeds: int) -> list[Cell]:
        """One a seed."""
        return of_seeds(lambda seed: case.ours(self.ranker, self.training, self.history, seed), seeds)
