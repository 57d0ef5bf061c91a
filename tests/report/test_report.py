"""The report as an object and as a page: values, warnings, escaping, determinism, edges."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from memberwise import metrics
from memberwise.errors import DataError
from memberwise.report import FeatureRates, Freshness, Predictions, Report, ReportContext, Split

HOSTILE = '<script>alert("x")</script> \u202e $\\frac{ & \' {{ 7*7 }} [bold]日本 \ud800'
DAY = 86_400_000_000


def predictions(n: int = 1500, tasks: int = 2, requests: bool = True, seed: int = 0) -> Predictions:
    """Three models of falling quality; the second task is defined where the first is positive."""
    generator = np.random.default_rng(seed)
    members = generator.integers(0, 60, n)
    logit = generator.normal(size=(n, tasks)) + generator.normal(size=60)[members, None]
    labels = (generator.random((n, tasks)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    labels[labels[:, 0] == 0, 1:] = np.nan
    noisy = {
        name: (1 / (1 + np.exp(-logit - noise * generator.normal(size=logit.shape)))).astype(np.float32)
        for name, noise in (("ranker", 0.2), ("trees", 0.8))
    }
    return Predictions(
        tasks=("click", "apply", "hire")[:tasks],
        labels=labels,
        scores=noisy | {"base rate": np.full((n, tasks), 0.5, dtype=np.float32)},
        members=members,
        time=np.sort(generator.integers(0, 20 * DAY, n)) + 15_000 * DAY,
        requests=members * 4 + generator.integers(0, 4, n) if requests else None,
        segments={"new members": members < 10, "nobody": np.zeros(n, bool), "refused": labels[:, 0] == 0},
    )


def full_context() -> ReportContext:
    return ReportContext(
        title="Feed",
        date="2025-01-01",
        config={"name": "feed", "tasks": [{"name": "click"}], "limit": None, "when": DAY},
        versions={"memberwise": "0.1.0", "numpy": np.__version__},
        splits=(Split("train", 8000, 0, 10 * DAY), Split("test", 1500, 10 * DAY, 12 * DAY)),
        members=60,
        items=4000,
        negatives="Impressions without a click are negatives.",
        rejected={"label is not 0 or 1": 3},
        features=(FeatureRates("city", 0.25, 0.01), FeatureRates("age", 0.0, 0.0)),
        log=[{"step": 10 * i, "epoch": i // 50, "split": "train", "loss": 1 / (i + 1)} for i in range(1000)]
        + [{"step": 10_000, "epoch": 20, "split": "valid", "loss": 0.2, "auc": 0.7}],
        fit_seconds=75.0,
        notes=("A remark.",),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.build(predictions(), context=full_context(), draws=100)


@pytest.fixture(scope="module")
def page(report) -> str:
    return report.html()


class Reader(HTMLParser):
    """Collects tags, attributes and ids, and insists that elements close in order."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_metrics_are_those_of_the_metrics_module(report):
    p = report.predictions
    found = report.metrics["trees"]["apply"]
    assert found["auc"]["value"] == pytest.approx(metrics.auc(p.labels[:, 1], p.scores["trees"][:, 1]))
    within = metrics.grouped_auc(p.labels[:, 1], p.scores["trees"][:, 1], p.members)
    assert found["grouped_auc"]["value"] == pytest.approx(within.value)
    listed = metrics.ndcg_at_k(p.labels[:, 1], p.scores["trees"][:, 1], p.requests, 10)
    assert found["ndcg@10"]["value"] == pytest.approx(listed.value)
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
    assert set(report.metrics) == {"ranker", "trees", "base rate"}


def test_differences_are_paired_and_the_strongest_baseline_is_compared_with(report):
    assert report.baseline == "trees"
    p = report.predictions
    expected = metrics.paired_bootstrap(
        p.labels[:, 0],
        p.scores["ranker"][:, 0],
        p.scores["trees"][:, 0],
        p.members,
        metrics=["auc"],
        draws=100,
    )["auc"]
    assert report.differences["trees"]["click"]["auc"] == {
        "value": expected.value,
        "low": expected.low,
        "high": expected.high,
    }
    lines = report.headline().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["click", "apply"]
    assert all(line.endswith("over trees") for line in lines)
    better = Predictions(  # of the second task alone, the base rate is a better model than the trees
        p.tasks, p.labels, p.scores | {"trees": p.scores["trees"] * [1, 0] + [0, 0.001]}, p.members, p.time
    )
    found = Report.build(better, context=full_context(), draws=20)
    first, second = found.headline().splitlines()
    assert (first.split(" over ")[1], second.split(" over ")[1]) == ("trees", "base rate")
    assert found.to_dict()["baselines"] == {"click": "trees", "apply": "base rate"}
    page = re.sub(r"<[^>]*>", "", found.html())
    assert re.search(r"apply: AUC [^;]*; [^;]* over base rate", page)
    chosen = Report.build(p, context=full_context(), baseline="base rate", draws=20)
    assert all(line.endswith("over base rate") for line in chosen.headline().splitlines())
    with pytest.raises(DataError, match="no baseline 'tree'"):
        Report.build(p, context=full_context(), baseline="tree")


def test_segments_and_slices_partition_as_said(report):
    new, nobody, refused = report.evaluation.segments
    assert new.rows == (report.predictions.members < 10).sum()
    assert new.members == 10
    assert (nobody.rows, nobody.members) == (0, 0)
    assert math.isnan(nobody.values["ranker"]["click"]["auc"].value)
    assert refused.rates["click"] == 0
    assert math.isnan(refused.values["ranker"]["click"]["auc"].value)
    assert math.isnan(refused.rates["apply"])
    slices = report.evaluation.slices
    assert [cut.rows for cut in slices] == [150] * 10
    assert all(a.last < b.first for a, b in itertools.pairwise(slices))


def test_equal_times_are_never_parted():
    p = dataclasses.replace(predictions(), time=np.repeat([1, 2, 3], 500) * DAY)
    slices = Report.build(p, context=ReportContext("x"), draws=20).evaluation.slices
    assert [cut.rows for cut in slices] == [500, 500, 500]


def test_json_round_trip(report, tmp_path):
    path = report.to_json(tmp_path / "report.json")
    assert json.loads(path.read_text()) == report.to_dict()
    json.dumps(report.metrics, allow_nan=False)
    assert report.to_dict()["segments"][1]["metrics"]["ranker"]["click"]["auc"] == dict.fromkeys(
        ("value", "low", "high")
    )


def test_same_input_same_bytes(page):
    again = Report.build(predictions(), context=full_context(), draws=100)
    assert again.html() == page
    other_day = dataclasses.replace(full_context(), date="2026-02-02")
    moved = Report.build(predictions(), context=other_day, draws=100).html()
    assert moved.replace("2026-02-02", "2025-01-01") == page


def test_page_is_well_formed_and_loads_nothing(page):
    read = Reader(page)
    assert read.open == []
    assert "://" not in page
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(read.tags)
    assert "@import" not in page
    assert not [
        value for name, value in read.attributes if name in ("src", "srcset", "action") or name[:2] == "on"
    ]
    links = [value for name, value in read.attributes if name in ("href", "xlink:href")]
    ids = [value for name, value in read.attributes if name == "id"]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)
    assert len(ids) == len(set(ids))


def test_page_is_small_and_holds_every_part(page):
    assert len(page.encode()) < 500_000
    for title in ("Segments", "Calibration and ranking", "Time", "Training", "Data", "Project"):
        assert f">{title}</h2>" in page
    for words in (
        "new members",
        "label is not 0 or 1",
        "name: feed",
        "Impressions without a click",
        "A remark.",
    ):
        assert words in page
    assert page.count("<figure>") == 2 * 3 + 2 * 3 + 2
    assert re.search(r"#[0-9a-f]{6}", page.split("</style>")[1]) is None, "figures take colours from the page"


def test_hostile_names_are_text_everywhere(tmp_path):
    p = predictions()
    p = Predictions(
        tasks=(HOSTILE, HOSTILE + "2"),
        labels=p.labels,
        scores={HOSTILE + name: scores for name, scores in p.scores.items()},
        members=np.array([HOSTILE + str(m) for m in p.members]),
        time=p.time,
        segments={HOSTILE: p.members < 20},
    )
    context = ReportContext(
        title=HOSTILE, date=HOSTILE, config={HOSTILE: [HOSTILE]}, versions={HOSTILE: HOSTILE},
        negatives=HOSTILE, splits=(Split(HOSTILE, 1, 0, 1),), rejected={HOSTILE: 1},
        features=(FeatureRates(HOSTILE, 0.1, 0.1),),
        log=[{"step": i, "split": HOSTILE, HOSTILE: 0.5} for i in range(3)], notes=(HOSTILE,),
        freshness={HOSTILE: (Freshness(HOSTILE, "daily", "member"),), "b": ()},
    )  # fmt: skip
    found = Report.build(p, context=context, draws=20)
    text = found.write(tmp_path / "hostile.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert read.open == []
    assert "script" not in read.tags
    assert "<script" not in text
    assert "49" not in "".join(word for word in read.words if "7*7" in word)
    assert sum("alert(" in word for word in read.words) > 30
    json.loads(found.to_json(tmp_path / "hostile.json").read_text())
    console = Console(width=200, file=(tmp_path / "table.txt").open("w", errors="replace"), record=False)
    console.print(found.table())
    console.file.close()
    assert "[bold]" in (tmp_path / "table.txt").read_text()


def test_gauc_warning_needs_different_member_delays(report):
    hourly, daily = (Freshness("rate", delay, "member") for delay in ("hourly", "daily"))
    item = Freshness("popularity", "none", "item")

    def warnings(freshness):
        context = dataclasses.replace(full_context(), freshness=freshness)
        return dataclasses.replace(report, context=context).warnings

    assert warnings({}) == []
    assert warnings({"ranker": (daily, item), "trees": (daily,)}) == []
    (warning,) = warnings({"ranker": (hourly, item), "trees": (daily,)})
    assert "Do not compare these models by GAUC" in warning
    assert "(hourly in ranker; daily in trees)" in warning
    assert "none in trees" in warnings({"ranker": (hourly,), "trees": (item,)})[0]


def test_gauc_gets_no_verdict_where_it_cannot_compare(report):
    context = dataclasses.replace(
        full_context(),
        freshness={
            "ranker": (Freshness("rate", "hourly", "member"),),
            "trees": (Freshness("rate", "daily", "member"),),
        },
    )
    before, after = (
        dataclasses.replace(report, context=c).html().count('class="better"')
        for c in (full_context(), context)
    )
    assert after < before


def test_few_members_and_one_label_are_said():
    p = predictions()
    p = dataclasses.replace(p, members=p.members % 3, requests=None)
    one = dataclasses.replace(p, labels=np.ones_like(p.labels))
    none = dataclasses.replace(p, labels=np.full_like(p.labels, np.nan))
    assert any("Only 3 members" in w for w in Report.build(p, context=ReportContext("x"), draws=20).warnings)
    for strange, words in ((one, "only one label"), (none, "no rows")):
        found = Report.build(strange, context=ReportContext("x"), draws=20)
        assert any(words in warning for warning in found.warnings)
        assert Reader(found.html()).open == []
        json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"segments": {}},
        {"scores": {"only": np.full((1500, 1), 0.3)}},
        {"scores": {"zero": np.zeros((1500, 1)), "one": np.ones((1500, 1))}},
        {"time": np.zeros(1500, dtype=np.int64)},
        {"members": np.zeros(1500, dtype=np.int64)},
        {"weights": np.random.default_rng(0).random((1500, 1))},
    ],
)
def test_bare_reports_have_no_empty_parts(change):
    p = dataclasses.replace(predictions(tasks=1, requests=False), **change)
    found = Report.build(p, context=ReportContext("bare"), draws=20)
    text = found.html()
    assert Reader(text).open == []
    assert ">Training</h2>" not in text
    assert ">Project</h2>" not in text
    assert "NDCG" not in text
    assert "ndcg@10" not in found.metrics[p.models[0]]["click"]
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower()


def test_one_row_is_enough():
    p = Predictions(
        ("click",), np.ones((1, 1)), {"m": np.full((1, 1), 0.5)}, np.array(["a"]), np.zeros(1, np.int64)
    )
    found = Report.build(p, context=ReportContext("one"), draws=20)
    assert found.metrics["m"]["click"]["log_loss"] == {
        "value": pytest.approx(np.log(2)),
        "low": None,
        "high": None,
    }
    assert found.headline() == "click: AUC –"
    assert Reader(found.html()).open == []


def test_training_log_may_be_ragged():
    log = [
        {"epoch": 0, "split": "train", "loss": float("nan"), "message": "hello"},
        {"epoch": 1, "split": "train", "loss": 0.5, "grad_norm": float("inf")},
        {"epoch": 2, "loss": None, "seconds": 1.5},
        {"epoch": 3, "split": "valid", "auc": 0.7},
    ]
    context = ReportContext("ragged", log=log)
    found = Report.build(predictions(), context=context, draws=20)
    text = found.html()
    assert text.count("<h3>Training:") == 2
    assert ">epoch<" in text
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "needs rows, tasks and models"),
        ({"tasks": ("a", "a")}, "repeat"),
        ({"scores": {}}, "needs rows, tasks and models"),
        ({"labels": np.zeros(1500)}, "labels must have shape"),
        ({"time": np.zeros(3)}, "time must have shape"),
        ({"scores": {"m": np.zeros((1500, 1))}}, "scores of 'm' must have shape"),
        ({"segments": {"s": np.zeros(2, bool)}}, "segment 's' must have shape"),
        ({"weights": np.ones(1500)}, "weights must have shape"),
        ({"requests": np.ones(2)}, "requests must have shape"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(predictions(), **change)


def test_diverged_models_are_named():
    p = predictions()
    bad = p.scores["trees"].copy()
    bad[3, 0] = np.nan
    with pytest.raises(DataError, match="prediction must be finite"):
        Report.build(dataclasses.replace(p, scores={"trees": bad}), context=ReportContext("x"), draws=20)


def test_table_and_repr(report):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(report)
    printed = capture.get()
    assert "base rate" in printed
    assert "Log-loss" in printed
    assert "ranker" in repr(report)
    assert report.headline() in repr(report)
