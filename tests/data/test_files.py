"""Any way to keep a table is read alike, and what cannot be read says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memberwise.data.files import column_names, expand, read_table, record_batches
from memberwise.errors import DataError

ROWS = pl.DataFrame({"id": ["001", "2", "ü"], "x": [1.0, 2.5, -3.0], "n": [1, 2, 3]})


def write(table: pl.DataFrame, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet" | ".pq":
            table.write_parquet(path)
        case ".csv":
            table.write_csv(path)
        case _:
            table.write_ipc(path)
    return str(path)


def complaint(source: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_table(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["parquet", "pq", "csv", "arrow", "feather", "ipc", "PARQUET"])
def test_every_format_holds_the_same_rows(tmp_path: Path, ending: str):
    path = write(ROWS, tmp_path / f"a.{ending.lower()}")
    if ending.isupper():
        path = str(Path(path).rename(tmp_path / "a.PARQUET"))
    assert read_table(path, text=["id"]).equals(ROWS)
    assert column_names(path) == ["id", "x", "n"]


def test_a_directory_a_glob_and_a_list_are_the_files_in_order(tmp_path: Path):
    for name, part in zip(("b/2", "a/1", "c"), (ROWS[1:2], ROWS[:1], ROWS[2:]), strict=True):
        write(part, tmp_path / f"{name}.parquet")
    (tmp_path / "notes.txt").write_text("not a table")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary/half.parquet").write_text("half")
    (tmp_path / ".hidden.parquet").write_text("half")
    assert read_table(tmp_path).equals(ROWS)
    assert read_table("[ab]/*.parquet", tmp_path).equals(ROWS[:2])
    assert read_table(["c.parquet", "a"], tmp_path)["id"].to_list() == ["ü", "001"]
    assert expand("a", tmp_path) == [str(tmp_path / "a/1.parquet")]


def test_a_remote_url_is_read_like_a_local_path():
    fs = fsspec.filesystem("memory")
    for name, part in (("1", ROWS[:1]), ("2", ROWS[1:])):
        with fs.open(f"/files-test/{name}.parquet", "wb") as f:
            part.write_parquet(f)
    with fs.open("/files-test/_tmp/x.parquet", "wb") as f:
        f.write(b"half")
    assert read_table("memory://files-test/1.parquet").equals(ROWS[:1])
    assert read_table("memory://files-test").equals(ROWS)
    assert read_table("memory://files-test/*.parquet").equals(ROWS)
    assert "files-test/3.parquet" in complaint("memory://files-test/3.parquet")
    assert "names no file" in complaint("memory://files-test/9*.parquet")
    assert "Protocol not known" in complaint("nowhere://a.parquet")


def test_files_may_order_their_columns_differently_and_leave_some_out(tmp_path: Path):
    write(ROWS[:1].select("n", "id"), tmp_path / "1.parquet")
    write(ROWS[1:], tmp_path / "2.parquet")
    table = read_table(tmp_path)
    assert table.select("id", "n").equals(ROWS.select("id", "n"))
    assert table["x"].to_list() == [None, 2.5, -3.0]


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_numbers_of_different_files_take_the_wider_type(tmp_path: Path, ending: str):
    """Whichever file comes first: a 1 in one is the 1.0 of the other, and 2.5 stays 2.5."""
    whole = ROWS[:1].with_columns(pl.col("x").cast(pl.Int32))
    for first, second in ((whole, ROWS[1:]), (ROWS[1:], whole)):
        folder = tmp_path / ending / ("a" if first is whole else "b")
        write(first, folder / f"1.{ending}")
        write(second, folder / f"2.{ending}")
        assert sorted(read_table(folder, text=["id"])["x"].to_list()) == [-3.0, 1.0, 2.5]


def test_ids_are_text_where_files_differ(tmp_path: Path):
    for name, ids in (("1", [17, 18]), ("2", ["17", "x"]), ("3", [2**60, 5])):
        write(pl.DataFrame({"id": ids}), tmp_path / f"{name}.parquet")
    expected = ["17", "18", "17", "x", str(2**60), "5"]
    assert read_table(tmp_path, text=["id"])["id"].to_list() == expected


def test_columns_that_files_disagree_on_are_named_if_they_are_read(tmp_path: Path):
    write(ROWS, tmp_path / "1.parquet")
    write(ROWS.with_columns(x=pl.lit("oops")), tmp_path / "2.parquet")
    said = complaint(tmp_path)
    assert "2.parquet: the column 'x' holds large_string" in said or "the column 'x' holds double" in said
    assert "1.parquet" in said
    assert "write it with one type" in said
    parts = list(record_batches(str(tmp_path), ["id", "n"]))
    assert sum(len(p) for p in parts) == 6


@pytest.mark.parametrize("order", ["12", "21"])
def test_a_cell_that_is_no_number_costs_itself_alone_in_several_csv_files(tmp_path: Path, order: str):
    """In one file pyarrow takes such a column for text; in several it would disagree with the others."""
    (tmp_path / f"{order[0]}.csv").write_bytes(b"id,x\n1,4\n2,oops\n3, 6\n")
    (tmp_path / f"{order[1]}.csv").write_bytes(b"id,x\n4,7\n5,8.5\n")
    table = read_table(tmp_path).sort("id")
    assert table["x"].to_list() == [4, None, 6, 7, 8.5]


def test_a_csv_keeps_the_zeros_of_ids_and_reads_the_rest_as_numbers(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffid,x,name\n0017,1,é\n,,\n18,2,NaN\n".encode())
    table = read_table(path, text=["id"])
    assert table["id"].to_list() == ["0017", "", "18"]
    assert table["x"].to_list() == [1, None, 2]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"", "cannot be read"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read"),
        ("a.arrow", b"ARROW1 and then nothing", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"id,x\n1,2\n3,4,5\n", "Expected 2 columns, got 3"),
        ("a.csv", b"id,x\n\xff,1\n", "invalid UTF8"),
        ("a.csv", b"id,id\n1,2\n", "stands twice"),
        ("a.csv", b"id,x\n" + b"1,1\n" * 400_000 + b"1,oops\n", "invalid value 'oops'"),
        ("a.txt", b"x", "'.txt' is not a known kind of table"),
        ("a", b"x", "'no ending' is not a known kind of table"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, says: str):
    path = tmp_path / name
    path.write_bytes(content)
    said = complaint(path, text=["id"])
    assert str(path) in said
    assert says in said


def test_a_torn_file_among_good_ones_is_the_one_that_is_named(tmp_path: Path):
    for k in range(3):
        write(ROWS, tmp_path / f"{k}.parquet")
    torn = tmp_path / "1.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    assert f"{torn}: cannot be read" in complaint(tmp_path)


def test_a_column_name_that_stands_twice(tmp_path: Path):
    table = pa.table([[1], [2]], names=["id", "id"])
    pq.write_table(table, tmp_path / "a.parquet")
    for source in (table, tmp_path / "a.parquet"):
        said = complaint(source)
        assert "stands twice" in said
        assert "rename one of them" in said


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: d / "none.parquet", "no such file"),
        (lambda d: str(d / "*.parquet"), "no such file"),
        (lambda d: d, "holds no Parquet, CSV or Arrow file"),
        (lambda d: [], "no path to a table is given"),
        (lambda d: [write(ROWS, d / "a.csv"), write(ROWS, d / "b.parquet")], "mixes csv and parquet files"),
        (lambda d: [write(ROWS, d / "a.csv"), "memory://a.csv"], "names files in different places"),
    ],
)
def test_a_path_that_names_nothing_readable(tmp_path: Path, make: Callable[[Path], Any], says: str):
    assert says in complaint(make(tmp_path))


def test_missing_columns_are_named_beside_those_that_are_there(tmp_path: Path):
    for source in (ROWS, ROWS.to_arrow(), write(ROWS, tmp_path / "a.parquet")):
        with pytest.raises(DataError, match=r"columns 'z', 'w' missing\n.*the table has: id, x, n"):
            list(record_batches(source, ["id", "z", "w"]))


def test_pieces_are_bounded_and_in_order(tmp_path: Path):
    table = pl.DataFrame({"n": range(1000)})
    table.write_parquet(tmp_path / "a.parquet", row_group_size=300)
    for source in (table, table.to_arrow(), str(tmp_path / "a.parquet")):
        parts = list(record_batches(source, ["n"], rows=64))
        assert max(len(p) for p in parts) <= 64
        assert pl.concat(parts)["n"].to_list() == list(range(1000))


def test_an_empty_table_keeps_its_columns(tmp_path: Path):
    for source in (ROWS[:0], ROWS[:0].to_arrow(), write(ROWS[:0], tmp_path / "a.parquet")):
        assert read_table(source).columns == ["id", "x", "n"]
        assert len(read_table(source)) == 0
