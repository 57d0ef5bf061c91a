"""Packed rows are what a direct encoding gives, and only train decides how rows are encoded."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.events import TIME
from memberwise.data.frame import Frame, load_entity_tables
from memberwise.data.packed import PackedRows
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, fingerprint, prepare, split_bounds
from memberwise.data.vocabulary import FIRST, MISSING, PAD, UNSEEN
from memberwise.errors import ConfigError, DataError
from memberwise.project import Project
from memberwise.schema import DAY, HOUR, Schema
from support.logs import START, check, impressions, project_values

ENTITIES = {"member": {"id": "m"}, "item": {"id": "i", "path": "items.parquet"}}


def meaning(**settings: Any) -> Schema:
    values = project_values("log.parquet") | settings
    return Project.from_dict({k: v for k, v in values.items() if k not in ("ranker", "training")}).config


def pack(raw: pl.DataFrame | None, work: Path, base: Path | None = None, **settings: Any) -> Prepared:
    return prepare(meaning(**settings), work, base, source=raw)


def items(folder: Path, rows: int = 15) -> None:
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {
            "i": [f"i{k}" for k in range(rows)],
            "born": ["1931-05-30", None, "2020-09-14"] * (rows // 3),
            "price": [None if k % 4 == 0 else float(k) for k in range(rows)],
            "kinds": [[f"k{k % 3}", f"k{k % 2}"] for k in range(rows)],
            "v": [rng.normal(size=3).tolist() for _ in range(rows)],
        }
    ).write_parquet(folder / "items.parquet")


def test_packed_rows_are_those_of_a_direct_encoding(tmp_path: Path):
    items(tmp_path)
    features = [
        *project_values("x")["features"],
        {"kind": "categorical", "column": "item.kinds", "max_values": 2, "encoding": "hash"},
        {"kind": "numeric", "column": "item.price", "transform": "quantile"},
        {"kind": "age", "since": "item.born"},
        {"kind": "vector", "entity": "item", "column": "v"},
    ]
    options: dict[str, Any] = {"entities": ENTITIES, "features": features}
    raw = impressions(900).sample(fraction=1, shuffle=True, seed=1)
    prepared = pack(raw, tmp_path / "work", tmp_path, **options)
    spec = meaning(**options)
    events = check(raw, spec)[0].sort(TIME, "__row")
    direct = FeaturePipeline(spec, load_entity_tables(spec, tmp_path), prepared.pipeline.train_end)
    direct.vocabularies, direct.normaliser = prepared.pipeline.vocabularies, prepared.pipeline.normaliser
    parts = []
    for piece in events.iter_slices(77):
        arrays = direct.encode(direct.absorb(piece)) | direct.labels(piece)
        arrays["dense"] = direct.normaliser.transform(arrays["dense"])
        parts.append(arrays)
    assert set(parts[0]) == set(prepared.packed.arrays)
    for name in parts[0]:
        np.testing.assert_array_equal(
            prepared.packed.arrays[name], np.concatenate([p[name] for p in parts]), err_msg=name
        )
    assert len(prepared.packed) == 900
    assert prepared.packed.arrays["ids"].max() > FIRST
    assert np.isfinite(prepared.packed.arrays["dense"]).all()


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_train_alone_decides_how_train_is_encoded(tmp_path: Path, encoding: str):
    """Other events after train: new ids, other labels, other numbers. Nothing in train changes."""
    raw = impressions(800)
    features = [
        {"kind": "categorical", "column": "m", "table": "shared", "encoding": encoding},
        {"kind": "categorical", "column": "i", "table": "shared", "encoding": encoding},
        {"kind": "categorical", "column": "tags", "max_values": 2},
        {"kind": "numeric", "column": "num"},
        {"kind": "history", "length": 3, "delay": "none"},
    ]
    cut = raw["t"][640]
    other = impressions(500, seed=9, members=40, items=60).filter(pl.col("t") >= cut)
    swapped = other.with_columns(m="i", i="m", num=pl.col("num") * 1e6, y=1 - pl.col("y"))
    changed = pl.concat([raw.filter(pl.col("t") < cut), swapped])
    split = {"valid_from": cut, "test_from": raw["t"][720]}
    one = pack(raw, tmp_path / "a", features=features, split=split)
    two = pack(changed, tmp_path / "b", features=features, split=split)
    assert one.packed.splits["train"] == two.packed.splits["train"]
    a, b = one.packed.rows("train"), two.packed.rows("train")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for name, vocabulary in one.pipeline.vocabularies.items():
        assert vocabulary.rows == two.pipeline.vocabularies[name].rows
        np.testing.assert_array_equal(vocabulary.index.keys, two.pipeline.vocabularies[name].index.keys)
    for name, array in one.pipeline.normaliser.to_arrays().items():
        np.testing.assert_array_equal(array, two.pipeline.normaliser.to_arrays()[name])


@settings(max_examples=settings().max_examples // 2)
@given(
    ticks=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    train=st.floats(0.05, 0.9),
    valid=st.floats(0.05, 0.5),
)
def test_splits_are_in_time_order_and_never_part_a_moment(ticks: list[int], train: float, valid: float):
    if train + valid > 0.98:
        return
    times = np.sort(np.array(ticks, np.int64)) * HOUR + START
    spec = meaning(split={"train": train, "valid": valid})
    try:
        parts = split_bounds(times, spec)
    except DataError:  # few moments: a part has no rows
        return
    bounds = [parts[name] for name in ("train", "valid", "test")]
    assert bounds[0][0] == 0
    assert bounds[2][1] == len(times)
    for (_, end), (begin, _) in itertools.pairwise(bounds):
        assert end == begin
        assert times[end - 1] < times[begin]
    assert abs(bounds[0][1] - len(times) * train) <= np.bincount(ticks).max()


def test_a_split_by_dates_begins_at_midnight_utc(tmp_path: Path):
    split = {"valid_from": "2020-09-19", "test_from": "2020-09-21T12:00:00"}
    prepared = pack(impressions(900), tmp_path, split=split)
    times = {name: prepared.packed.rows(name)["time"] for name in ("train", "valid", "test")}
    midnight = START + 6 * DAY
    assert times["train"][-1] < midnight <= times["valid"][0]
    assert times["valid"][-1] < midnight + 2 * DAY + 12 * HOUR <= times["test"][0]


def test_ids_of_a_row(tmp_path: Path):
    """Known, too rare, missing, and unused places."""
    raw = impressions(300).with_columns(
        i=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("once")).otherwise("i"),
        cat=pl.when(pl.int_range(pl.len()) == 299).then(pl.lit("late")).otherwise("cat"),
        tags=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit([])).otherwise("tags"),
    )
    raw = raw.with_columns(cat=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(None)).otherwise("cat"))
    features = [
        {"kind": "categorical", "column": "i"},
        {"kind": "categorical", "column": "cat"},
        {"kind": "categorical", "column": "tags", "max_values": 3},
    ]
    ids = pack(raw, tmp_path, features=features).packed.arrays["ids"]
    assert ids[3, 0] == UNSEEN
    assert ids[299, 1] == UNSEEN
    assert ids[7, 1] == MISSING
    assert ids[5, 2:].tolist() == [PAD] * 3
    assert (ids[6, 2:] >= FIRST).sum() in (1, 2)
    assert ids[6, 4] == PAD


def test_the_clock_and_the_age_of_a_row(tmp_path: Path):
    items(tmp_path)
    options: dict[str, Any] = {
        "entities": ENTITIES,
        "features": [{"kind": "age", "since": "item.born"}, {"kind": "clock", "timezone": "Asia/Tokyo"}],
        "aggregates": [],
    }
    spec = meaning(**options)
    rows = check(
        impressions(3).with_columns(i=pl.Series(["i0", "i1", "i2"]), t=pl.lit(START // 10**6)), spec
    )[0]
    pipeline = FeaturePipeline(spec, load_entity_tables(spec, tmp_path))
    arrays = pipeline.encode(Frame(rows, spec, pipeline.tables))
    days = START / DAY + 14_096  # from 1931-05-30 to 1970
    np.testing.assert_allclose(arrays["dense"][0], np.log1p(days), rtol=1e-6)
    assert np.isnan(arrays["dense"][1])
    assert arrays["dense"][2] == 0.0, "an item of the future has age 0"
    # Midnight in UTC is nine in the morning in Tokyo, on a Sunday.
    again = meaning(**options | {"features": [{"kind": "age", "since": "item.born"}, {"kind": "clock"}]})
    nine = rows.with_columns(pl.col(TIME) + 9 * HOUR)
    utc = FeaturePipeline(again, pipeline.tables)
    utc.vocabularies = pipeline.vocabularies
    np.testing.assert_array_equal(utc.encode(Frame(nine, again, utc.tables))["ids"], arrays["ids"])


def test_vectors_of_a_file_are_gathered_by_id(tmp_path: Path):
    ids = [f"i{k}" for k in range(10)]
    vectors = np.arange(20, dtype=np.float32).reshape(10, 2)
    EntityEmbeddings("item", pl.Series(ids), vectors, "v1", START).write(tmp_path / "items.arrow")
    feature = {"kind": "vector", "entity": "item", "path": "items.arrow", "name": "graph"}
    raw = impressions(400)
    prepared = pack(raw, tmp_path / "work", tmp_path, features=[feature])
    found = prepared.pipeline.gather_vectors(prepared.packed.arrays)["graph"]
    expected = [vectors[int(i[1:])] if int(i[1:]) < 10 else np.zeros(2) for i in raw["i"]]
    np.testing.assert_array_equal(found, np.array(expected))
    wrong = {**feature, "entity": "member"}
    with pytest.raises(ConfigError, match="embeddings are of 'item', not of 'member'"):
        pack(raw, tmp_path / "w", tmp_path, features=[wrong])
    with pytest.raises(DataError, match=r"none\.arrow: entity embeddings cannot be read"):
        pack(raw, tmp_path / "w", tmp_path, features=[{**feature, "path": "none.arrow"}])


def test_the_name_of_a_cache_knows_every_file(tmp_path: Path):
    items(tmp_path)
    impressions(50).write_parquet(tmp_path / "log.parquet")
    EntityEmbeddings("item", pl.Series(["i0"]), np.zeros((1, 2), np.float32), "v1", 0).write(
        tmp_path / "e.arrow"
    )
    vector = {"kind": "vector", "entity": "item", "path": "e.arrow", "name": "graph"}
    spec = meaning(entities=ENTITIES, features=[vector])
    names = [fingerprint(spec, tmp_path)]
    assert fingerprint(spec, tmp_path) == names[0]
    impressions(51).write_parquet(tmp_path / "log.parquet")
    names.append(fingerprint(spec, tmp_path))
    items(tmp_path, 18)
    names.append(fingerprint(spec, tmp_path))
    EntityEmbeddings("item", pl.Series(["i0", "i1"]), np.zeros((2, 2), np.float32), "v2", 0).write(
        tmp_path / "e.arrow"
    )
    names.append(fingerprint(spec, tmp_path))
    names.append(fingerprint(meaning(entities=ENTITIES, features=[vector], seed=5), tmp_path))
    assert len(set(names)) == 5


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"y": pl.lit(1)}, "every label in train is 1: there is nothing to learn"),
        ({"y": pl.lit(0)}, "every label in train is 0: there is nothing to learn"),
        ({"t": pl.lit(START)}, "the split leaves no rows for train"),
        ({"num": pl.lit([1.0])}, "column 'num': holds List"),
        ({"i": pl.col("tags")}, "column 'i': holds List"),
        ({"m": pl.lit("")}, "300 x member id is missing"),
    ],
)
def test_a_log_that_cannot_be_learned_from_says_why(tmp_path: Path, spoil: dict[str, pl.Expr], says: str):
    with pytest.raises(DataError, match="(?s)" + says.replace("(", r"\(")):
        pack(
            impressions(300).with_columns(**spoil),
            tmp_path,
            events={"path": "x", "time": "t", "time_unit": "us"},
        )


def test_a_mask_that_never_holds_in_train_says_so(tmp_path: Path):
    with pytest.raises(DataError, match=r"tasks\.y: the label is defined for no row of train"):
        pack(impressions(300), tmp_path, tasks=[{"name": "y", "label": "y", "mask": "y > 1"}])


@pytest.mark.parametrize(
    "odd",
    [
        {"m": pl.lit("the only member")},
        {"i": pl.lit("the only item")},
        {"num": pl.lit(None)},
        {"num": pl.lit(float("nan"))},
        {"num": pl.lit(float("inf"))},
        {"tags": pl.lit(None)},
        {"cat": pl.lit(None, pl.String)},
        {"m": pl.format("🎬{}\u0301", pl.col("m"))},
        {"m": pl.col("m").hash() | (1 << 63)},
        {"m": pl.lit("x" * 100_000)},
        {"i": pl.col("i").cast(pl.Categorical)},
        {"y": pl.col("y").cast(pl.Float64) * 0.8 + 0.1},
    ],
)
def test_odd_logs_that_work(tmp_path: Path, odd: dict[str, pl.Expr]):
    tasks = [{"name": "y", "label": "y"}]
    prepared = pack(impressions(300).with_columns(**odd), tmp_path, tasks=tasks)
    assert len(prepared.packed) == 300
    assert np.isfinite(prepared.packed.arrays["dense"]).all()
    assert (
        prepared.packed.arrays["ids"] < max(v.rows for v in prepared.pipeline.vocabularies.values())
    ).all()


def test_a_task_may_be_undefined_in_all_of_test(tmp_path: Path):
    raw = impressions(300).with_row_index("k")
    prepared = pack(raw, tmp_path, tasks=[{"name": "y", "label": "y", "mask": "k < 200"}])
    assert np.isnan(prepared.packed.rows("test")["labels"]).all()
    splits: Any = prepared.summary["splits"]
    assert np.isnan(splits["test"]["label rates"]["y"])
    assert 0 < splits["train"]["label rates"]["y"] < 1


def test_positives_alone_become_a_log_with_negatives(tmp_path: Path):
    tasks = [{"name": "y", "label": "1"}]
    with pytest.raises(DataError, match="for a log that holds only positives, ask for 'negatives'"):
        pack(impressions(300), tmp_path / "a", tasks=tasks)
    prepared = pack(impressions(300), tmp_path / "b", tasks=tasks, negatives={"per_positive": 3})
    labels = np.asarray(prepared.packed.arrays["labels"])
    first = int(np.isnan(labels).sum())  # events of items that could not have been drawn
    assert 0 < first < 60
    assert np.nansum(labels) == 300 - first
    assert 0.85 * 3 * (300 - first) < (labels == 0).sum() <= 3 * (300 - first)
    assert f"negatives were drawn for {300 - first} events" in str(prepared.summary["negatives"])


def test_a_crash_while_packing_leaves_no_packed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeaturePipeline, "labels", fail)
    with pytest.raises(KeyboardInterrupt):
        pack(impressions(300), tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "packed").exists()
    assert len(pack(impressions(300), tmp_path).packed) == 300


@pytest.mark.parametrize("harm", ["packed.json", "0.npy"])
def test_damaged_packed_rows_say_what_to_do(tmp_path: Path, harm: str):
    packed = pack(impressions(300), tmp_path).packed.path
    (packed / harm).write_bytes((packed / harm).read_bytes()[:10])
    with pytest.raises(DataError, match=r"packed rows cannot be read[\s\S]*delete this directory"):
        PackedRows(packed)
