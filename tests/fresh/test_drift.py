"""Drift that is there is found; chance is not taken for it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from memberwise.data.layout import IdField, Layout, Table
from memberwise.data.normalise import DenseColumn
from memberwise.errors import DataError
from memberwise.fresh.drift import ALL, Profile, compare, stability
from memberwise.schema import DAY

LAYOUT = Layout(
    tasks=("click",),
    tables=(Table("store"), Table("tags")),
    ids=(IdField("store", "store", 0, 1), IdField("tags", "tags", 1, 2)),
    dense=(DenseColumn("price", indicator=True), DenseColumn("rate")),
    histories=(),
    vectors=(),
)


def rows(n: int, seed: int, *, price=0.0, store=None, missing=0.1, rate=0.3, members=500, share=1.0):
    """Rows with a known distribution; `share` of the scores is what comes true."""
    rng = np.random.default_rng(seed)
    gone = rng.random(n) < missing
    dense = np.column_stack([rng.normal(price, 1, n) * ~gone, rng.normal(size=n), gone]).astype(np.float32)
    stores = rng.choice(np.arange(2, 8), n, p=store)
    tags = np.where(rng.random((n, 2)) < 0.3, -1, rng.integers(2, 30, (n, 2)))
    scores = np.clip(rng.normal(rate, 0.1, n), 0.01, 0.99)
    arrays = {
        "dense": dense, "ids": np.column_stack([stores, tags]).astype(np.int32),
        "member": rng.integers(0, members, n).astype(np.uint64),
        "labels": (rng.random(n) < scores * share)[:, None].astype(np.float32),
    }  # fmt: skip
    return arrays, scores[:, None]


def profiles(one, other, segments=None):
    (a, p), (b, q) = one, other
    before = Profile.of(a, LAYOUT, scores=p, segments=segments and segments(a))
    return before, Profile.of(b, LAYOUT, scores=q, segments=segments and segments(b), like=before)


def verdicts(drift, measure="psi"):
    return {(c.name, c.segment): c.verdict for c in drift.changes if c.measure == measure}


def test_nothing_is_found_where_nothing_changed():
    false = 0
    for seed in range(40):
        drift = compare(*profiles(rows(3_000, seed), rows(1_500, 1_000 + seed)))
        false += len(drift.of("drifted")) + len(drift.of("watch"))
        assert not drift.advises_retraining
    assert false == 0


def weekdays(first: float, days: float, n: int = 4_000, seed: int = 0):
    """Rows spread evenly over so many days, whose store is the day of the week."""
    arrays, scores = rows(n, seed)
    at = first + days * np.sort(np.random.default_rng(seed).random(n))
    arrays["time"] = (at * DAY).astype(np.int64)
    arrays["ids"][:, 0] = 2 + np.floor(at).astype(int) % 7
    return arrays, scores


@pytest.mark.parametrize(("days", "compared"), [(0.99, False), (3.0, False), (6.99, True), (14.0, True)])
def test_rows_of_a_day_say_nothing_of_the_days_of_the_week(days: float, compared: bool):
    before, now = profiles(weekdays(0, 28), weekdays(28, days, seed=1))
    again = Profile.from_dict(json.loads(json.dumps(before.to_dict())))
    drift = compare(again, now, {"store": 7.0})
    assert drift.partial == (() if compared else ("store",))
    assert (("store", ALL) in verdicts(drift)) is compared
    assert not drift.of("drifted")
    assert ("Not compared" in drift.sentence()) is not compared
    unsaid = verdicts(compare(blind(before), now))
    assert unsaid[("store", ALL)] == ("stable" if compared else "drifted")
    # Neither does a profile of the fit that is too short; and one that does not say counts as whole.
    short = profiles(weekdays(0, 1), weekdays(28, 14, seed=1))
    assert compare(*short, {"store": 7.0}).partial == ("store",)
    assert compare(replace(short[0], days=None), short[1], {"store": 7.0}).partial == ()


DAILY = Layout(
    tasks=("click",),
    tables=(Table("store"),),
    ids=(IdField("store", "store", 0, 1),),
    dense=tuple(DenseColumn(f"count {i}") for i in range(8)),
    histories=(),
    vectors=(),
)


def days_of(first: int, days: int, seed: int, *, moved=0.0, share=1.0, n=400):
    """Rows of days that differ by chance: of counts as of midnight all rows of a day have the same value, and
    each day has a rate and a mix of stores of its own."""
    rng = np.random.default_rng([seed, first])
    day = np.repeat(np.arange(days), n)
    counts = rng.normal(moved, 1, (days, 8))[day] + 0.01 * rng.normal(size=(days * n, 8))
    mixes = rng.dirichlet(np.full(6, 20.0), days)
    stores = np.concatenate([rng.choice(np.arange(2, 8), n, p=mix) for mix in mixes])
    scores = np.clip(rng.normal(0.3, 0.1, days * n), 0.01, 0.99)
    own = np.exp(rng.normal(0, 0.08, days))[day]
    arrays = {
        "dense": counts.astype(np.float32), "ids": stores[:, None].astype(np.int32),
        "member": rng.integers(0, 500, days * n).astype(np.uint64),
        "labels": (rng.random(days * n) < scores * share * own)[:, None].astype(np.float32),
        "time": ((first + day + np.tile(np.linspace(0.01, 0.99, n), days)) * DAY).astype(np.int64),
    }  # fmt: skip
    return arrays, scores[:, None]


def blind(profile: Profile) -> Profile:
    """As if the days of a profile did not differ."""
    outcomes = {
        task: {s: replace(o, rate_spreads=[], ratio_spreads=[]) for s, o in found.items()}
        for task, found in profile.outcomes.items()
    }
    return replace(profile, spreads={}, outcomes=outcomes)


def compared(days: int, seed: int, **settings):
    (a, p), (b, q) = days_of(0, 18, seed), days_of(30, days, seed, **settings)
    before = Profile.of(a, DAILY, scores=p)
    before = Profile.from_dict(json.loads(json.dumps(before.to_dict())))
    now = Profile.of(b, DAILY, scores=q, like=before)
    return compare(before, now), compare(blind(before), now)


@pytest.mark.parametrize("days", [1, 3])
def test_a_day_like_the_others_asks_for_nothing(days: int):
    advised, blindly, drifted = 0, 0, 0
    for seed in range(30):
        drift, without = compared(days, seed)
        advised += drift.advises_retraining
        drifted += len(drift.of("drifted"))
        blindly += without.advises_retraining
    assert blindly > 25  # what rows alone explain would ask for a fit after nearly every day
    assert advised == 0
    assert drifted <= 3  # of 330 comparisons, each right 999 times in a thousand


def test_a_day_unlike_the_others_asks_for_a_fit():
    # What the model says is far too high: beyond what days differ by.
    apart = [compared(1, seed, share=0.4)[0] for seed in range(10)]
    assert all(d.advises_retraining for d in apart)
    assert all(verdicts(d, "calibration")[("click", ALL)] == "drifted" for d in apart)
    # Features can be told apart where a day is no sample of one: each row has a value of its own.
    for seed in range(10):
        (a, p), (b, q) = days_of(0, 18, seed), days_of(30, 1, seed)
        rng = np.random.default_rng(seed)
        a["dense"], b["dense"] = (rng.normal(m, 1, (len(x["dense"]), 8)) for m, x in ((0, a), (1.0, b)))
        before = Profile.of(a, DAILY, scores=p)
        found = compare(before, Profile.of(b, DAILY, scores=q, like=before))
        assert {c.name for c in found.of("drifted") if c.measure == "psi"} == {c.name for c in DAILY.dense}
        assert found.advises_retraining


def test_days_that_vary_hide_no_shift_that_is_larger():
    """A price that varies within a day by 1 and between days by .2: a day that is 2 dearer is found."""
    for seed in range(20):
        (a, p), (b, q) = days_of(0, 18, seed), days_of(30, 1, seed)
        rng = np.random.default_rng(seed)
        a["dense"] = np.repeat(rng.normal(0, 0.2, (18, 8)), 400, 0) + rng.normal(size=(7200, 8))
        b["dense"] = np.array([0.0] * 4 + [2.0] * 4) + rng.normal(0, 0.2, 8) + rng.normal(size=(400, 8))
        before = Profile.of(a, DAILY, scores=p)
        drift = compare(before, Profile.of(b, DAILY, scores=q, like=before))
        assert {c.name for c in drift.of("drifted")} == {f"count {i}" for i in range(4, 8)}


def test_every_comparison_of_a_sentence_is_named_apart():
    def odd(arrays):
        return {"odd members": arrays["member"] % 2 == 1}

    said = compare(*profiles(rows(9_000, 0), rows(9_000, 1, share=0.6), odd)).sentence()
    assert "calibration of click among odd members" in said
    named = said.partition("show drift: ")[2].partition(".")[0].split(" and ")[0].split(", ")
    assert len(named) == len(set(named)) == 3


def test_what_is_compared_is_told_apart():
    (a, p), (b, q) = rows(8_000, 0), rows(8_000, 1, rate=0.45)
    said = compare(*profiles((a, p), (b, q))).sentence()
    assert "of 7 comparisons (5 features, 1 label rate, 1 calibration) show drift: " in said


def test_few_rows_differ_by_chance_and_are_not_blamed():
    # 60 rows: the index of 20 bins passes .25 all the time. Of 120 indices, one may pass its bound of 1/1000.
    loud = blamed = 0
    for seed in range(20):
        drift = compare(*profiles(rows(60, seed), rows(60, 500 + seed)))
        loud += any(c.value > 0.25 for c in drift.changes if c.measure == "psi")
        blamed += len(drift.of("drifted"))
    assert loud > 10
    assert blamed <= 1


def test_each_kind_of_drift_is_found_by_its_name():
    calm = rows(5_000, 0)
    moved = compare(*profiles(calm, rows(5_000, 1, price=0.8)))
    assert {k for k, v in verdicts(moved).items() if v != "stable"} == {("price", ALL)}
    assert moved.sentence().endswith("show drift: 'price'. That alone asks for no fit.")
    shops = compare(*profiles(calm, rows(5_000, 2, store=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])))
    assert {k for k, v in verdicts(shops).items() if v != "stable"} == {("store", ALL)}
    gaps = compare(*profiles(calm, rows(5_000, 3, missing=0.5)))
    assert verdicts(gaps)[("price is missing", ALL)] == "drifted"


def test_the_rate_may_move_with_the_scores_and_calibration_against_them():
    calm = rows(8_000, 0)
    together = compare(*profiles(calm, rows(8_000, 1, rate=0.45)))
    assert verdicts(together, "label rate")[("click", ALL)] == "drifted"
    assert verdicts(together, "calibration")[("click", ALL)] == "stable"
    apart = compare(*profiles(calm, rows(8_000, 2, share=0.7)))
    assert verdicts(apart, "calibration")[("click", ALL)] == "drifted"
    assert apart.advises_retraining
    assert "Train again in full" in apart.sentence()
    change = next(c for c in apart.changes if c.measure == "calibration")
    assert change.value == pytest.approx(np.log(0.7), abs=0.08)


def test_a_segment_can_drift_alone():
    def odd(arrays):
        return {"odd members": arrays["member"] % 2 == 1}

    (a, p), (b, q) = rows(10_000, 0), rows(10_000, 1)
    half = odd(b)["odd members"]
    b["labels"][half & (np.random.default_rng(0).random(10_000) < 0.5)] = 0.0
    drift = compare(*profiles((a, p), (b, q), odd))
    found = verdicts(drift, "calibration")
    assert found[("click", "odd members")] == "drifted"


def test_members_with_many_rows_count_for_less():
    few, many = Profile.of(rows(2_000, 0, members=20)[0], LAYOUT), Profile.of(rows(2_000, 0)[0], LAYOUT)
    assert few.size < 21
    assert many.size > 300


def test_the_index_is_symmetric_and_zero_for_the_same():
    p, q = np.array([10.0, 20, 70, 0]), np.array([30.0, 30, 40, 0])
    assert stability(p, q) == pytest.approx(stability(q, p))
    assert stability(p, p) == 0
    wanted = sum((b - a) * np.log(b / a) for a, b in ((0.1, 0.3), (0.2, 0.3), (0.7, 0.4)))
    assert stability(1e6 * p, 1e6 * q) == pytest.approx(wanted, rel=1e-4)


def test_profiles_survive_json_and_compare_alike():
    before, now = profiles(rows(2_000, 0), rows(2_000, 1, price=1.0))
    again = Profile.from_dict(json.loads(json.dumps(before.to_dict())))
    assert compare(again, now) == compare(before, now)
    assert json.loads(json.dumps(compare(before, now).to_records()))[0]["name"] == "price"


def test_values_never_seen_in_a_bin_are_counted_with_the_others():
    a, _ = rows(2_000, 0)
    b, _ = rows(2_000, 1)
    b["ids"][:, 0] = 999
    before, now = (lambda x: (x, Profile.of(b, LAYOUT, like=x)))(Profile.of(a, LAYOUT))
    assert sum(now.counts["store"]) == 2_000
    assert now.counts["store"][-1] == 2_000
    assert verdicts(compare(before, now))[("store", ALL)] == "drifted"


def test_constant_and_empty_columns_are_no_trouble():
    a, _ = rows(500, 0)
    a["dense"][:, 1] = 3.0
    a["ids"][:, 1:] = -1
    a["labels"][:] = np.nan
    before = Profile.of(a, LAYOUT)
    assert before.outcomes["click"] == {}
    drift = compare(before, Profile.of(a, LAYOUT, like=before))
    assert all(c.value == 0 for c in drift.changes)
    with pytest.raises(DataError, match="no rows"):
        Profile.of({k: v[:0] for k, v in a.items()}, LAYOUT)
