"""Peers of the Bayesian models, in an environment of their own, served like `_child` scripts.

Run as a script it answers calls; imported it makes the environment. Only the standard library and numpy are
imported before a call asks for more.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import _child

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "venv-bench-bayes"
PACKAGES = ("lambda-learner==0.1.0", "river==0.26.1", "vowpalwabbit==9.11.9", "scipy", "numpy")


def python() -> Path:
    """Return the peers' interpreter, making its environment if need be."""
    interpreter, stamp = FOLDER / "bin" / "python", FOLDER / "made-from.sha256"
    wanted = hashlib.sha256(repr((PACKAGES, sys.version)).encode()).hexdigest()
    if not (interpreter.exists() and stamp.is_file() and stamp.read_text() == wanted):
        print(f"making {FOLDER.name} for the peers (once)", file=sys.stderr)
        pip = [str(interpreter), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES]
        for command in ([sys.executable, "-m", "venv", "--clear", str(FOLDER)], pip):
            subprocess.run(command, check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return interpreter


def log_loss(p: Any, y: Any) -> float:
    """Mean log-loss of probabilities, kept 1e-7 away from 0 and 1."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def lambda_learner(path: str, delta: float) -> dict[str, Any]:
    """Learn a stream entity by entity with a full Hessian; losses of each batch before it is learnt.

    The file holds ``Z`` [n, d], ``y``, ``entity``, ``offset`` and ``batch``.
    """
    import time

    import scipy.sparse
    from linkedin.learner.ds.indexed_dataset import IndexedDataset
    from linkedin.learner.ds.indexed_model import IndexedModel
    from linkedin.learner.prediction.hessian_type import HessianType
    from linkedin.learner.prediction.trainer_sequential_bayesian_logistic_loss_with_l2 import (
        TrainerSequentialBayesianLogisticLossWithL2 as Trainer,
    )

    data = np.load(path)
    d = data["Z"].shape[1]
    models: dict[int, Any] = {}
    losses, used = [], 0.0
    for step in range(int(data["batch"].max()) + 1):
        own = data["batch"] == step
        Z, y, entity, offset = (data[k][own] for k in ("Z", "y", "entity", "offset"))
        theta = np.array([models[e].theta if e in models else np.zeros(d) for e in entity])
        losses.append(log_loss(1 / (1 + np.exp(-(offset + (Z * theta).sum(axis=1)))), y))
        start = time.process_time()
        for e in np.unique(entity):
            rows = entity == e
            dataset = IndexedDataset(
                scipy.sparse.csc_matrix(Z[rows]), 2.0 * y[rows] - 1, np.ones(rows.sum()), offset[rows]
            )
            before = models.get(e)
            if before is None:
                before = IndexedModel(np.zeros(d), scipy.sparse.identity(d, format="csc"))
            trainer = Trainer(
                training_data=dataset, initial_model=before, penalty=1.0, delta=delta,
                hessian_type=HessianType.FULL,
            )  # fmt: skip
            models[e] = trainer.train()[0]
        used += time.process_time() - start
    return {"losses": losses, "seconds": used}


def _batches(path: str) -> list[tuple[list[list[int]], Any]]:
    """Return the active features and labels of each batch of a file with CSR rows."""
    data = np.load(path)
    indptr, indices, ends = data["indptr"], data["indices"], data["ends"]
    result, start = [], 0
    for stop in ends:
        rows = [indices[indptr[i] : indptr[i + 1]].tolist() for i in range(start, stop)]
        result.append((rows, data["y"][start:stop]))
        start = int(stop)
    return result


def vowpal_wabbit(path: str, rate: float) -> list[float]:
    """Predict, then learn, batch after batch; the loss of each."""
    from vowpalwabbit import Workspace

    model = Workspace(f"--loss_function logistic --link logistic -l {rate} -b 20 --quiet")
    losses = []
    for rows, y in _batches(path):
        lines = ["|f " + " ".join(f"{j}:1" for j in row) for row in rows]
        losses.append(log_loss(np.array([model.predict(line) for line in lines]), y))
        for line, label in zip(lines, y, strict=True):
            model.learn(f"{1 if label else -1} {line}")
    model.finish()
    return losses


def river(path: str, rate: float) -> list[float]:
    """Predict, then learn, batch after batch, with FTRL; the loss of each."""
    from river import linear_model, optim

    model = linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=rate, l1=0.0, l2=0.0))
    losses = []
    for rows, y in _batches(path):
        samples = [dict.fromkeys(row, 1.0) for row in rows]
        losses.append(log_loss(np.array([model.predict_proba_one(s).get(True, 0.5) for s in samples]), y))
        for sample, label in zip(samples, y, strict=True):
            model.learn_one(sample, bool(label))
    return losses


if __name__ == "__main__":
    _child.serve({"lambda_learner": lambda_learner, "vowpal_wabbit": vowpal_wabbit, "river": river})
