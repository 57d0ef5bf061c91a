"""Sparse normal means: squared error and speed of `SparseMeans` against five kinds of estimator.

``.venv/bin/python benchmarks/sparse_means.py`` takes about five minutes. Every estimator sees the same draws.
The NPMLE is this package's own (certified optimal on its grid); "ash" is a unimodal scale mixture of normals
around zero fitted by EM, the method of the R package of that name; the oracle
thresholds are chosen with the truth: no estimator, shown for scale only.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from _harness import Report, Target, quick_asked
from memberwise.bayes import SparseMeans

FEW = ((5, 5), (50, 3), (50, 4), (50, 5), (50, 7), (500, 3), (500, 4), (500, 5), (500, "+4/-3"))
MANY = ((500, "N(0,16)"), (500, "U(-6,6)"))
RIVALS = ("npmle", "ash", "soft, universal", "hard, universal")
TARGETS = (
    Target(
        "few_atoms_worst_ratio", 1.0,
        "with few atoms, squared error at or below NPMLE, ash and thresholds in every cell", at_most=True,
    ),
    Target(
        "continuous_worst_ratio", 1.03, "elsewhere at most 3 % above the NPMLE", at_most=True,
    ),
    Target("million_seconds", 1.0, "10^6 observations, fit and posterior means, in under 1 s", at_most=True),
    Target("speedup_bgm", 300, "at least 300x scikit-learn's BayesianGaussianMixture"),
)  # fmt: skip


def truth(signals: int, size: int | str, p: int, rng: np.random.Generator) -> np.ndarray:
    """Return the means of one design."""
    theta = np.zeros(p)
    if size == "+4/-3":
        theta[: signals // 2], theta[signals // 2 : signals] = 4.0, -3.0
    elif size == "N(0,16)":
        theta[:signals] = rng.normal(0.0, 4.0, signals)
    elif size == "U(-6,6)":
        theta[:signals] = rng.uniform(-6.0, 6.0, signals)
    else:
        theta[:signals] = float(size)
    return theta


def soft(x: np.ndarray, t: float) -> np.ndarray:
    """Soft thresholding."""
    return np.sign(x) * np.maximum(np.abs(x) - t, 0.0)


def hard(x: np.ndarray, t: float) -> np.ndarray:
    """Hard thresholding."""
    return np.where(np.abs(x) > t, x, 0.0)


def ash(x: np.ndarray) -> np.ndarray:
    """Posterior means under a scale mixture of normals at zero, weights by EM."""
    variances = np.append(0.0, (0.1 * np.sqrt(2.0) ** np.arange(16)) ** 2)
    total = 1.0 + variances
    density = np.exp(-0.5 * x[:, None] ** 2 / total) / np.sqrt(total)
    weights = np.full(variances.size, 1.0 / variances.size)
    for _ in range(300):
        share = density * weights
        share /= share.sum(axis=1, keepdims=True)
        weights = share.mean(axis=0)
    return x * (share @ (variances / total))


def estimates(x: np.ndarray, theta: np.ndarray) -> dict[str, float]:
    """Return the squared error of every estimator on one draw."""
    universal = np.sqrt(2.0 * np.log(x.size))
    levels = np.linspace(0.5, 6.0, 56)

    def error(found: np.ndarray) -> float:
        return float(((found - theta) ** 2).sum())

    return {
        "memberwise": error(SparseMeans().fit(x).posterior_mean(x)),
        "npmle": error(SparseMeans(method="npmle").fit(x).posterior_mean(x)),
        "ash": error(ash(x)),
        "soft, universal": error(soft(x, universal)),
        "hard, universal": error(hard(x, universal)),
        "soft, oracle": min(error(soft(x, t)) for t in levels),
        "hard, oracle": min(error(hard(x, t)) for t in levels),
    }


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the smallest CPU time of a call."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def accuracy(report: Report, p: int, replicates: int) -> None:
    """Fill the table of errors."""
    rows, names = [], None
    worst = {"few_atoms_worst_ratio": 0.0, "continuous_worst_ratio": 0.0}
    for cell in (*FEW, *MANY):
        draws = []
        for seed in range(replicates):
            rng = np.random.default_rng([seed, cell[0]])
            theta = truth(*cell, p, rng)
            draws.append(estimates(theta + rng.standard_normal(p), theta))
        names = list(draws[0])
        means = {name: float(np.mean([d[name] for d in draws])) for name in names}
        if cell in FEW:
            key, others = "few_atoms_worst_ratio", min(means[name] for name in RIVALS)
        else:
            key, others = "continuous_worst_ratio", means["npmle"]
        ratio = means["memberwise"] / others
        worst[key] = max(worst[key], ratio)
        rows.append((f"{cell[0]} x {cell[1]}", *means.values(), ratio))
    report.measures |= worst
    report.table(
        f"squared error, p = {p:,}, mean of {replicates} draws", ["signals", *(names or ()), "ratio"], rows
    )


def speed(report: Report, p: int) -> None:
    """Fill the measures of time."""
    rng = np.random.default_rng(0)
    theta = truth(p // 20, 4, p, rng)
    x = theta + rng.standard_normal(p)
    SparseMeans().fit(x)

    def ours() -> None:
        SparseMeans().fit(x).posterior_mean(x)

    own = seconds(ours, 3)
    part = x[: max(2000, p // 50)]
    mixture = BayesianGaussianMixture(n_components=10, max_iter=1000, covariance_type="full", tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = seconds(lambda: mixture.fit(part[:, None]), 1) * (p / part.size)
    noise = rng.uniform(0.5, 2.0, p)
    unequal = seconds(lambda: SparseMeans(n_restarts=0).fit(theta + noise * (x - theta), noise), 1)
    report.measures |= {
        "million_seconds": own, "speedup_bgm": peer / own, "bgm_seconds": peer,
        "unequal_noise_seconds": unequal,
    }  # fmt: skip
    report.table(
        f"CPU seconds, p = {p:,}", ["", "seconds"],
        [("memberwise, fit and means", own), ("memberwise, unequal noise", unequal),
         ("BayesianGaussianMixture, to its own tolerance, scaled from a fiftieth", peer)],
    )  # fmt: skip
    model = SparseMeans().fit(x)
    rival = SparseMeans(method="npmle").fit(x)
    errors = [float(((m.posterior_mean(x) - theta) ** 2).mean()) for m in (model, rival)]
    report.measures |= {"million_mse": errors[0], "million_mse_npmle": errors[1]}


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("Sparse normal means")
    report = Report("sparse_means", TARGETS)
    report.versions |= {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    accuracy(report, 2_000 if quick else 10_000, 2 if quick else 8)
    speed(report, 50_000 if quick else 1_000_000)
    report.finish()


if __name__ == "__main__":
    main()
