"""Random effects: a batched Newton method against loops, a stream against lambda-learner, a million entities.

``.venv/bin/python benchmarks/mixed_effects_speed.py`` takes about four minutes here. One thread, CPU
seconds, calls interleaved. scikit-learn has neither offsets nor a prior mean, so its loop solves a slightly
easier problem; its time is scaled from a sample of the entities.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import _bayes_peers
from _harness import Report, Target, Worker, quick_asked
from memberwise.bayes import MixedEffectsLogisticRegression, RandomEffect

TARGETS = (
    Target("speedup_sklearn", 100, "at least 100x a loop of scikit-learn fits at equal log-loss"),
    Target("speedup_lambda_learner", 50, "at least 50x lambda-learner at equal log-loss"),
    Target("log_loss_gap", 1e-3, "log-loss of the stream within 1e-3 of lambda-learner's", at_most=True),
    Target("entities_per_second", 60_000, "60,000 entities/s, 20 rows x 20 features, covariance included"),
    Target("million_gb", 1.5, "a million entities in 1.5 GB of memory beside the mapped files", at_most=True),
)  # fmt: skip


def block(entities: int, rows: int, features: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return design, labels and ids of many small logistic regressions."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(0.0, 0.5, (entities, features))
    ids = np.repeat(np.arange(entities), rows)
    Z = rng.standard_normal((ids.size, features))
    eta = np.einsum("ij,ij->i", Z, effect[ids])
    return Z, (rng.random(ids.size) < 1 / (1 + np.exp(-eta))).astype(int), ids


def model(**arguments: object) -> MixedEffectsLogisticRegression:
    """Return a model of one block whose fixed effect stays at zero."""
    effect = RandomEffect(name="e", intercept=False, learn_variance=False)
    return MixedEffectsLogisticRegression([effect], fit_intercept=False, **arguments)


def learn(m: MixedEffectsLogisticRegression, Z: np.ndarray, y: np.ndarray, ids: np.ndarray) -> float:
    """Absorb one batch into the block and return the CPU seconds."""
    X = np.zeros((y.size, 1))
    start = time.process_time()
    m.partial_fit(X, y, groups={"e": ids}, designs={"e": Z}, frozen=["fixed"], classes=[0, 1])
    return time.process_time() - start


def throughput(report: Report, entities: int, sample: int) -> None:
    """Compare with a loop of scikit-learn fits, turn by turn."""
    Z, y, ids = block(entities, 20, 20, 0)
    learn(model(), Z[:400], y[:400], ids[:400])
    ours, peers, kernel = [], [], []
    per = sample // 3
    for turn in range(3):
        m = model()
        ours.append(learn(m, Z, y, ids))
        kernel.append(solve_alone(m, Z, y, ids))
        start = time.process_time()
        for e in range(turn * per, (turn + 1) * per):
            rows = slice(20 * e, 20 * e + 20)
            if 0 < y[rows].sum() < 20:
                LogisticRegression(C=1.0, fit_intercept=False).fit(Z[rows], y[rows])
        peers.append((time.process_time() - start) / per * entities)
    own, peer, inner = min(ours), min(peers), min(kernel)
    report.measures |= {
        "speedup_sklearn": peer / own, "entities_per_second": entities / inner,
        "entities_per_second_end_to_end": entities / own,
    }  # fmt: skip
    report.table(
        f"{entities:,} entities, 20 rows x 20 features", ["", "CPU seconds", "entities a second"],
        [("memberwise, partial_fit from rows to stored posteriors", own, entities / own),
         ("  of which solving, posterior covariances included", inner, entities / inner),
         ("loop of scikit-learn", peer, entities / peer)],
    )  # fmt: skip


def solve_alone(m: MixedEffectsLogisticRegression, Z: np.ndarray, y: np.ndarray, ids: np.ndarray) -> float:
    """Time the solve of all entities from the prior, without grouping and storing."""
    state = model()
    learn(state, Z[:20], y[:20], ids[:20])
    plan = state._plans(np.zeros((y.size, 1)), y.size, {"e": ids}, {"e": Z})["e"]
    block_state, ones, zeros = state.states_["e"], np.ones(y.size), np.zeros(y.size)
    means = np.zeros(plan.coef_ptr[-1])
    start = time.process_time()
    block_state.solve(plan, y.astype(float), ones, zeros, means, step=None, tol=m.tol, max_iter=m.max_iter)
    return time.process_time() - start


def stream(report: Report, entities: int, batches: int) -> None:
    """Learn 500 entities, 9 coefficients, 8 rows a batch, and compare with lambda-learner."""
    rng = np.random.default_rng(1)
    fixed, own = rng.standard_normal(9), rng.standard_normal((entities, 9))
    ids = np.tile(np.repeat(np.arange(entities), 8), batches)
    Z = np.column_stack([np.ones(ids.size), rng.standard_normal((ids.size, 8))])
    y = (rng.random(ids.size) < 1 / (1 + np.exp(-(Z @ fixed + (Z * own[ids]).sum(axis=1))))).astype(int)
    batch = np.repeat(np.arange(batches), entities * 8)
    # the fixed effect is fitted on the first batch, for both
    offset = Z @ LogisticRegression(fit_intercept=False).fit(Z[batch == 0], y[batch == 0]).coef_[0]
    m, used, losses = model(), 0.0, []
    learn(model(), Z[:80], y[:80], ids[:80])
    for step in range(batches):
        rows = batch == step
        given = {"groups": {"e": ids[rows]}, "designs": {"e": Z[rows]}, "offset": offset[rows]}
        X = np.zeros((rows.sum(), 1))
        p = m.predict_proba(X, **given)[:, 1] if step else 1 / (1 + np.exp(-offset[rows]))
        losses.append(_bayes_peers.log_loss(p, y[rows]))
        start = time.process_time()
        m.partial_fit(X, y[rows], classes=[0, 1], frozen=["fixed"], **given)
        used += time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.npz"
        np.savez(path, Z=Z, y=y, entity=ids, offset=offset, batch=batch)
        with Worker("_bayes_peers.py", _bayes_peers.python()) as worker:
            reply = worker.call("lambda_learner", path=str(path), delta=1.0).result
    report.measures |= {
        "speedup_lambda_learner": reply["seconds"] / used,
        "log_loss_gap": abs(float(np.mean(losses)) - float(np.mean(reply["losses"]))),
        "log_loss": float(np.mean(losses)),
    }
    report.table(
        f"stream of {entities} entities, {batches} batches", ["", "mean log-loss", "last", "rows a second"],
        [("memberwise", float(np.mean(losses)), losses[-1], y.size / used),
         ("lambda-learner, full Hessian", float(np.mean(reply["losses"])), reply["losses"][-1],
          y.size / reply["seconds"])],
    )  # fmt: skip


def million(report: Report, entities: int, chunk: int) -> None:
    """Learn a million entities from chunks into memory-mapped files."""
    with tempfile.TemporaryDirectory() as folder:
        m, used, peak = model(directory=folder), 0.0, 0.0
        for first in range(0, entities, chunk):
            Z, y, ids = block(chunk, 20, 20, first + 1)
            used += learn(m, Z, y, ids + first)
            peak = max(peak, anonymous_gb())
        size = sum(f.stat().st_blocks * 512 for f in Path(folder).rglob("*.bin")) / 1e9
    report.measures |= {"million_gb": peak, "million_seconds": used, "million_files_gb": size}
    report.table(
        f"{entities:,} entities in chunks of {chunk:,}", ["CPU seconds", "memory GB", "mapped files GB"],
        [(used, peak, size)],
    )  # fmt: skip


def anonymous_gb() -> float:
    """Memory of this process that is not a mapped file."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) * 1024 / 1e9


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("Random effects: speed")
    report = Report("mixed_effects_speed", TARGETS)
    report.versions |= {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    million(report, *(4_000, 2_000) if quick else (1_000_000, 25_000))
    throughput(report, *(1_000, 30) if quick else (100_000, 900))
    stream(report, *(20, 3) if quick else (500, 6))
    report.finish()


if __name__ == "__main__":
    main()
