"""LightGBM on the numeric columns, stopped by the log-loss on valid."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np

Arrays = dict[str, np.ndarray]
FIXED = {"objective": "binary", "num_threads": 1, "verbose": -1, "bagging_freq": 1, "bagging_fraction": 0.8}


def fit(data: dict[str, Arrays], setting: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Up to 2,000 trees; 50 without a better log-loss end it."""
    train = lgb.Dataset(data["train"]["dense"], data["train"]["label"])
    valid = lgb.Dataset(data["valid"]["dense"], data["valid"]["label"], reference=train)
    parameters = FIXED | {"seed": seed} | setting
    stop = lgb.early_stopping(50, verbose=False)
    model = lgb.train(parameters, train, 2000, valid_sets=[valid], callbacks=[stop])
    return {part: np.asarray(model.predict(data[part]["dense"])) for part in ("valid", "test")}
