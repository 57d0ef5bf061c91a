"""What is freshness worth, and does staying fresh beat trees and retraining?

MovieTweetings and Complete Journey, counts moving with every event. Cold start on the first 80 %. Rows 80-90
% choose among the ways to stay fresh (seed 0, by log-loss), then every arm that learns is fed them in 20
slices; the stale arm never sees them. The last 10 % are replayed in 20 slices: predict, score, learn. All
numbers are of predictions made before the row was learned, over all slices. LightGBM stands on the same
columns, fitted on train, its rounds chosen on 80-90 %. The logistic regressions are fitted anew before every
slice on all rows so far, their penalty chosen on 80-90 %. GAUC is left out: it cannot compare models whose
member features are refreshed at different rates (docs/time.md).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from _fresh import Cold, Log, incremental, mean_seconds, stacked
from _harness import Report, Target, quick_asked
from memberwise import metrics
from memberwise.fresh.replay import Replay, Stale, Updated, replay
from memberwise.metrics.intervals import paired_bootstrap
from memberwise.ranking.baselines import one_hot
from memberwise.ranking.effects import EffectsConfig
from memberwise.ranking.incremental import IncrementalConfig
from memberwise.recommender.parts import Fitting, Part
from memberwise.recommender.parts.exploration import ExplorationConfig, ExplorationPart

SEEDS = (0, 1, 2)
SLICES = 20
STALE, FRESH, TREES = "stale ranker", "everything on", "LightGBM, fresh counts"
ON_COUNTS, ON_IDS = "logistic on counts, retrained", "logistic on ids, retrained"
FRESH_AUC = 0.785
FIXED = {"movietweetings": (0.7806, 0.5627), "completejourney": (0.9220, 0.2677)}
"""AUC and log-loss of LightGBM on fully fresh counts, measured once on these splits."""

Parts = dict[str, Part]
WAYS: dict[str, dict[str, Any]] = {
    "effects": {"effects": {}},
    "ranker every 5, effects": {"every": 5, "effects": {}},
    "effects and last layer": {"effects": {}, "exploration": True},
    "effects and last layer, half-life 7d": {"effects": {}, "exploration": True, "half_life": "7d"},
    "ranker every 5, effects, last layer": {"every": 5, "effects": {}, "exploration": True},
}
"""Ways to stay fresh, of which rows 80-90 % choose one."""


def targets(log: str) -> list[Target]:
    """The claims on one log."""
    auc, loss = FIXED[log]
    found = [
        Target(f"{log} auc", auc, f"{log}: AUC above the fixed LightGBM's"),
        Target(f"{log} log-loss", loss, f"{log}: log-loss below the fixed LightGBM's", at_most=True),
    ]
    for rival in (TREES, ON_COUNTS, ON_IDS):
        found.append(Target(f"{log} auc against {rival}", 0.0, f"{log}: AUC above {rival}"))
        found.append(
            Target(f"{log} log-loss against {rival}", 0.0, f"{log}: log-loss below {rival}", at_most=True)
        )
    if log == "movietweetings":
        found.append(Target(f"{log} auc ", FRESH_AUC, f"{log}: AUC of at least {FRESH_AUC}"))
    else:
        for rival in (TREES, ON_COUNTS, ON_IDS):
            found.append(Target(f"{log} ndcg against {rival}", 0.0, f"{log}: NDCG@10 a basket above {rival}"))
    return found


def parts(log: Log, cold: Cold, way: dict[str, Any]) -> Parts:
    """The parts of a way to stay fresh, after the cold start."""
    found: Parts = {}
    if "every" in way:
        found["incremental"] = incremental(log, cold, IncrementalConfig(every=way["every"]))
    if "effects" in way:
        found["effects"] = log.effects(cold, EffectsConfig(**way["effects"]))
    if "exploration" in way:
        settings = ExplorationConfig(half_life=way.get("half_life"))
        config = log.project.config.model_copy(update={"exploration": settings})
        fitting = Fitting(type(log.project)(config, log.project.base), log.prepared)
        fitting.ranker, fitting.parts = cold.ranker, dict(found)
        found["exploration"] = ExplorationPart.fit(fitting)
    return found


def chosen(log: Log, slices: int) -> tuple[str, list[tuple[str, float, float]]]:
    """The way with the least log-loss on rows 80-90 %, and all of them."""
    cuts = log.ground.cuts(log.train_end, log.test_start, slices)
    labels = log.labels(log.train_end, log.test_start)
    found = []
    for name, way in WAYS.items():

        def make(way: dict[str, Any] = way) -> Replay:
            cold = log.cold(0)
            return replay(
                log.ground, [Updated("way", cold.ranker, parts(log, cold, way))], cuts, measure=False
            )

        p = log.cell("choice", {"way": way, "slices": slices}, make).scores["way"][:, 0].astype(float)
        found.append((name, float(metrics.auc(labels, p)), float(metrics.log_loss(labels, p))))
    return min(found, key=lambda f: f[2])[0], found


def walk(log: Log, seed: int, way: str, slices: int) -> Replay:
    """Our arms through both tenths."""
    cold = log.cold(seed)
    cuts = log.ground.cuts(log.train_end, log.test_start, slices)
    cuts += log.ground.cuts(log.test_start, log.end, slices)[1:]
    arms = [
        Stale(STALE, cold.ranker),
        Updated("effects only", cold.ranker, parts(log, cold, WAYS["effects"])),
        Updated("ranker only", cold.ranker, parts(log, cold, {"every": 1})),
        Updated(FRESH, cold.ranker, parts(log, cold, WAYS[way])),
    ]
    return replay(log.ground, arms, cuts, quiet_until=log.test_start)


# -- rivals --------------------------------------------------------------------------------------------


def trees(log: Log) -> Replay:
    """LightGBM on all numeric columns."""
    import lightgbm

    dense = np.asarray(log.prepared.packed.arrays["dense"], np.float32)
    edges = (0, log.train_end, log.test_start, log.end)
    x = [dense[a:b] for a, b in itertools.pairwise(edges)]
    y = [log.labels(a, b) for a, b in itertools.pairwise(edges)]
    settings = {
        "objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 100,
        "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1, "verbose": -1,
        "num_threads": 1, "seed": 0,
    }  # fmt: skip
    train = lightgbm.Dataset(x[0], y[0])
    stop = lightgbm.early_stopping(50, verbose=False)
    valid = lightgbm.Dataset(x[1], y[1], reference=train)
    model = lightgbm.train(settings, train, 2000, [valid], callbacks=[stop])
    return _replay(log, TREES, np.asarray(model.predict(x[2])))


def logistic(log: Log, name: str, slices: int) -> Replay:
    """Logistic regression on all rows so far, fitted anew before every slice."""
    arrays = log.prepared.packed.arrays
    if name == ON_IDS:
        sizes = {
            f.name: log.prepared.pipeline.vocabularies[f.table].rows for f in log.prepared.pipeline.layout.ids
        }
        x: Any = one_hot({"ids": np.asarray(arrays["ids"])}, log.prepared.pipeline.layout, sizes)
        options: dict[str, Any] = {"solver": "newton-cg", "tol": 1e-3, "max_iter": 100}
        penalties: tuple[float, ...] = (0.03, 0.1, 0.3)
    else:
        x = StandardScaler().fit(arrays["dense"][: log.train_end]).transform(np.asarray(arrays["dense"]))
        options, penalties = {"solver": "newton-cholesky"}, (0.01, 0.1, 1.0)
    y = log.labels(0, log.end) > 0.5

    def fitted(last: int, penalty: float) -> Callable[[slice], np.ndarray]:
        model = LogisticRegression(C=penalty, **options).fit(x[:last], y[:last])
        return lambda rows: np.asarray(model.predict_proba(x[rows])[:, 1])

    valid = slice(log.train_end, log.test_start)
    losses = {c: metrics.log_loss(y[valid].astype(float), fitted(log.train_end, c)(valid)) for c in penalties}
    best = min(losses, key=losses.__getitem__)
    found, seconds = [], []
    for first, last in itertools.pairwise(log.ground.cuts(log.test_start, log.end, slices)):
        started = time.process_time()
        found.append(fitted(first, best)(slice(first, last)))
        seconds.append(time.process_time() - started)
    return _replay(log, name, np.concatenate(found), float(np.mean(seconds)))


def _replay(log: Log, name: str, scores: np.ndarray, seconds: float = 0.0) -> Replay:
    records = [{"arm": name, "slice": 0, "seconds": seconds, "bytes": 0}]
    return Replay(records, {name: scores.astype(np.float32)[:, None]}, log.test_start, log.end)


# -- the comparison ------------------------------------------------------------------------------------


def ndcg(log: Log, scores: np.ndarray) -> float:
    """Mean over baskets of NDCG@10; nan on a log without requests."""
    if "request" not in log.prepared.packed.arrays:
        return float("nan")
    rows = (log.test_start, log.end)
    return float(metrics.ndcg_at_k(log.labels(*rows), scores, log.column("request", *rows), k=10).value)


def measure(log: Log, seeds: tuple[int, ...], slices: int, report: Report) -> None:
    """The tables of one log, and the measures of the claims."""
    way, all_ways = chosen(log, slices)
    report.table(
        f"{log.name}, rows 80-90 %: ways to stay fresh (seed 0)",
        ["way", "AUC", "log-loss"],
        [[n + (" *" if n == way else ""), f"{a:.5f}", f"{b:.5f}"] for n, a, b in all_ways],
    )
    ours = [
        log.cell("value", {"seed": s, "way": way, "slices": slices}, lambda s=s: walk(log, s, way, slices))
        for s in seeds
    ]
    rivals = {
        TREES: log.cell("trees", {}, lambda: trees(log), ours=False),
        ON_COUNTS: log.cell(
            "logistic", {"on": "counts", "s": slices}, lambda: logistic(log, ON_COUNTS, slices), ours=False
        ),
        ON_IDS: log.cell(
            "logistic", {"on": "ids", "s": slices}, lambda: logistic(log, ON_IDS, slices), ours=False
        ),
    }
    labels = log.labels(log.test_start, log.end)
    members = log.column("member", log.test_start, log.end)
    arms = {name: stacked(ours, name) for name in (FRESH, "ranker only", "effects only", STALE)}
    arms |= {name: stacked([found], name) for name, found in rivals.items()}
    quality = {}
    rows = []
    for name, scores in arms.items():
        quality[name] = tuple(
            float(np.mean([f(s) for s in scores]))
            for f in (
                lambda s: metrics.auc(labels, s),
                lambda s: metrics.log_loss(labels, s),
                lambda s: ndcg(log, s),
            )
        )
        replays = rivals.get(name)
        seconds = mean_seconds(replays, name) if replays else np.mean([mean_seconds(r, name) for r in ours])
        cells = ["", ""]
        if name != FRESH:
            gap = paired_bootstrap(labels, arms[FRESH], scores, members, draws=500)
            cells = [_interval(gap["auc"]), _interval(gap["log_loss"])]
        auc, loss, gain = quality[name]
        rows.append([name, f"{auc:.4f}", f"{loss:.4f}", f"{gain:.4f}", *cells, f"{seconds:.2f}"])
    report.table(
        f"{log.name}, the last 10 % in {slices} slices, {len(seeds)} seeds; everything on: {way}",
        ["arm", "AUC", "log-loss", "NDCG@10", "fresh - arm: AUC", "log-loss", "CPU s a slice"],
        rows,
    )
    auc, loss, gain = quality[FRESH]
    report.measures |= {f"{log.name} auc": auc, f"{log.name} auc ": auc, f"{log.name} log-loss": loss}
    report.measures[f"{log.name} auc of the stale ranker"] = quality[STALE][0]
    report.measures[f"{log.name} log-loss of the stale ranker"] = quality[STALE][1]
    for rival in rivals:
        report.measures[f"{log.name} auc against {rival}"] = auc - quality[rival][0]
        report.measures[f"{log.name} log-loss against {rival}"] = loss - quality[rival][1]
        if not np.isnan(gain):
            report.measures[f"{log.name} ndcg against {rival}"] = gain - quality[rival][2]


def _interval(found: Any) -> str:
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def main() -> None:
    """Run both logs."""
    quick = quick_asked(str(__doc__))
    logs = ("movietweetings",) if quick else ("completejourney", "movietweetings")
    report = Report("freshness_value", [t for log in logs for t in targets(log)])
    report.versions |= {p: version(p) for p in ("torch", "numpy", "scikit-learn", "lightgbm")}
    for name in logs:
        log = Log(name, "none", 0.1 if quick else 1.0)
        measure(log, SEEDS[: 1 if quick else None], 4 if quick else SLICES, report)
    report.finish()


if __name__ == "__main__":
    main()
