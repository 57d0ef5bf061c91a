"""Does training on the day's rows alone keep up with training on everything again?

MovieTweetings and Complete Journey, counts as of midnight, day by day: after a cold start on the first 80 %
every arm predicts a day, is scored, and learns it. Days 80-90 % are learned by all but count for nothing:
on them the settings were chosen. The retrain starts from nothing on a window as long as the first train, for
as many steps as the cold start took to its best checkpoint. CPU seconds, one thread; an increment's include
its Fisher information, the cold start's include the looks at valid that find its best checkpoint.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from _fresh import Log, incremental, mean_seconds, stacked
from _harness import Report, Target, quick_asked
from memberwise import metrics
from memberwise.fresh.replay import Arm, Replay, Retrained, Stale, Updated, WarmStarted, replay
from memberwise.metrics.intervals import paired_bootstrap
from memberwise.ranking.incremental import IncrementalConfig

LOGS = ("movietweetings", "completejourney")
SEEDS = (0, 1, 2)
DAYS = 6
INCREMENT, WARM, RETRAIN, FREE = "incremental", "warm start only", "sliding-window retrain", "no penalty"
ANCHORED = f"{INCREMENT}, cold weight .3"
ARMS = {
    "movietweetings": ("stale", WARM, FREE, INCREMENT, ANCHORED, RETRAIN),
    "completejourney": ("stale", WARM, INCREMENT, RETRAIN),
}
"""By log; what the parts of the method are worth is asked on films, where it is cheap."""

COST = "an increment costs at most this share of the cold start's CPU, its Fisher information included"
NO_WORSE = "no worse than the sliding-window retrain: the interval of the difference reaches 0"
BETTER = "better than warm start only"


def targets(log: str) -> list[Target]:
    """The claims on one log."""
    return [
        Target(f"{log} cost share", 0.04, f"{log}: {COST}", at_most=True),
        Target(f"{log} auc against retrain, upper end", 0.0, f"{log} AUC: {NO_WORSE}"),
        Target(
            f"{log} log-loss against retrain, lower end", 0.0, f"{log} log-loss: {NO_WORSE}", at_most=True
        ),
        Target(f"{log} auc against warm start", 0.0, f"{log} AUC: {BETTER}"),
        Target(f"{log} log-loss against warm start", 0.0, f"{log} log-loss: {BETTER}", at_most=True),
        Target(f"{log} increments", 6, f"{log}: over at least 6 increments"),
    ]


def walk(log: Log, seed: int, days: int) -> Replay:
    """One seed through all days."""
    cold = log.cold(seed)
    cuts = log.ground.days(log.train_end, log.end)
    loud = cuts[-days - 1]
    daily = IncrementalConfig(every=1, recent_rows=0)
    settings = {
        FREE: daily.model_copy(update={"penalty": 0.0}),
        INCREMENT: daily,
        ANCHORED: daily.model_copy(update={"cold_weight": 0.3}),
    }
    wanted = ARMS[log.name]
    arms: list[Arm] = [Stale("stale", cold.ranker), WarmStarted(WARM, cold.ranker, seed=seed)]
    for name, config in ((n, c) for n, c in settings.items() if n in wanted):
        arms.append(Updated(name, cold.ranker, {"incremental": incremental(log, cold, config)}))
    steps = cold.steps / log.train_end
    arms.append(Retrained(RETRAIN, cold.ranker, log.train_end, steps, seed, since=loud))
    return replay(log.ground, arms, cuts, quiet_until=loud, measure=False)


def measure(log: Log, seeds: tuple[int, ...], days: int, report: Report) -> None:
    """A table of all arms, and the measures of the claims."""
    names = ARMS[log.name]
    key: dict[str, Any] = {"days": days, "arms": names}
    replays = [log.cell("by day", key | {"seed": s}, lambda s=s: walk(log, s, days)) for s in seeds]
    first, last = replays[0].first, replays[0].last
    labels, members = log.labels(first, last), log.column("member", first, last)
    cold_cpu = float(np.mean([log.cold(s).cpu_seconds for s in seeds]))
    rows = []
    for arm in names:
        scores = stacked(replays, arm)
        auc = np.mean([metrics.auc(labels, s) for s in scores])
        loss = np.mean([metrics.log_loss(labels, s) for s in scores])
        seconds = float(np.mean([mean_seconds(r, arm) for r in replays]))
        cells = [f"{auc:.4f}", f"{loss:.4f}"]
        if arm in (INCREMENT, "stale"):
            cells += ["", ""]
        else:
            gap = paired_bootstrap(labels, stacked(replays, INCREMENT), scores, members, draws=500)
            cells += [_interval(gap["auc"]), _interval(gap["log_loss"])]
            if arm == RETRAIN:
                report.measures[f"{log.name} auc against retrain, upper end"] = gap["auc"].high
                report.measures[f"{log.name} log-loss against retrain, lower end"] = gap["log_loss"].low
            if arm == WARM:
                report.measures[f"{log.name} auc against warm start"] = gap["auc"].value
                report.measures[f"{log.name} log-loss against warm start"] = gap["log_loss"].value
        rows.append([arm, *cells, f"{seconds:.3f}", f"{100 * seconds / cold_cpu:.1f} %"])
        if arm == INCREMENT:
            report.measures[f"{log.name} cost share"] = seconds / cold_cpu
    slices = len({r["slice"] for r in replays[0].records})
    report.measures[f"{log.name} increments"] = slices
    report.table(
        f"{log.name}: the last {slices} days, {last - first:,} rows, {len(seeds)} seeds; "
        f"cold start {cold_cpu:.1f} CPU-seconds",
        ["arm", "AUC", "log-loss", "incremental - arm: AUC", "log-loss", "CPU s a day", "of cold start"],
        rows,
    )


def _interval(found: Any) -> str:
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def main() -> None:
    """Run both logs."""
    quick = quick_asked(str(__doc__))
    report = Report("incremental_ranker", [t for log in LOGS[: 1 if quick else None] for t in targets(log)])
    report.versions |= {p: version(p) for p in ("torch", "numpy", "scikit-learn")}
    for name in LOGS[: 1 if quick else None]:
        log = Log(name, "daily", 0.1 if quick else 1.0)
        measure(log, SEEDS[: 1 if quick else None], 2 if quick else DAYS, report)
    report.finish()


if __name__ == "__main__":
    main()
