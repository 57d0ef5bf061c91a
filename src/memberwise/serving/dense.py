"""Raw numbers to what the ranker's blocks see, in one pass: `Normaliser.transform`, then batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import nn

from memberwise.data.normalise import CLIP, Normaliser

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
_KINDS = {"standard": 0, "log1p": 1, "quantile": 2, "none": 3}


class DenseTransform:
    """The transform of some of the dense columns.

    Parameters
    ----------
    normaliser
        Of the pipeline.
    norm
        The ranker's batch norm over all dense columns and indicators, or the identity.
    columns
        Which raw columns; their indicators stand behind them, in the same order.

    Attributes
    ----------
    place, width
        Columns of the batch's dense array that result, and their number.
    """

    def __init__(self, normaliser: Normaliser, norm: nn.Module, columns: Sequence[int]) -> None:
        every = normaliser.columns
        indicators = [i for i, c in enumerate(every) if c.indicator]
        mine = [i for i in columns if every[i].indicator]
        scale, shift = _affine(norm, len(every) + len(indicators))
        place = list(columns) + [len(every) + indicators.index(i) for i in mine]
        self.place, self.width = place, len(place)
        self._scale, self._shift = scale[place], shift[place]
        at = np.array(columns, np.int64)
        self._kind = np.array([_KINDS[every[i].transform] for i in columns], np.int64)
        self._mean, self._std = normaliser.mean[at], normaliser.std[at]
        self._knots, self._scores = normaliser.knots[at], normaliser.scores[at]
        self._gaps = normaliser.gaps[at]
        self._indicator = np.array(
            [len(columns) + mine.index(i) if i in mine else -1 for i in columns], np.int64
        )

    def affine(self, normalised: F32) -> F32:
        """Batch norm alone, of columns that are normalised already, indicators behind them."""
        scaled: F32 = (normalised * self._scale + self._shift).astype(np.float32)
        return scaled

    def __call__(self, raw: F32) -> F32:
        """``[n, columns] -> [n, width]``."""
        out = np.empty((len(raw), self.width), np.float32)
        _transform(
            raw,
            self._kind,
            self._mean,
            self._std,
            self._knots,
            self._scores,
            self._gaps,
            self._indicator,
            self._scale,
            self._shift,
            CLIP,
            out,
        )
        return out


def _affine(norm: nn.Module, width: int) -> tuple[F64, F64]:
    """Batch norm in evaluation as ``scale x + shift``."""
    if not isinstance(norm, nn.BatchNorm1d):
        return np.ones(width), np.zeros(width)
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
    return scale.numpy(), shift.numpy()


@njit(cache=True, nogil=True)
def _transform(
    raw: F32,
    kind: I64,
    mean: F64,
    std: F64,
    knots: F64,
    scores: F64,
    gaps: F64,
    indicator: I64,
    scale: F64,
    shift: F64,
    clip: float,
    out: F32,
) -> None:
    last = knots.shape[1] - 1
    for i in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            x = np.float64(raw[i, j])
            missing = not np.isfinite(x)
            y = 0.0
            if not missing:
                if kind[j] == 1:
                    x = np.sign(x) * np.log1p(np.abs(x))
                elif kind[j] == 2:
                    if x >= knots[j, last]:
                        x = scores[j, last]
                    elif x <= knots[j, 0]:
                        x = scores[j, 0]
                    else:
                        low, high = 0, last
                        while high - low > 1:
                            middle = (low + high) // 2
                            if knots[j, middle] <= x:
                                low = middle
                            else:
                                high = middle
                        slope = (scores[j, high] - scores[j, low]) / (knots[j, high] - knots[j, low])
                        x = slope * (x - knots[j, low]) + scores[j, low]
                y = x if kind[j] == 3 else min(max((x - mean[j]) / std[j], -clip), clip)
            out[i, j] = scale[j] * np.float64(np.float32(y)) + shift[j]
            if indicator[j] >= 0:
                k = indicator[j]
                out[i, k] = scale[k] * (gaps[j] if missing else 0.0) + shift[k]
