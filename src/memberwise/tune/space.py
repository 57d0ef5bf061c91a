"""What is searched, and between which bounds.

=====================  ===================================================================
``embedding_dim``      4, 8, 16, 32
``id_dropout``         0 to 0.5
``id_dropout_few``     1 to 1000, by its logarithm
``input_dropout``      0 to 0.4
``bins``               pieces of the curves of numbers: 0 (none), 8, 16, 32
``blocks``             mlp; cross + mlp; residual_cross + gated_mlp
``rank``               16, 32, 64 (where there is a cross)
``hidden``             128-64, 256-128, 512-256
``dropout``            0 to 0.3, in the perceptron
``lr``                 0.0003 to 0.01, by its logarithm
``embedding_lr``       0.001 to 0.05, by its logarithm
``weight_decay``       0.000001 to 0.1, by its logarithm
``warmup``             0.02 to 0.5
``batch_size``         512, 1024, 2048, 4096
=====================  ===================================================================

The features of the project, its tasks, heads and calibration stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Trial(Protocol):
    """What is asked of a trial (`optuna.Trial`)."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two bounds."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several."""
        ...


HIDDEN = {"128-64": [128, 64], "256-128": [256, 128], "512-256": [512, 256]}
BLOCKS = {
    "mlp": (None, "mlp"),
    "cross + mlp": ("cross", "mlp"),
    "residual_cross + gated_mlp": ("residual_cross", "gated_mlp"),
}


def suggest(trial: Trial) -> dict[str, dict[str, Any]]:
    """Settings of ``ranker`` and ``training`` as a project file holds them."""
    bins = trial.suggest_categorical("bins", [0, 8, 16, 32])
    ranker = {
        "embedding_dim": trial.suggest_categorical("embedding_dim", [4, 8, 16, 32]),
        "id_dropout": _rounded(trial.suggest_float("id_dropout", 0.0, 0.5)),
        "id_dropout_few": _rounded(trial.suggest_float("id_dropout_few", 1.0, 1000.0, log=True)),
        "input_dropout": _rounded(trial.suggest_float("input_dropout", 0.0, 0.4)),
        "numeric": {"bins": bins} if bins else None,
        "blocks": _blocks(trial),
    }
    training = {
        "lr": _rounded(trial.suggest_float("lr", 3e-4, 1e-2, log=True)),
        "embedding_lr": _rounded(trial.suggest_float("embedding_lr", 1e-3, 5e-2, log=True)),
        "weight_decay": _rounded(trial.suggest_float("weight_decay", 1e-6, 0.1, log=True)),
        "warmup": _rounded(trial.suggest_float("warmup", 0.02, 0.5)),
        "batch_size": trial.suggest_categorical("batch_size", [512, 1024, 2048, 4096]),
    }
    return {"ranker": ranker, "training": training}


def _blocks(trial: Trial) -> list[dict[str, Any]]:
    cross, mlp = BLOCKS[trial.suggest_categorical("blocks", list(BLOCKS))]
    hidden = HIDDEN[trial.suggest_categorical("hidden", list(HIDDEN))]
    dropout = _rounded(trial.suggest_float("dropout", 0.0, 0.3))
    blocks = [{"type": mlp, "hidden": hidden, "dropout": dropout}]
    if cross is not None:
        blocks.insert(0, {"type": cross, "rank": trial.suggest_categorical("rank", [16, 32, 64])})
    return blocks


def _rounded(value: float) -> float:
    """Three digits: more would pretend to know."""
    return float(f"{value:.3g}")
