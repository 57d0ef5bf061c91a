"""Does the full ranker rank better? Two real logs, equal freshness, tuned peers, block by block.

Every cell (model, log, freshness, seed) is kept under ``.cache/ranker-quality``: a run that was stopped goes
on, and a second run prints the tables at once. The whole takes longer than other benchmarks, about 75
CPU-minutes on one core, because of the seeds.

Peers get the same rows: ids, numeric columns (the point-in-time counts) or both, and eight settings each,
tried on the latest 60,000 rows of train and judged by log-loss on valid. The ranker runs on the package's
defaults on both logs. Intervals draw members and seeds together, paired, 1,000 times; with several seeds the
value is the mean of the metric over seeds, never the metric of averaged predictions. A second table of each
log shows the ranker with graph embeddings (``graph_ranker``) beside all else; no claim rests on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import graph_ranker
from _environment import ROOT
from _quality_cells import Case, Cell
from _quality_isotonic import calibration
from _quality_models import PEERS, Variant, peer
from _report import Report, Target
from memberwise import metrics
from memberwise.metrics import Interval, Resamples

SEEDS, SEEDS_OF_BLOCKS, DRAWS = 5, 2, 1000
ALL, OURS, GRAPH = "all blocks", "memberwise", "memberwise, graph"
METRICS = ("auc", "log_loss", "grouped_auc", "expected_calibration_error")
LISTS = ("ndcg@10", "mrr")
HIGHER = {"auc": 1.0, "log_loss": -1.0}

_MLP = {"type": "mlp", "hidden": [256, 128]}
_BARE = {"blocks": [_MLP], "numeric": None, "calibration": None}
_CROSS = {"type": "cross", "layers": 2, "rank": 64}
BLOCKS = {
    "MLP": Variant(_BARE),
    "+ low-rank DCNv2": Variant(_BARE | {"blocks": [_CROSS, _MLP]}),
    "+ full DCNv2": Variant(_BARE | {"blocks": [{"type": "cross"}, _MLP]}),
    "+ residual DCN": Variant(_BARE | {"blocks": [{"type": "residual_cross"}, _MLP]}),
    "+ dense gating": Variant(_BARE | {"blocks": [_MLP | {"type": "gated_mlp"}]}),
    "+ history transformer": Variant(_BARE, history="transformer"),
    "+ isotonic layer": Variant(_BARE | {"calibration": {}}),
    "+ curves of numbers": Variant(_BARE | {"numeric": {}}),
    "MLP, ids never hidden": Variant(_BARE | {"id_dropout_few": 0.0}),
}
"""Each adds one thing to the first, the last one takes one away; memberwise is the package's default."""
_EVERY = {
    "blocks": [{"type": "residual_cross"}, _MLP | {"type": "gated_mlp"}],
    "numeric": {},
    "calibration": {},
}
FULL = {ALL: Variant(_EVERY, history="transformer"), OURS: Variant()}

BEATEN = ("logistic on ids", "logistic on counts", "vw", "fuxictr")
"""Peers that the ranker must be ahead of; LightGBM must not be ahead of it."""
FILMS, GROCERIES = "movietweetings", "completejourney"
POPULAR = f"{GROCERIES}-popularity"
"""Groceries with negatives drawn by popularity."""


def _targets() -> list[Target]:
    """The claims. Gains are of AUC and log-loss alike; positive is better."""
    found = []
    for log in (FILMS, GROCERIES, POPULAR):
        found += [
            Target(
                f"{log} daily: least lower end of a gain over the peers",
                0.0,
                f"{log}, daily: ahead of both logistic regressions, VW and DCNv2 beyond doubt",
            ),
            Target(
                f"{log} daily: least upper end of a gain over LightGBM",
                0.0,
                f"{log}, daily: LightGBM is not ahead beyond doubt",
            ),
        ]
    for log in (FILMS, GROCERIES):
        found += [
            Target(
                f"{log} frozen: least gain over the peers",
                0.0,
                f"{log}, frozen: ahead of all but LightGBM",
            ),
            Target(
                f"{log} frozen: least upper end of a gain",
                0.0,
                f"{log}, frozen: nobody is ahead beyond doubt",
            ),
        ]
    return [
        *found,
        Target(
            "isotonic layer: ECE left", 0.5, "the layer at least halves ECE on a distorted task", at_most=True
        ),
        Target("isotonic layer: change of AUC", -1e-4, "and loses no AUC"),
    ]


class Table:
    """The rows of one case: every model's cells, resampled under the same draws."""

    def __init__(self, case: Case, cells: dict[str, list[Cell]]) -> None:
        self.case, self.cells = case, {name: found for name, found in cells.items() if found}
        self._resamples: dict[tuple[str, int], dict[str, Resamples]] = {}

    @property
    def metrics(self) -> list[str]:
        """Those that these rows have."""
        return [*METRICS, *(LISTS if "request" in self.case.prepared.packed.arrays else ())]

    def resamples(self, model: str, seeds: int | None = None) -> dict[str, Resamples]:
        """Every metric of a model on every draw, of its first seeds or of all."""
        seeds = min(seeds or len(self.cells[model]), len(self.cells[model]))
        if (model, seeds) not in self._resamples:
            requests = None
            if "request" in self.case.prepared.packed.arrays:
                requests = np.unique(self.case.column("test", "request"), return_inverse=True)[1]
            self._resamples[model, seeds] = metrics.resample(
                self.case.column("test", "labels"),
                np.stack([cell.test for cell in self.cells[model][:seeds]]),
                np.unique(self.case.column("test", "member"), return_inverse=True)[1],
                metrics=self.metrics,
                requests=requests,
                draws=DRAWS,
            )
        return self._resamples[model, seeds]

    def gain(self, model: str, other: str, metric: str) -> Interval:
        """How much better a model is than another; above zero is better, whatever the metric.

        Seeds are paired; where one has fewer, its first ones meet those of the other (one meets all).
        """
        counts = {len(self.cells[name]) for name in (model, other)} - {1}
        seeds = min(counts, default=1)
        mine, theirs = (self.resamples(name, seeds)[metric] for name in (model, other))
        sign, difference = HIGHER[metric], mine - theirs
        return Resamples(sign * difference.value, sign * difference.draws).interval()

    def show(self, report: Report, reference: str) -> None:
        """Metrics of every model, and the gain of the reference over it."""
        if not self.cells:
            return
        names = self.metrics
        rows: list[Sequence[object]] = []
        for model, cells in self.cells.items():
            values = [f"{self.resamples(model)[m].value:.4f}" for m in names]
            gains = ["", ""]
            if model != reference and reference in self.cells:
                gains = [_gain(self.gain(reference, model, m)) for m in HIGHER]
            seconds = np.mean([cell.note["seconds"] for cell in cells])
            rows.append([PEERS.get(model, model), len(cells), *values, *gains, f"{seconds:.0f}"])
        title = f"{self.case.log}, {self.case.delay}: {reference} minus the row, 95 % interval"
        labels = ["AUC", "log-loss", "GAUC", "ECE", "NDCG@10", "MRR"][: len(names)]
        report.table(title, ["model", "seeds", *labels, "gain in AUC", "gain in log-loss", "CPU s"], rows)


def _gain(i: Interval) -> str:
    return f"{i.value:+.4f} [{i.low:+.4f}, {i.high:+.4f}]"


class Plan:
    """All cells, in the order in which they matter; what is kept is not computed again.

    Parameters
    ----------
    folder
        Keeps rows and cells.
    sample, seeds, seeds_of_blocks
        Of the run; smaller for a smoke run.
    kept
        Compute nothing.
    """

    def __init__(
        self, folder: Path, sample: float, seeds: int, seeds_of_blocks: int, *, kept: bool = False
    ) -> None:
        self.folder, self.sample, self.kept = folder, sample, kept
        self.seeds, self.seeds_of_blocks = seeds, seeds_of_blocks

    def case(self, log: str, delay: str) -> Case:
        """One log at one freshness."""
        return Case(log, delay, self.folder, self.sample, kept=self.kept)

    def against_peers(self, log: str, delay: str, peers: Sequence[str] = tuple(PEERS)) -> Table:
        """The ranker and the peers."""
        case, searched_on = self.case(log, delay), self.case(log, "daily")
        cells = {OURS: FULL[OURS].cells(case, self.seeds)}
        return Table(case, cells | {name: peer(case, searched_on, name, self.seeds) for name in peers})

    def with_graph(self, table: Table) -> Table:
        """The same with a row for the ranker that has graph embeddings beside all else."""
        log = table.case.log
        fits = [graph_ranker.fitted(log, s, True, kept=self.kept) for s in range(graph_ranker.SEEDS)]
        cells = [Cell(np.empty(0), fit.scores, {"seconds": fit.seconds}) for fit in fits if fit is not None]
        return Table(table.case, {GRAPH: cells} | table.cells)

    def blocks(self, log: str) -> Table:
        """The ranker block by block."""
        case = self.case(log, "daily")
        cells = {name: variant.cells(case, self.seeds_of_blocks) for name, variant in BLOCKS.items()}
        return Table(case, cells | {name: variant.cells(case, self.seeds) for name, variant in FULL.items()})


def judge(report: Report, table: Table) -> None:
    """Put the numbers of the claims of one table into the report."""
    log, delay = table.case.log, table.case.delay
    if not {OURS, *PEERS} <= table.cells.keys():
        return  # a claim needs all of its rows
    gains = {name: [table.gain(OURS, name, m) for m in HIGHER] for name in PEERS}
    beaten = [gain for name in BEATEN for gain in gains[name]]
    measures = report.measures
    if delay == "daily":
        measures[f"{log} daily: least lower end of a gain over the peers"] = min(g.low for g in beaten)
        least = min(g.high for g in gains["lightgbm"])
        measures[f"{log} daily: least upper end of a gain over LightGBM"] = least
    else:
        measures[f"{log} frozen: least gain over the peers"] = min(g.value for g in beaten)
        least = min(g.high for many in gains.values() for g in many)
        measures[f"{log} frozen: least upper end of a gain"] = least
    scores = table.resamples(OURS)
    measures[f"{log} {delay}: AUC"] = scores["auc"].value
    measures[f"{log} {delay}: log-loss"] = scores["log_loss"].value


def judge_calibration(report: Report, case: Case, cell: Cell) -> None:
    """The isotonic layer and isotonic regression on a distorted task."""
    found = calibration(case, cell)
    names = ("distorted", "isotonic layer", "isotonic regression")
    rows = [(name, ece, auc) for name, ece, auc in zip(names, found.ece, found.auc, strict=True)]
    report.table(f"{case.log}: a distorted task, curves learned on valid", ["", "ECE", "AUC"], rows)
    report.measures["isotonic layer: ECE left"] = found.ece[1] / found.ece[0]
    report.measures["isotonic layer: change of AUC"] = found.auc[1] - found.auc[0]


def main() -> None:
    """Run what is missing, in the order in which it matters, and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean nothing")
    parser.add_argument(
        "--kept", action="store_true", help="compute nothing: print what earlier runs have kept"
    )
    asked = parser.parse_args()
    folder, kept = ROOT / ".cache" / "ranker-quality", asked.kept
    plan = Plan(folder, 1.0, SEEDS, SEEDS_OF_BLOCKS, kept=kept)
    if asked.quick:
        plan = Plan(folder / "quick", 0.05, 1, 1, kept=kept)
    report = Report("ranker_quality", _targets())
    for package in ("memberwise", "torch", "scikit-learn"):
        report.versions[package] = version(package)
    logs = (FILMS,) if asked.quick else (FILMS, GROCERIES)
    for delay in ("daily", "frozen"):
        for log in logs:
            table = plan.against_peers(log, delay)
            compare(report, table)
            if delay == "daily" and not asked.quick:
                plan.with_graph(table).show(report, GRAPH)
    last = plan.case(logs[-1], "daily")
    for cell in FULL[OURS].cells(last, 1):
        judge_calibration(report, last, cell)
    for log in logs:
        plan.blocks(log).show(report, "MLP")
    if not asked.quick:
        compare(report, plan.against_peers(POPULAR, "daily"))
    report.finish()


def compare(report: Report, table: Table) -> None:
    """Show one table, judge its claims, note the versions of its peers."""
    table.show(report, OURS)
    judge(report, table)
    for cells in table.cells.values():
        if "version" in cells[0].note:
            package, number = cells[0].note["version"].split()
            report.versions[package] = number


if __name__ == "__main__":
    main()
