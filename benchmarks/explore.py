"""Exploring where products come and go, and judging a policy from another's log.

``.venv/bin/python benchmarks/explore.py`` takes about twelve minutes here; every run of a policy is kept in
``.cache/explore`` and found again. In each of ten worlds (`_bandit_world`), 20,000 rounds follow 500 uniform
ones. Thompson sampling, greedy and epsilon-greedy choose from one and the same network and posterior
(`_explorers`); LinUCB and LinTS are mabwiser's, a regression per arm on the same profile of the household
(`_bandit_peers`). Every policy's one setting is the best of three on a further world. The estimators
compute from the arrays that obp 0.4.1 made of the Open Bandit sample: impressions of a uniform policy, by
which the Bernoulli Thompson policy that also ran is judged. What that policy earned itself is an estimate
too, of 42 to 69 clicks: both uncertainties go into the comparison. How often an interval holds the truth is
asked of 1,000 simulated logs, where the truth is known.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import stats

import _bandit_peers
import _bandit_world
import _explorers
from _harness import ROOT, Report, Target, Worker, quick_asked
from memberwise.fresh.offpolicy import FEW_REWARDS, LoggedDecisions, evaluate
from memberwise.ranking import exploration, id_intercepts

SEEDS, TUNING = range(10), (100,)
BLOCK = 100
FOLDER = ROOT / ".cache" / "explore"
CAMPAIGNS = ("all", "men", "women")
OURS = ("Thompson", "greedy", "epsilon-greedy", "Thompson, last layer only")
SETTINGS: dict[str, tuple[float, ...]] = {
    "Thompson": (1.0, 0.5, 0.25),
    "greedy": (0.0,),
    "epsilon-greedy": (0.02, 0.05, 0.1),
    "LinUCB": (0.1, 0.03, 0.01),
    "LinTS": (0.1, 0.03, 0.01),
    "Thompson, last layer only": (0.5,),
}
RIVALS = ("greedy", "epsilon-greedy", "LinUCB", "LinTS")
TARGETS = (
    *(
        Target(f"{r}_ratio", 1.0, f"less regret after 20,000 rounds than {r} (ratio of means)", at_most=True)
        for r in RIVALS
    ),
    *(
        Target(f"{r}_gap_high", 0.0, f"the 95 % interval of the difference to {r} lies below 0", at_most=True)
        for r in RIVALS
    ),
    Target("obp_difference", 1e-9, "IPS, SNIPS, DM, DR, SNDR equal obp's on its sample", at_most=True),
    Target("obp_agrees", 1.0, "no estimate differs from the on-policy rate beyond both intervals (share)"),
    Target("coverage", 0.93, f"95 % intervals hold the truth, given {FEW_REWARDS} effective rewards (share)"),
)
LOGS, DECISIONS, ITEMS, RATE = 1_000, 10_000, 80, 0.0038
"""Simulated logs, as large as one of the Open Bandit sample and with its number of items and click rate."""
EDGES = (0, 10, FEW_REWARDS, 50, 10**9)


@cache
def world(seed: int) -> _bandit_world.World:
    """A world, made once: the model behind all of them takes a while to fit."""
    code = hashlib.sha256(Path(_bandit_world.__file__).read_bytes()).hexdigest()[:12]
    path = FOLDER / f"world-{code}-{seed}.npz"
    if not path.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        _bandit_world.make(seed).save(temporary)
        temporary.replace(path)
    return _bandit_world.World.load(path)


def cell(policy: str, setting: float, seed: int, rounds: int) -> np.ndarray:
    """Regret of every round of one run, from the cache or played now."""
    files = [Path(m.__file__) for m in (_bandit_world, _explorers, id_intercepts)]
    files += sorted(Path(exploration.__file__).parent.glob("*.py"))
    code = [path.read_bytes() for path in files]
    code = code if policy in OURS else [code[0], Path(_bandit_peers.__file__).read_bytes()]
    key = hashlib.sha256(repr((policy, setting, seed, rounds, BLOCK, code)).encode()).hexdigest()[:24]
    path = FOLDER / f"{key}.npy"
    if not path.is_file():
        found = np.asarray(_play(policy, setting, seed, rounds), np.float64)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, found)
        temporary.replace(path)
    return np.load(path)


def _play(policy: str, setting: float, seed: int, rounds: int) -> np.ndarray | list[float]:
    if policy in OURS:
        kind = "thompson" if policy.startswith("Thompson") else "epsilon-greedy"
        items = policy != "Thompson, last layer only"
        return _explorers.run(world(seed), kind, setting, seed, BLOCK, rounds, items)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "world.npz"
        world(seed).save(path)
        reply = peers().call(
            "mabwiser", world=str(path), policy=policy, alpha=setting, seed=seed, block=BLOCK, rounds=rounds
        )
    regrets: list[float] = reply.result
    return regrets


@cache
def peers() -> Worker:
    """The process of the peers."""
    return Worker("_bandit_peers.py", _bandit_peers.python())


def regret(report: Report, rounds: int, seeds: range) -> None:
    """Tune every policy on one world, then play the others."""
    rows, totals = [], {}
    for policy, settings in SETTINGS.items():
        tried = {
            s: sum(float(cell(policy, s, seed, rounds).sum()) for seed in TUNING)
            if len(settings) > 1
            else 0.0
            for s in settings
        }
        best = min(tried, key=lambda s: tried[s])
        curves = np.stack([cell(policy, best, seed, rounds) for seed in seeds])
        totals[policy] = curves.sum(1)
        half = curves[:, rounds // 2 :].sum(1)
        rows.append((policy, best, totals[policy].mean(), totals[policy].std(ddof=1), half.mean()))
        print(f"{policy}: {totals[policy].mean():,.0f}", flush=True)
    report.table(
        f"Regret over {rounds:,} rounds, {len(seeds)} worlds",
        ["policy", "setting", "regret", "sd over worlds", "second half"],
        rows,
    )
    ours, gaps = totals["Thompson"], []
    for rival in RIVALS:
        gap = ours - totals[rival]
        reach = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
        report.measures |= {
            f"{rival}_ratio": float(ours.mean() / totals[rival].mean()),
            f"{rival}_gap_high": float(gap.mean() + reach),
        }
        gaps.append(
            (rival, gap.mean(), gap.mean() - reach, gap.mean() + reach, f"{(gap < 0).sum()} of {len(gap)}")
        )
    report.table(
        "Thompson minus rival, paired by world", ["rival", "difference", "low", "high", "worlds won"], gaps
    )


def open_bandit(report: Report, campaigns: tuple[str, ...], simulations: int, draws: int) -> None:
    """The estimators beside obp's on its own arrays."""
    rows, apart, agree = [], 0.0, []
    with tempfile.TemporaryDirectory() as work:
        for campaign in campaigns:
            path = Path(work) / f"{campaign}.npz"
            theirs = peers().call("obp", campaign=campaign, simulations=simulations, path=str(path)).result
            with np.load(path) as data:
                log = LoggedDecisions(
                    *(data[k] for k in ("reward", "propensity", "target", "predicted", "expected"))
                )
                truth, on_policy = float(data["truth"].mean()), len(data["truth"])
            found = evaluate(log, draws=draws)
            clicks = stats.binomtest(round(truth * on_policy), on_policy).proportion_ci(method="wilson")
            for name, value in theirs["values"].items():
                mine = found.estimates[name].value
                apart = max(apart, abs(mine.value - value))
                low, high = theirs["intervals"].get(name, (float("nan"), float("nan")))
                if name != "dm":
                    # The interval of a difference, from those of its parts (Zou and Donner, 2008).
                    gap = mine.value - truth
                    below = np.hypot(mine.value - mine.low, clicks.high - truth)
                    above = np.hypot(mine.high - mine.value, truth - clicks.low)
                    agree.append(gap - below <= 0 <= gap + above)
                rows.append(
                    (f"{campaign}: {name}", value, mine.value, f"{low:.5f} to {high:.5f}",
                     f"{mine.low:.5f} to {mine.high:.5f}", truth)
                )  # fmt: skip
            rows.append((f"{campaign}: effective", "", found.effective, "", f"of {found.decisions:,}", ""))
            rows.append((f"{campaign}: effective clicks", "", found.effective_rewards, "", "", ""))
    report.table(
        "Bernoulli Thompson from the uniform log: click rate",
        ["estimator", "obp", "memberwise", "obp's 95 %", "memberwise's 95 %", "on policy"],
        rows,
    )
    report.measures |= {"obp_difference": apart, "obp_agrees": float(np.mean(agree))}


def simulated(report: Report, logs: int, draws: int) -> None:
    """How often the intervals hold the truth, by the rewards that they rest on.

    Uniform logs of items with click rates from a gamma distribution; the policies to judge prefer items more
    or less strongly, and rates are those of the Open Bandit sample or up to ten times as high.
    """
    rng = np.random.default_rng(0)
    names = ("ips", "snips", "dr", "sndr")
    held, rewards = np.zeros((logs, len(names)), bool), np.empty(logs)
    for i in range(logs):
        rate = np.clip(rng.gamma(1.5, RATE / 1.5, ITEMS) * rng.choice([1.0, 3.0, 10.0]), 0, 1)
        target = np.exp(rng.choice([0.4, 0.7, 1.0]) * (0.8 * np.log(rate) + 1.2 * rng.normal(size=ITEMS)))
        target /= target.sum()
        model = (rate + rate.mean()) / 2
        item = rng.integers(0, ITEMS, DECISIONS)
        log = LoggedDecisions(
            (rng.random(DECISIONS) < rate[item]).astype(float),
            np.full(DECISIONS, 1 / ITEMS),
            target[item],
            model[item],
            np.full(DECISIONS, target @ model),
        )
        found = evaluate(log, draws=draws, seed=i)
        rewards[i] = found.effective_rewards
        for j, name in enumerate(names):
            value = found.estimates[name].value
            held[i, j] = value.low <= target @ rate <= value.high
    rows = []
    for low, high in itertools.pairwise(EDGES):
        some = (rewards >= low) & (rewards < high)
        if some.any():
            bounds = f"{low} to {high}" if high < EDGES[-1] else f"{low} and more"
            rows.append((bounds, f"{some.sum():,}", *held[some].mean(0)))
    report.table(
        f"{logs:,} simulated logs of {DECISIONS:,} decisions: how many 95 % intervals hold the truth",
        ["effective rewards", "logs", *names],
        rows,
    )
    enough = held[rewards >= FEW_REWARDS]
    report.measures |= {
        "coverage": float(enough.mean(0).min()),
        "coverage_few": float(held[rewards < FEW_REWARDS].mean(0).min()),
    }


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked("Exploration and off-policy evaluation")
    report = Report("explore", TARGETS)
    report.versions |= {n: version(n) for n in ("numpy", "torch")} | {"mabwiser": "2.7.4", "obp": "0.4.1"}
    rounds, seeds = (1_000, range(2)) if quick else (_bandit_world.ROUNDS, SEEDS)
    regret(report, rounds, seeds)
    open_bandit(
        report, CAMPAIGNS[1:2] if quick else CAMPAIGNS, 1_000 if quick else 50_000, 100 if quick else 1000
    )
    peers().close()
    simulated(report, 60 if quick else LOGS, 100 if quick else 300)
    report.finish()


if __name__ == "__main__":
    main()
