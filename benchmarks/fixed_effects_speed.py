"""A fixed effect of a million sparse features, against scikit-learn at the same objective.

``.venv/bin/python benchmarks/fixed_effects_speed.py`` takes about fifteen minutes here, most of them
scikit-learn's; 10 million rows are fitted by memberwise alone when there are 12 GB of free memory.
Binary features, 30 a row, with counts that follow a power law; prior precision 1; one thread, CPU seconds.
scikit-learn's lbfgs is given growing iteration limits until its objective is within 1e-4 of ours; if it is
not there at the last limit, the time of the last is counted, in its favour.
"""

from __future__ import annotations

import os
import resource
import time
import warnings
from importlib.metadata import version

import numpy as np
import scipy.sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from _harness import Report, Target, quick_asked
from memberwise.bayes import BayesianLogisticRegression
from memberwise.bayes.likelihood import BernoulliLikelihood

FEATURES, PER_ROW = 1_000_000, 30
TARGETS = (
    Target("speedup_200k", 5, "at 200,000 rows at least 5x scikit-learn's lbfgs at the same objective"),
    Target("speedup_1m", 5, "at 1,000,000 rows at least 5x scikit-learn's lbfgs at the same objective"),
)


def rows(n: int, features: int, seed: int = 0) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Return a design of power-law binary features and labels of a logistic model."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(0.0, 0.5, features)
    renamed = rng.permutation(features).astype(np.int32)
    indices = np.empty((n, PER_ROW), np.int32)
    labels = np.empty(n)
    for start in range(0, n, 500_000):
        stop = min(n, start + 500_000)
        rank = np.exp(rng.random((stop - start, PER_ROW)) * np.log(features)).astype(np.int64) - 1
        block = renamed[np.minimum(rank, features - 1)]
        block.sort(axis=1)
        indices[start:stop] = block
        labels[start:stop] = rng.random(stop - start) < expit(effect[block].sum(axis=1) - 1.0)
    data = np.ones(n * PER_ROW, np.float32)
    design = scipy.sparse.csr_array(
        (data, indices.ravel(), np.arange(n + 1, dtype=np.int32) * PER_ROW), shape=(n, features)
    )
    design.sum_duplicates()
    return design, labels


def objective(X: scipy.sparse.csr_array, y: np.ndarray, w: np.ndarray, intercept: float) -> float:
    """Mean loss plus the L2 penalty, the intercept left out."""
    eta = X @ w + intercept
    return float((BernoulliLikelihood().loss(eta, y).sum() + 0.5 * w @ w) / y.size)


def ours(X: scipy.sparse.csr_array, y: np.ndarray) -> tuple[float, float]:
    """Fit and return CPU seconds, posterior variances included, and the objective."""
    model = BayesianLogisticRegression(intercept_precision=1e-8)
    start = time.process_time()
    model.fit(X, y)
    used = time.process_time() - start
    return used, objective(X, y, model.coef_[0], float(model.intercept_[0]))


def theirs(
    X: scipy.sparse.csr_array, y: np.ndarray, goal: float, limits: tuple[int, ...]
) -> tuple[float, float, int]:
    """Run lbfgs with growing limits until the objective is reached: seconds, objective, iterations."""
    wide = scipy.sparse.csr_array((X.data.astype(float), X.indices, X.indptr), shape=X.shape)
    used, reached = np.inf, np.inf
    for limit in limits:
        model = LogisticRegression(C=1.0, max_iter=limit, tol=1e-12)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(wide, y)
        used = time.process_time() - start
        reached = objective(X, y, model.coef_[0], float(model.intercept_[0]))
        if reached <= goal * (1 + 1e-4):
            return used, reached, limit
    return used, reached, limits[-1]


def compare(report: Report, n: int, features: int, name: str, limits: tuple[int, ...]) -> list[object]:
    """Return one row of the table."""
    X, y = rows(n, features)
    first, goal = ours(X, y)
    peer, reached, iterations = theirs(X, y, goal, limits)
    second, _ = ours(X, y)
    own = (first + second) / 2
    report.measures |= {
        f"speedup_{name}": peer / own, f"seconds_{name}": own, f"seconds_sklearn_{name}": peer,
        f"objective_{name}": goal, f"objective_sklearn_{name}": reached,
    }  # fmt: skip
    return [f"{n:,}", own, goal, peer, reached, iterations, peer / own]


def alone(report: Report, n: int, features: int) -> None:
    """Fit many rows with memberwise only."""
    X, y = rows(n, features)
    used, value = ours(X, y)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    report.measures |= {"seconds_10m": used, "objective_10m": value, "peak_gb_10m": peak}
    columns = ["rows", "seconds", "objective", "peak GB, data included"]
    report.table("memberwise alone", columns, [(f"{n:,}", used, value, peak)])


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("Fixed effects of a million sparse features")
    report = Report("fixed_effects_speed", TARGETS)
    report.versions |= {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    scale = 100 if quick else 1
    ours(*rows(2_000, FEATURES // scale))  # compile
    table = [
        compare(report, 200_000 // scale, FEATURES // scale, "200k", (20,) if quick else (400,)),
        compare(report, 1_000_000 // scale, FEATURES // scale, "1m", (20,) if quick else (600,)),
    ]
    report.table(
        f"{FEATURES // scale:,} features, CPU seconds",
        ["rows", "memberwise", "objective", "scikit-learn", "objective", "iterations", "speed-up"], table,
    )  # fmt: skip
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if quick or free > 12:
        alone(report, 10_000_000 // scale, FEATURES // scale)
    else:
        print(f"10 million rows left out: {free:.0f} GB of free memory, 12 needed")
    report.finish()


if __name__ == "__main__":
    main()
