"""Entity embeddings are written whole, read as written, and refused when they are not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.frame import EntityTable
from memberwise.data.hashing import hash_text, hash_values
from memberwise.errors import DataError


def made(ids: list[Any], vectors: np.ndarray | None = None) -> EntityEmbeddings:
    if vectors is None:
        vectors = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2)
    return EntityEmbeddings("item", pl.Series("id", ids), vectors, "v7", 1_600_000_000_000_000)


@pytest.mark.parametrize("ids", [["a", "🎬", "0017", str(2**60)], [17, 2**60, -1], []])
def test_read_as_written(tmp_path: Path, ids: list[Any]):
    one = made(ids)
    one.write(tmp_path / "e.arrow")
    other = EntityEmbeddings.read(tmp_path / "e.arrow")
    assert (other.entity, other.version, other.cutoff) == (one.entity, one.version, one.cutoff)
    assert other.ids.to_list() == [str(i) for i in ids]
    np.testing.assert_array_equal(other.vectors, one.vectors)
    assert len(other) == len(ids)
    assert other.dim == 2
    assert [p.name for p in tmp_path.iterdir()] == ["e.arrow"]


def test_rows_by_id_and_zero_for_the_unknown():
    found = made([17, 18])
    rows = found.rows(np.array([hash_text("18"), hash_text("nobody"), 0, hash_text("17")], np.uint64))
    assert rows.tolist() == [1, -1, -1, 0]
    assert found.gather(rows).tolist() == [[2, 3], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("ids", "vectors", "says"),
    [
        (["a", "a"], None, "1 ids repeat"),
        ([17, 17], None, "1 ids repeat"),
        (["a", None], None, "an id is missing"),
        (["a", ""], None, "an id is missing"),
        (["a"], np.array([[np.nan]], np.float32), "not finite"),
        (["a"], np.array([[np.inf]], np.float32), "not finite"),
        (["a"], np.zeros((2, 3), np.float32), "1 ids but vectors of shape"),
        (["a"], np.zeros(1, np.float32), "1 ids but vectors of shape"),
    ],
)
def test_what_is_no_embedding_is_refused(ids: list[Any], vectors: np.ndarray | None, says: str):
    with pytest.raises(DataError, match=says):
        made(ids, vectors)


def test_a_file_that_is_something_else_is_named(tmp_path: Path):
    path = tmp_path / "e.arrow"
    with pytest.raises(DataError, match=r"e\.arrow: entity embeddings cannot be read"):
        EntityEmbeddings.read(path)
    made(["a", "b"]).write(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"e\.arrow: entity embeddings cannot be read"):
        EntityEmbeddings.read(path)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("x", pa.int64())])):
        pass
    with pytest.raises(DataError, match="is not a table of entity embeddings"):
        EntityEmbeddings.read(path)


def test_a_list_column_is_a_table_of_vectors():
    ids = pl.Series("i", ["a", "b", "c"])
    found = EntityEmbeddings.from_column("item", ids, pl.Series([[1, 2], None, [3, 4]]), "item.v")
    assert found.ids.to_list() == ["a", "c"]
    assert found.vectors.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"different widths: \[1, 2\]"):
        EntityEmbeddings.from_column("item", ids, pl.Series([[1, 2], None, [3]]), "item.v")
    with pytest.raises(DataError, match=r"column 'item\.v': holds Int64, a list of numbers is expected"):
        EntityEmbeddings.from_column("item", ids, pl.Series([1, 2, 3]), "item.v")


def test_an_entity_table_knows_each_id_once():
    """Of two rows with the same id the last counts, and a row without an id is none."""
    table = EntityTable(
        "item",
        pl.DataFrame(
            {
                "i": ["a", "b", None, "a", ""],
                "x": [1.0, 2.0, 3.0, 4.0, 5.0],
                "kinds": [["u"], None, ["v"], ["v", "w", "v"], ["u"]],
            }
        ),
        "i",
    )
    assert len(table) == 2
    assert (table.duplicates, table.missing_ids) == (1, 2)
    rows = table.rows(hash_values(pl.Series(["a", "b", "zz", None])))
    np.testing.assert_array_equal(table.numbers("x", rows), [4.0, 2.0, np.nan, np.nan])
    flat, offsets = table.lists("kinds", rows, 5)
    assert offsets.tolist() == [0, 2, 2, 2, 2]
    assert flat.tolist() == [hash_text("v"), hash_text("w")]
    assert table.values("i", rows).tolist() == [hash_text("a"), hash_text("b"), 0, 0]
    with pytest.raises(
        DataError, match=r"entity 'item': column 'y' missing[\s\S]*the table has: i, x, kinds"
    ):
        table.numbers("y", rows)
