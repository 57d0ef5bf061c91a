"""A mistake in the project file is named with its line, its key and the likely fix."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from memberwise.errors import ConfigError
from memberwise.project import Project, json_schema
from memberwise.schema import DAY, to_micros

GOOD = """\
events:
  path: events.parquet
  time: t
entities:
  member: {id: m}
  item: {id: i}
tasks:
  - {name: y, label: "y = 1"}
features:
  - {kind: categorical, column: m}
  - kind: numeric
    column: num
aggregates:
  - {by: m, window: 7d}
"""


def load(folder: Path, text: str | bytes) -> Project:
    path = folder / "project.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Project.load(path)


def complaint(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(folder / "project.yaml") in str(caught.value)
    return str(caught.value)


def test_a_project_is_read_from_its_file_or_its_directory(tmp_path: Path):
    project = load(tmp_path, GOOD)
    assert project.config.aggregates[0].window == 7 * DAY
    assert project.base == tmp_path
    assert Project.load(tmp_path).config == project.config


def test_a_saved_project_is_the_same_project(tmp_path: Path):
    text = GOOD + "split: {valid_from: 2013-08-01, test_from: 2013-09-01T12:00:00+02:00}\nseed: 3\n"
    text = text.replace("window: 7d", "half_life: 36h")
    project = load(tmp_path, text)
    again = Project.from_dict(json.loads(json.dumps(project.to_dict())), tmp_path)
    one, other = project.config, again.config
    assert one.model_copy(update={"split": None}) == other.model_copy(update={"split": None})
    for key in ("valid_from", "test_from"):
        assert to_micros(getattr(one.split, key)) == to_micros(getattr(other.split, key))
    assert again.config.aggregates[0].half_life == DAY * 3 // 2
    split = project.config.split
    assert split.valid_from in (date(2013, 8, 1), datetime(2013, 8, 1))
    assert split.test_from == datetime(2013, 9, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("right", "wrong", "line", "nearest"),
    [
        ("tasks:", "taks:", 7, "tasks"),
        ("window:", "windw:", 14, "window"),
        ("column: num", "colum: num", 12, "column"),
        ("column: m}", "colunm: m}", 10, "column"),
        ("{id: i}", "{id: i, pth: x}", 6, "path"),
        ("time: t", "time: t\n  reqest: r", 4, "request"),
        ("window: 7d}", "window: 7d}\nranker: {embeding_dim: 3}", 15, "embedding_dim"),
        ("window: 7d}", "window: 7d}\nranker:\n  blocks:\n    - {type: mlp, hiden: [3]}", 17, "hidden"),
        ("window: 7d}", "window: 7d}\ntraining:\n  epoch: 3", 16, "epochs"),
        ("kind: numeric", "kind: numerc", 11, "numeric"),
        ("window: 7d}", "window: 7d}\nranker:\n  blocks:\n    - type: mpl", 17, "mlp"),
    ],
)
def test_a_typo_is_answered_with_its_line_and_the_nearest_key(
    tmp_path: Path, right: str, wrong: str, line: int, nearest: str
):
    said = complaint(tmp_path, GOOD.replace(right, wrong, 1))
    assert any(f"line {line}:" in part and f"did you mean '{nearest}'?" in part for part in said.splitlines())


def test_a_key_like_no_other_is_answered_with_the_known_ones(tmp_path: Path):
    said = complaint(tmp_path, GOOD + "xyz: 1\n")
    assert "line 15: xyz: unknown key; known keys: aggregates, " in said


def test_every_mistake_is_named_up_to_five(tmp_path: Path):
    said = complaint(tmp_path, GOOD + "".join(f"zz{k}: 1\n" for k in range(9)))
    assert "zz0" in said
    assert "zz4" in said
    assert "zz5" not in said
    assert "... and 4 more" in said


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("window: 7d", "window: 7", "line 14: aggregates.0.window: 7 is not a duration; write a number and"),
        ("window: 7d", "window: 7 days", "'7 days' is not a duration"),
        ("window: 7d", "window: 0d", "'0d' is not a duration"),
        ("window: 7d", "delay: weekly", "line 14: aggregates.0.delay: Input should be 'none', 'hourly'"),
        ("window: 7d", "window: 7d, half_life: 3d", "'window' and 'half_life' exclude each other"),
        ("window: 7d", "rates: [z]", "'rates' names 'z', not a task"),
        ("{by: m, window: 7d}", "{window: 7d}", "line 14: aggregates.0.by: this key is needed"),
        ("by: m", "by: []", "aggregates.0.by"),
        ("kind: numeric\n    ", "", "line 11: features.1: say what it is with the key 'kind'"),
        ("column: num", "column: item.num", "entity 'item' has no 'path' to a table"),
        ("column: num", "column: num\n  - {kind: numeric, column: num}", "'num' stands twice"),
        ("item: {id: i}", "thing: {id: i}", "'item' is missing; say which column holds its id"),
        ('"y = 1"', "1", "line 8: tasks.0.label"),
        ("time: t", "time: t\n  time: u", "line 4: the key 'time' stands twice"),
        ("time: t", "time: t\n\tx: 1", "line 4: is not YAML"),
        ("time: t", "time: t: u", "line 3: is not YAML"),
        ("events:", "split: {valid_from: 2013-13-45}\nevents:", "cannot be: month must be in 1..12"),
        ("events:", "split: {train: 0.9, valid: 0.1}\nevents:", "leave nothing for test"),
        (
            "events:",
            "split: {train: 80, valid: .1}\nevents:",
            "split.train: Input should be less than 1 ",
        ),
        ("events:", "split: {train: 80, valid: .1}\nevents:", "0 to 1: did you mean 0.8?"),
        ("events:", "split: {train: 87.5 %, valid: .1}\nevents:", "0 to 1: did you mean 0.875?"),
        (
            "time: t",
            "time: t\n  max_rejected: 2",
            "events.max_rejected: Input should be less than",
        ),
        ("time: t", "time: t\n  max_rejected: 2", "did you mean 0.02?"),
        ("events:", "graph: {learn: 50}\nevents:", "did you mean 0.5?"),
        ("events:", "effects: {forgetting: 99}\nevents:", "did you mean 0.99?"),
        ("events:", "x: &a [*a]\nevents:", "an anchor that contains itself"),
        ("events:", "x: !!python/object:os.system {}\nevents:", "is not YAML"),
        ("events:", "? [a, b]\n: 3\nevents:", "is not YAML"),
        ("events:", "3: 3\nevents:", "Keys should be strings"),
        ("events:", "name: ../x\nevents:", "cannot be the name of a directory"),
    ],
)
def test_what_cannot_be_is_said_in_words(tmp_path: Path, right: str, wrong: str, says: str):
    assert says in complaint(tmp_path, GOOD.replace(right, wrong, 1))


@pytest.mark.parametrize("wrong", ["train: 1", "train: 800", "train: -80", "train: x%", "train: [80]"])
def test_what_is_no_percentage_is_not_taken_for_one(tmp_path: Path, wrong: str):
    said = complaint(tmp_path, GOOD.replace("events:", f"split: {{{wrong}}}\nevents:", 1))
    assert "split.train" in said
    assert "did you mean" not in said


@pytest.mark.parametrize("text", ["", "- a\n", "hello", "# only a comment\n"])
def test_a_file_without_settings(tmp_path: Path, text: str):
    assert "holds no settings" in complaint(tmp_path, text)


@pytest.mark.parametrize("text", [b"name: \xe9 x", b"a\x00"])
def test_a_file_that_is_no_text(tmp_path: Path, text: bytes):
    assert "is not" in complaint(tmp_path, text)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read[\s\S]*memberwise init"):
        Project.load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"project\.yaml: cannot be read"):
        Project.load(tmp_path)


def test_the_json_schema_knows_every_key():
    schema = json_schema()
    assert schema["title"] == "memberwise project"
    assert {"events", "entities", "tasks", "ranker", "training"} <= set(schema["properties"])
    assert schema["$defs"]["Aggregate"]["properties"]["window"]["anyOf"][0]["type"] == "string"
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("events", 1), ("events.time", 3), ("events.time_unit", 1), ("entities.item.id", 6),
        ("tasks.0.label", 8), ("tasks.y.label", 8), ("tasks.z", 7), ("features.1.column", 12),
        ("features.num.column", 12), ("aggregates.m, 1w.window", 14), ("training.lr", None),
        ("/data/events.parquet", None),
    ],
)  # fmt: skip
def test_every_key_has_the_line_of_the_nearest_thing_in_the_file(tmp_path: Path, key: str, line: int | None):
    assert load(tmp_path, GOOD).line(key) == line


def test_output_beside_the_file_needs_no_directory_of_its_own(tmp_path: Path):
    assert load(tmp_path, GOOD + "output: .\n").output == tmp_path
    assert load(tmp_path, GOOD + "output: out\nname: n\n").output == tmp_path / "out" / "n"
