"""How much of a distortion the isotonic layer takes back, beside isotonic regression after the fact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from _quality_cells import Case, Cell
from memberwise import metrics
from memberwise.nn.isotonic import IsotonicCalibration

STEPS, RATE = 400, 0.05


@dataclass(frozen=True)
class Calibration:
    """ECE (15 bins of equal mass) and AUC on test: distorted, with the layer, with isotonic regression."""

    ece: tuple[float, float, float]
    auc: tuple[float, float, float]


def distorted(logits: np.ndarray) -> np.ndarray:
    """Too sure, shifted and bent, and increasing: ``2 z + 1 + sin(2 z) / 2``."""
    return 2.0 * logits + 1.0 + 0.5 * np.sin(2.0 * logits)


def calibration(case: Case, cell: Cell) -> Calibration:
    """Distort a model's logits, learn both curves on valid, judge on test."""
    z = {part: distorted(_logit(scores)) for part, scores in (("valid", cell.valid), ("test", cell.test))}
    labels = {part: case.column(part, "labels") for part in z}
    regression = IsotonicRegression(out_of_bounds="clip").fit(z["valid"], labels["valid"])
    found = (
        _sigmoid(z["test"]),
        _sigmoid(_learned(z["valid"], labels["valid"], z["test"])),
        regression.predict(z["test"]),
    )
    y = labels["test"]
    return Calibration(
        ece=tuple(float(metrics.expected_calibration_error(y, p)) for p in found),  # type: ignore[arg-type]
        auc=tuple(float(metrics.auc(y, p)) for p in found),  # type: ignore[arg-type]
    )


def _learned(logits: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Train the layer alone, as the last layer of a network whose other weights stand still."""
    layer = IsotonicCalibration(1, lower=-20.0, upper=12.0)
    optimiser = torch.optim.Adam(layer.parameters(), RATE)
    x, y = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)
    for _ in range(STEPS):
        optimiser.zero_grad()
        (binary_cross_entropy_with_logits(layer(x), y) + layer.auxiliary_loss).backward()
        optimiser.step()
    with torch.no_grad():
        return np.asarray(layer(torch.tensor(others, dtype=torch.float32)).numpy(), np.float64)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))
