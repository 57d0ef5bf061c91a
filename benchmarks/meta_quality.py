"""What meta learning adds, at equal freshness, against every honest alternative; five seeds with intervals.

Logs: MovieTweetings (bundled), MovieLens-100k (from the wheel of recbole, downloaded once), and an eighth of
the households of Complete Journey with popularity-weighted negatives. Split by time, 80 : 10 : 10.
Everything that moves (aggregates, ids, embeddings) is refreshed daily; in MovieLens, whose members rate for
minutes and are gone, before every row. The ranker is the same everywhere (embeddings of 8, cross of rank 32,
MLP 64-32).

========================  =================================================================================
global                    items, genres and the like, their aggregates, the clock: nothing of the member
+ ids                     an embedding and a weight per member, learned with the rest: wide and deep
+ ids, refreshed          their rows go on learning every day with all else frozen; rate chosen on valid
+ aggregates              the member's own rates, counts and recency, with and without decay
+ aggregates, history     and the mean of its last 20 items
K = 0                     global, with a block from member aggregates and history, trained but not adapted
fine-tuned                the same block, which takes K steps at test; their size chosen on valid
LiMAML, FOMAML, CAVIA     the block trained through its K steps: second order, first order, z alone
+ all, LiMAML             the member's aggregates and history in the ranker as well
LiMAML, member x column   an embedding of each pair; on groceries, whose households buy the same again
+ pair ids, + pair counts  the rivals of that: wide and deep ids of member and pair; all aggregates, history,
                          and those of the pair
========================  =================================================================================

GAUC is compared between models whose member features are refreshed equally often, and so never with
``global`` or frozen ids: a member's running rate falls behind the labels that are left (docs/meta.md).

A synthetic world with latent tastes says how much of the gap to an oracle is closed. Cells are cached below
``.cache/meta_quality`` and resumed. ``--quick`` is a smoke run; its numbers mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import _meta_cells
import _meta_synthetic
from _harness import Report, Target, quick_asked
from _meta_logs import CACHE, RANKER, Log, load
from memberwise import metrics

LOGS = ("movietweetings", "movielens", "completejourney")
SEEDS, DRAWS, WORLDS = 5, 1000, 5
RECIPE = 6  # raise it when a model changes, so that older cells are computed again
BUCKETS = ((0, 0), (1, 2), (3, 10), (11, 50), (51, 10**9))
MODELS = (
    "global", "+ ids", "+ ids, refreshed", "+ aggregates", "+ aggregates, history", "K = 0",
    "fine-tuned", "LiMAML", "FOMAML", "CAVIA", "+ all, LiMAML",
)  # fmt: skip
SHOWN = "+ ids", "+ ids, refreshed", "+ aggregates, history", "K = 0", "LiMAML", "+ all, LiMAML"
"""Models in the tables by bucket."""
FRESH = MODELS[2:]
"""Models whose member features are refreshed equally often."""
PAIRS = {"completejourney": {"product_category": "category", "product_id": "product"}}
"""Columns that members are paired with; valid chooses the one whose LiMAML the claims are about."""
TARGETS = (
    *(
        Target(
            f"{k}: over ids, low",
            0,
            f"{k}: LiMAML{' of pairs' if k in PAIRS else ''} over wide-and-deep ids of members, AUC, low end",
        )
        for k in LOGS
    ),
    *(
        Target(f"{k}: LiMAML over + ids, low", 0, f"{k}: LiMAML of members over the same ids, AUC, low end")
        for k in PAIRS
    ),
    *(Target(f"{k}: over ids at 1-10, low", 0, f"{k}: the same at supports of 1 to 10 rows") for k in LOGS),
    *(Target(f"{k}: at 0 over ids, high", 0, f"{k}: not worse at support 0, high end") for k in LOGS),
    Target(
        "synthetic: gap closed at 20",
        0.8,
        "latent tastes: share of the oracle's gap closed at 20 rows, mean over worlds",
    ),
    Target("synthetic: gap closed at 0", -0.02, "latent tastes: no harm at support 0, mean over worlds"),
)


def main() -> None:
    """Compute the cells that are missing, then compare."""
    quick = quick_asked(__doc__ or "")
    logs = LOGS[:1] if quick else LOGS
    seen = (*logs, "synthetic")
    report = Report("meta_quality", [t for t in TARGETS if t.measure.split(":")[0] in seen])
    report.versions |= {"torch": torch.__version__, "numpy": np.__version__}
    torch.set_num_threads(1)
    for name in logs:
        log = load(name, quick)
        cells = [cell(log, seed, quick) for seed in range(2 if quick else SEEDS)]
        scores = {m: np.stack([c[m] for c in cells]) for m in cells[0]}
        of = Claim("LiMAML", sizes(log))
        if name in PAIRS:
            of = pairs(log, scores, quick)
        compare(report, log, scores, of, 50 if quick else DRAWS)
    synthetic(report, quick)
    report.finish()


def cell(log: Log, seed: int, quick: bool) -> dict[str, npt.NDArray[np.float32]]:
    """Scores of all models for one seed, from the cache if they are there."""
    budget = _meta_cells.Budget(2, 1, 1024) if quick else _meta_cells.Budget()
    parts = _identity(log, seed, budget)
    found = _cached(log, seed, parts, lambda: _meta_cells.run(log, seed, budget, _say))
    refreshed = [*parts, "refreshed", _meta_cells.REFRESH_RATES]
    return found | _cached(log, seed, refreshed, lambda: _meta_cells.run_refreshed(log, seed, budget))


@dataclass(frozen=True)
class Claim:
    """The model that the claims about a log are about, and the support behind each test row.

    Attributes
    ----------
    rivals
        Further models to show beside it.
    """

    model: str
    support: npt.NDArray[np.int64]
    rivals: tuple[str, ...] = ()


def pairs(log: Log, scores: dict[str, npt.NDArray[np.float32]], quick: bool) -> Claim:
    """Add the models of pairs to the scores; the claims are about the pair that is best on valid."""
    losses, claims = {}, {}
    for column, short in PAIRS[log.name].items():
        other = load(log.name, quick, column)
        cells = [_pair_cell(other, column, seed, quick) for seed in range(2 if quick else SEEDS)]
        name = f"member x {short}"
        kinds = {
            "ids": f"+ pair ids, {name}", "counts": f"+ pair counts, {name}", "K = 0": f"K = 0, {name}",
            "LiMAML": f"LiMAML, {name}",
        }  # fmt: skip
        scores |= {full: np.stack([c[kind] for c in cells]) for kind, full in kinds.items()}
        losses[column] = float(np.mean([c["valid"] for c in cells]))
        rivals = tuple(full for kind, full in kinds.items() if kind != "LiMAML")
        claims[column] = Claim(kinds["LiMAML"], sizes(other), rivals)
        _say(f"{log.name}: {name}, log-loss on valid {losses[column]:.4f}")
    return claims[min(losses, key=losses.__getitem__)]


def _pair_cell(log: Log, column: str, seed: int, quick: bool) -> dict[str, npt.NDArray[np.float32]]:
    budget = _meta_cells.Budget(2, 1, 1024) if quick else _meta_cells.Budget()
    parts = [*_identity(log, seed, budget), "pairs", column]
    return _cached(log, seed, parts, lambda: _meta_cells.run_pairs(log, seed, budget, _say))


def _identity(log: Log, seed: int, budget: _meta_cells.Budget) -> list[Any]:
    return [
        RECIPE, log.name, len(log.keys), seed, vars(budget), RANKER, log.project.to_dict()["aggregates"],
        _meta_cells.SUPPORT, _meta_cells.STEPS, _meta_cells.HIDDEN, torch.__version__,
    ]  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _cached(log: Log, seed: int, parts: list[Any], compute: Any) -> dict[str, npt.NDArray[np.float32]]:
    name = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = CACHE / "cells" / f"{log.name}-{seed}-{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = compute()
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found)
        partial.rename(path)
    with np.load(path) as saved:
        return dict(saved)


def compare(report: Report, log: Log, scores: dict[str, Any], of: Claim, draws: int) -> None:
    """The tables of one log."""
    first, last = log.splits["test"]
    labels, members = np.asarray(log.arrays["labels"])[first:last, 0], log.keys[first:last]
    rows = []
    for model in (*MODELS, *(m for m in scores if " x " in m)):
        p = scores[model]
        each = [
            float(np.mean([f(labels, s) for s in p]))
            for f in (metrics.auc, metrics.log_loss, metrics.observed_over_expected)
        ]
        gauc = _gauc(labels, p, members) if _fresh(model) else float("nan")
        gain = difference(labels, p, scores["+ ids"], members, draws)
        rows.append(
            (
                model + (" *" if model == of.model else ""),
                each[0],
                gauc,
                each[1],
                each[2],
                *(f"{v:+.4f}" for v in gain),
            )
        )
        report.measures[f"{log.name}: {model}, AUC"] = each[0]
        report.measures[f"{log.name}: {model}, log-loss"] = each[1]
    report.table(
        f"{log.name}: {last - first:,} test rows, {len(np.unique(members)):,} members, refreshed "
        f"{'daily' if log.delay != 'none' else 'before every row'}",
        ["model", "AUC", "GAUC", "log-loss", "O/E", "AUC over ids", "low", "high"],
        rows,
    )
    ours, support = scores[of.model], of.support
    gain = difference(labels, ours, scores["+ ids"], members, draws)
    report.measures[f"{log.name}: over ids"] = gain[0]
    report.measures[f"{log.name}: over ids, low"] = gain[1]
    few = (support >= 1) & (support <= 10)
    gain = difference(labels, ours, scores["+ ids"], members, draws, few)
    report.measures[f"{log.name}: over ids at 1-10, low"] = gain[1]
    gain = difference(labels, ours, scores["+ ids"], members, draws, support == 0)
    report.measures[f"{log.name}: at 0 over ids, high"] = gain[2]
    others = ("+ ids", "+ ids, refreshed", "+ aggregates", "+ aggregates, history", "K = 0", "fine-tuned")
    for one, rivals in (("LiMAML", others), (of.model, of.rivals)):
        for other in rivals:
            gain = difference(labels, scores[one], scores[other], members, draws)
            report.measures |= {
                f"{log.name}: {one} over {other}{end}": v
                for end, v in zip(("", ", low", ", high"), gain, strict=True)
            }
    buckets(report, log, scores, of, labels, members, draws)
    ages = [(0, "LiMAML"), *((a, f"LiMAML, {a} d older") for a in _meta_cells.AGES[1:])]
    both = metrics.auc, metrics.log_loss
    report.table(
        f"{log.name}: embeddings of LiMAML that are older than need be",
        ["days", "AUC", "log-loss"],
        [(age, *(float(np.mean([f(labels, s) for s in scores[name]])) for f in both)) for age, name in ages],
    )


def buckets(
    report: Report, log: Log, scores: dict[str, Any], of: Claim, labels: Any, members: Any, draws: int
) -> None:
    """AUC, GAUC, log-loss and calibration by the number of rows that an entity has behind it."""
    rows, support = [], of.support
    models = (*SHOWN, *of.rivals, of.model) if of.rivals else SHOWN
    for low, high in BUCKETS:
        some = (support >= low) & (support <= high)
        if some.sum() < 30 or len(np.unique(labels[some])) < 2:
            continue
        name = f"{low}" if low == high else f"{low}-{high}" if high < 10**9 else f"{low}+"
        for model in models:
            p = scores[model][:, some]
            y = labels[some]
            gain = difference(labels, scores[model], scores["+ ids"], members, draws, some)
            rows.append(
                (
                    f"{name} ({some.sum():,} rows)" if model == "+ ids" else "",
                    model,
                    float(np.mean([metrics.auc(y, s) for s in p])),
                    _gauc(y, p, members[some]) if _fresh(model) else float("nan"),
                    float(np.mean([metrics.log_loss(y, s) for s in p])),
                    float(np.mean([metrics.observed_over_expected(y, s) for s in p])),
                    f"{gain[0]:+.4f} [{gain[1]:+.4f}, {gain[2]:+.4f}]",
                )
            )
    report.table(
        f"{log.name}, by rows that the {'pair' if of.rivals else 'member'} has had",
        ["rows", "model", "AUC", "GAUC", "log-loss", "O/E", "AUC over ids"],
        rows,
    )


def difference(
    labels: Any, ours: Any, other: Any, members: Any, draws: int, some: Any = slice(None)
) -> tuple[float, float, float]:
    """AUC of one over the other with its 95 % interval: members and seeds drawn together, paired."""
    found = metrics.paired_bootstrap(
        labels[some], ours[:, some], other[:, some], members[some], metrics=["auc"], draws=draws
    )["auc"]
    return found.value, found.low, found.high


def _fresh(model: str) -> bool:
    """Whether its member features are refreshed as often as those of the others."""
    return model in FRESH or (" x " in model and not model.startswith("+ pair ids"))


def _gauc(labels: Any, scores: Any, members: Any) -> float:
    """Within members, each weighing as much as it has rows; mean over seeds."""
    return float(np.mean([metrics.grouped_auc(labels, s, members).value for s in scores]))


def sizes(log: Log) -> npt.NDArray[np.int64]:
    """Rows that the member of each test row had had when its embedding was made."""
    first, last = log.splits["test"]
    tasks = _meta_cells.served(log, "test", support=10**9)
    numbers, owner = tasks.rows("query")
    out = np.empty(last - first, np.int64)
    out[numbers - first] = tasks.support_sizes[owner]
    return out


def synthetic(report: Report, quick: bool) -> None:
    """Latent tastes, in worlds and networks of several seeds."""
    worlds = [_synthetic_cell(seed, quick) for seed in range(2 if quick else WORLDS)]
    rows = []
    for size in worlds[0]:
        found = {k: np.array([w[size][k] for w in worlds]) for k in worlds[0][size]}
        closed = found["closed"]
        spread = f"{closed.std(ddof=1):.3f} ({closed.min():.3f} to {closed.max():.3f})"
        means = (float(found[k].mean()) for k in ("global", "ours", "oracle", "closed"))
        rows.append((size, *means, spread, float(found["bayes"].mean())))
        if size in (0, 20):
            report.measures[f"synthetic: gap closed at {size}"] = float(closed.mean())
            report.measures[f"synthetic: gap closed at {size}, worst world"] = float(closed.min())
    report.table(
        f"latent tastes of members never seen in training, {len(worlds)} worlds",
        [
            "support",
            "global, log-loss",
            "LiMAML",
            "oracle",
            "gap closed",
            "sd (range)",
            "Bayes rule, gap closed",
        ],
        rows,
    )


def _synthetic_cell(seed: int, quick: bool) -> dict[int, dict[str, float]]:
    code = hashlib.sha256(Path(_meta_synthetic.__file__).read_bytes()).hexdigest()[:16]
    path = CACHE / "cells" / f"synthetic-{seed}-{'quick-' if quick else ''}{code}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_meta_synthetic.run(quick, seed)))
        _say(f"latent tastes, world {seed}: {json.loads(path.read_text())['20']}")
    return {int(k): v for k, v in json.loads(path.read_text()).items()}


if __name__ == "__main__":
    main()
