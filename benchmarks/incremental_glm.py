"""Learning slice by slice against refitting on everything: through time, without drift, and with it.

``.venv/bin/python benchmarks/incremental_glm.py`` takes about four minutes here. Every arm predicts a slice
before it learns it. MovieTweetings (rating of at least 8, 50 slices by time) is a regression on 27,000
one-hot members, films and genres with a diagonal posterior; a9a (50 slices in a seeded order, no drift) one
on 123 features with a full one. VW, river and SGD see the same rows, their step chosen on the second fifth
of the stream; so is our forgetting factor. Losses are of the last three fifths.

Time alone is not drift: ``movietweetings_decay_gap`` is what the best refit with decaying weights gains on
the plain refit, and where that is nothing there is nothing for forgetting to win. So the third stream drifts
by construction: a9a's rows, with labels drawn from a logistic model whose coefficients walk.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse
from scipy.special import expit
from sklearn.datasets import load_svmlight_file
from sklearn.linear_model import SGDClassifier

import _bayes_peers
from _harness import ROOT, Report, Target, Worker, quick_asked
from memberwise.bayes import BayesianLogisticRegression

DATA = Path(os.environ.get("MEMBERWISE_DATA", ROOT / "data"))
SLICES, WARM = 50, 10
TARGETS = (
    Target("a9a_speedup_last", 20, "a9a: a step costs at least 20x less than the refit by the last step"),
    Target("movietweetings_speedup_last", 20, "MovieTweetings: at least 20x less by the last step"),
    Target("a9a_gap", 0.002, "without drift, log-loss within 0.002 of the refit", at_most=True),
    Target("movietweetings_gap", 0.0, "with drift, log-loss better than the refit's", at_most=True),
    Target("drifting_gap", 0.0, "coefficients that walk: log-loss better than the refit's", at_most=True),
    Target("a9a_gap_best_online", 0.0, "a9a: no worse than the best of VW, river and SGD", at_most=True),
    Target("movietweetings_gap_best_online", 0.0, "MovieTweetings: no worse than the best", at_most=True),
    Target("drifting_gap_best_online", 0.0, "coefficients that walk: no worse than the best", at_most=True),
)  # fmt: skip
WALK = 0.15  # standard deviation of a coefficient's step, a slice
DECAYS = (0.99, 0.97)
RATES = {"vowpal_wabbit": (0.05, 0.2, 0.5, 1.0), "river": (0.02, 0.05, 0.1, 0.3), "sgd": (1e-5, 1e-4, 1e-3)}


def a9a() -> tuple[np.ndarray, np.ndarray]:
    """Return the training part of UCI Adult in a seeded order."""
    X, y = load_svmlight_file(str(DATA / "a9a" / "a9a.libsvm.gz"), n_features=123)
    order = np.random.default_rng(0).permutation(y.size)
    return X.toarray()[order], (y[order] > 0).astype(int)


def movietweetings() -> tuple[pl.DataFrame, np.ndarray]:
    """Return members, films, genres and age of every rating in the order of time, and the labels."""
    folder = DATA / "movietweetings"
    ratings = pl.read_parquet(folder / "ratings.parquet").sort("timestamp", maintain_order=True)
    films = pl.read_parquet(folder / "movies.parquet").select("movie_id", "year", "genres")
    if films["genres"].dtype == pl.String:
        films = films.with_columns(pl.col("genres").fill_null("").str.split("|"))
    names = [g for g in films["genres"].explode().drop_nulls().unique().sort() if g]
    table = ratings.join(films, on="movie_id", how="left", maintain_order="left")
    year = pl.col("year").cast(pl.Float64).fill_null(2000)
    has = pl.col("genres").list
    flags = [has.contains(g).fill_null(False).cast(pl.Float64).alias(f"genre {g}") for g in names]
    table = table.with_columns(((2013 - year) / 20).clip(0, 5).alias("age"), *flags)
    y = (table["rating"] >= 8).to_numpy().astype(int)
    frame = table.select(
        pl.col("user_id").cast(pl.String).alias("member"), pl.col("movie_id").cast(pl.String).alias("film"),
        "age", *(f"genre {g}" for g in names),
    )  # fmt: skip
    return frame, y


def cut(n: int, slices: int) -> list[slice]:
    """Return equal consecutive slices of n rows."""
    ends = np.linspace(0, n, slices + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


class Arm:
    """Losses and CPU seconds of one way to learn, slice by slice."""

    def __init__(self, losses: list[float], seconds: list[float]) -> None:
        self.losses, self.seconds = losses, seconds

    def tail(self) -> float:
        """Mean loss of the last three fifths."""
        return float(np.mean(self.losses[2 * len(self.losses) // 5 :]))

    def tuning(self) -> float:
        """Mean loss of the second fifth."""
        fifth = len(self.losses) // 5
        return float(np.mean(self.losses[fifth : 2 * fifth]))


def run(model: object, X: object, y: np.ndarray, parts: list[slice], first: int, refit: bool) -> Arm:
    """Fit on the first slices, then predict and learn each slice that follows."""
    losses, seconds = [], []
    head = slice(0, parts[first - 1].stop)
    model.fit(X[head], y[head])  # type: ignore[attr-defined]
    for part in parts[first:]:
        losses.append(_bayes_peers.log_loss(model.predict_proba(X[part])[:, 1], y[part]))  # type: ignore[attr-defined]
        start = time.process_time()
        if refit:
            model.fit(X[: part.stop], y[: part.stop])  # type: ignore[attr-defined]
        else:
            model.partial_fit(X[part], y[part])  # type: ignore[attr-defined]
        seconds.append(time.process_time() - start)
    return Arm(losses, seconds)


def online(rows: scipy.sparse.csr_array, y: np.ndarray, parts: list[slice], first: int) -> dict[str, Arm]:
    """Return VW, river and SGD at the step that was best on the second fifth."""
    arms: dict[str, list[Arm]] = {name: [] for name in RATES}
    with tempfile.TemporaryDirectory() as folder, Worker("_bayes_peers.py", _bayes_peers.python()) as worker:
        path = Path(folder) / "rows.npz"
        ends = np.array([part.stop for part in parts])
        np.savez(path, indptr=rows.indptr, indices=rows.indices, y=y, ends=ends)
        for name in ("vowpal_wabbit", "river"):
            for rate in RATES[name]:
                arms[name].append(Arm(worker.call(name, path=str(path), rate=rate).result[first:], []))
    for rate in RATES["sgd"]:
        model = SGDClassifier(
            loss="log_loss", alpha=rate, learning_rate="optimal", average=True, random_state=0
        )
        losses = []
        for k, part in enumerate(parts):
            if k >= first:
                losses.append(_bayes_peers.log_loss(model.predict_proba(rows[part])[:, 1], y[part]))
            model.partial_fit(rows[part], y[part], classes=[0, 1])
        arms["sgd"].append(Arm(losses, []))
    return {name: min(tried, key=Arm.tuning) for name, tried in arms.items()}


def conclude(report: Report, name: str, refit: Arm, tried: dict[str, Arm], peers: dict[str, Arm]) -> None:
    """Choose our forgetting factor, fill the table and the measures."""
    best = min(tried, key=lambda key: tried[key].tuning())
    own = tried[best]
    last = slice(-5, None)
    ratio = float(np.median(refit.seconds[last]) / np.median(own.seconds[last]))
    rows = [("refit on everything", refit.tail(), float(np.median(refit.seconds[last])))]
    rows += [(f"memberwise, {key}{' (chosen)' if key == best else ''}", arm.tail(),
              float(np.median(arm.seconds[last]))) for key, arm in tried.items()]  # fmt: skip
    rows += [(key, arm.tail(), float("nan")) for key, arm in peers.items()]
    report.table(f"{name}: log-loss of the last three fifths", ["", "log-loss", "CPU s, last steps"], rows)
    online_best = min(arm.tail() for arm in peers.values())
    report.measures |= {
        f"{name}_speedup_last": ratio, f"{name}_gap": own.tail() - refit.tail(),
        f"{name}_gap_best_online": own.tail() - online_best, f"{name}_log_loss": own.tail(),
    }  # fmt: skip


def adult(report: Report, slices: int, rows: int) -> None:
    """The stream without drift."""
    X, y = a9a()
    X, y = X[:rows], y[:rows]
    parts = cut(y.size, slices)
    first = max(1, slices // WARM)
    refit = run(BayesianLogisticRegression(), X, y, parts, first, refit=True)
    tried = {
        f"delta {delta:g}": run(BayesianLogisticRegression(forgetting=delta), X, y, parts, first, refit=False)
        for delta in (1.0, 0.98)
    }
    conclude(report, "a9a", refit, tried, online(scipy.sparse.csr_array(X), y, parts, first))


def drifting(report: Report, slices: int, rows: int) -> None:
    """The stream whose coefficients walk."""
    X, y = a9a()
    X, y = X[:rows], y[:rows]
    parts = cut(y.size, slices)
    first = max(1, slices // WARM)
    start = BayesianLogisticRegression().fit(X, y)
    rng = np.random.default_rng(1)
    w, intercept, labels = start.coef_[0].copy(), float(start.intercept_[0]), np.empty_like(y)
    for part in parts:
        labels[part] = rng.random(part.stop - part.start) < expit(X[part] @ w + intercept)
        w += WALK * rng.standard_normal(w.size)
    refit = run(BayesianLogisticRegression(), X, labels, parts, first, refit=True)
    tried = {
        f"delta {d:g}": run(BayesianLogisticRegression(forgetting=d), X, labels, parts, first, refit=False)
        for d in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    }
    conclude(report, "drifting", refit, tried, online(scipy.sparse.csr_array(X), labels, parts, first))


def decayed(X: scipy.sparse.csr_array, y: np.ndarray, parts: list[slice], decay: float) -> float:
    """Loss of refits in which a slice of age k weighs decay^k, over every third of the last slices."""
    age = np.concatenate([np.full(part.stop - part.start, k) for k, part in enumerate(parts)])
    losses = []
    for k in range(2 * len(parts) // 5, len(parts), 3):
        past = slice(0, parts[k].start)
        model = BayesianLogisticRegression()
        model.fit(X[past], y[past], sample_weight=decay ** (k - 1 - age[past]))
        losses.append(_bayes_peers.log_loss(model.predict_proba(X[parts[k]])[:, 1], y[parts[k]]))
    return float(np.mean(losses))


def films(report: Report, slices: int, rows: int) -> None:
    """The stream through time."""
    X, y = movietweetings()
    X, y = X[:rows], y[:rows]
    parts = cut(y.size, slices)
    first = max(1, slices // WARM)

    columns = [scipy.sparse.csr_array(X.drop("member", "film").to_numpy() > 0).astype(float)]
    columns += [_one_hot(X[name]) for name in ("member", "film")]
    wide = scipy.sparse.csr_array(scipy.sparse.hstack(columns, format="csr"))
    wide.indptr, wide.indices = wide.indptr.astype(np.int32), wide.indices.astype(np.int32)
    refit = run(BayesianLogisticRegression(), wide, y, parts, first, refit=True)
    tried = {}
    for delta in (1.0, 0.995, 0.98):
        model = BayesianLogisticRegression(forgetting=delta, variance_probes=3)
        tried[f"delta {delta:g}"] = run(model, wide, y, parts, first, refit=False)
    conclude(report, "movietweetings", refit, tried, online(wide, y, parts, first))
    plain = decayed(wide, y, parts, 1.0)
    report.measures["movietweetings_decay_gap"] = min(decayed(wide, y, parts, d) for d in DECAYS) - plain


def _one_hot(ids: pl.Series) -> scipy.sparse.csr_array:
    codes = ids.rank("dense").to_numpy().astype(int) - 1
    return scipy.sparse.csr_array((np.ones(codes.size), (np.arange(codes.size), codes)))


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("Incremental logistic regression")
    report = Report("incremental_glm", TARGETS)
    report.versions |= {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is missing; MEMBERWISE_DATA names the folder with a9a/ and movietweetings/")
    slices, rows = (10, 3_000) if quick else (SLICES, 10**9)
    adult(report, slices, rows)
    drifting(report, slices, rows)
    films(report, slices, rows)
    report.finish()


if __name__ == "__main__":
    main()
