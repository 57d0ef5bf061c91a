"""First states: ids that are known, ids that are not, and features."""

import numpy as np
import polars as pl
import pytest
import torch

from memberwise.errors import DataError
from memberwise.graph.blocks import NodeBatch
from memberwise.graph.node_input import IdRows, NodeInput, frequent, type_counts
from memberwise.graph.node_table import NodeTable, feature_matrix, typed_hashes
from memberwise.graph.nodes import Nodes, numbered
from support.graphs import communities


def _hashes(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**63, n).astype(np.uint64)


def test_unknown_nodes_share_the_row_of_their_type_and_known_ones_are_told_apart() -> None:
    hashes = _hashes(400)
    rows = IdRows(2, 300, 2, hashes[:200])
    found = rows.of(hashes, np.arange(400) % 2)
    assert found.min() >= 0
    assert found.max() < 1 + 2 + 300
    assert (found[200:, 1] == 0).all()
    np.testing.assert_array_equal(found[200:, 0], 1 + np.arange(200, 400) % 2)
    assert (found[:200] >= 3).all()
    # 200 ids in 300 rows: with one hash a third would share; with two nearly none agree in both.
    assert len(np.unique(found[:200, 0])) < 170
    assert len(np.unique(found[:200], axis=0)) >= 198


def test_rows_of_a_node_do_not_depend_on_the_others() -> None:
    hashes = _hashes(50)
    rows = IdRows(1, 40, 3, hashes[:30])
    whole = rows.of(hashes, np.zeros(50, int))
    np.testing.assert_array_equal(rows.of(hashes[::-1], np.zeros(50, int))[::-1], whole)


def test_the_state_is_the_sum_of_what_is_known() -> None:
    hashes = _hashes(3)
    ids = IdRows(2, 10, 2, hashes)
    net = NodeInput({"a": 2, "b": 0}, 16, ids).eval()
    x, at = torch.randn(2, 2), ids.of(hashes, np.array([0, 0, 1]))
    out = net(NodeBatch(torch.from_numpy(at), (2, 1), {"a": x}))
    assert net.table is not None
    raw = net.kind.weight[[0, 0, 1]] + net.table.weight[at[:, 0]] + net.table.weight[at[:, 1]]
    raw = raw + torch.cat([net.project["a"](x), torch.zeros(1, 16)])
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(raw, (16,)))


def test_in_training_a_share_of_the_ids_is_shown_as_unknown() -> None:
    torch.manual_seed(0)
    hashes = _hashes(2000)
    ids = IdRows(1, 5000, 2, hashes)
    net = NodeInput({"a": 0}, 16, ids, id_dropout=0.25)
    known = NodeBatch(torch.from_numpy(ids.of(hashes, np.zeros(2000, int))), (2000,), {})
    nobody = NodeBatch(
        torch.from_numpy(IdRows(1, 5000, 2, hashes[:0]).of(hashes, np.zeros(2000, int))), (2000,), {}
    )
    unknown = net.eval()(nobody)
    assert not torch.isclose(net(known), unknown).all(1).any()
    hidden = torch.isclose(net.train()(known), unknown).all(1).float().mean()
    assert 0.21 < float(hidden) < 0.29


def test_only_frequent_ids_are_known() -> None:
    hashes = _hashes(4)
    np.testing.assert_array_equal(frequent(hashes, np.array([0, 2, 3, 9]), 3), hashes[2:])


def test_types_are_counted_by_their_ranges() -> None:
    assert type_counts(np.array([0, 2, 5, 6]), (0, 3, 3, 10)) == (2, 0, 2)


def test_equal_ids_of_different_types_are_different_nodes() -> None:
    member, item = (typed_hashes(numbered(t, 50)) for t in ("member", "item"))
    assert not np.isin(member, item).any()


def test_the_table_gathers_features_by_type() -> None:
    graph = communities(members=5, items=4, events=20, features={"x": np.arange(4) * 10})
    table = NodeTable.of(graph, None)
    assert table.widths == {"genre": 0, "item": 1, "member": 0}
    item = table.numbers.start("item")
    found = table.gather(np.array([0, item + 1, item + 3, table.numbers.start("member")]))
    assert found["counts"].tolist() == [1, 2, 1]
    assert found["features.item"].tolist() == [[10.0], [30.0]]


def test_features_that_are_no_numbers_are_refused() -> None:
    nodes = Nodes("item", pl.Series(["a"]), {"name": np.array(["x"])})
    with pytest.raises(DataError, match="numbers are expected"):
        feature_matrix(nodes)
    missing = Nodes(
        "item", pl.Series(["a", "b"]), {"x": np.array([np.nan, 2.0])}, np.ones((2, 2), np.float32)
    )
    assert feature_matrix(missing).tolist() == [[0, 1, 1], [2, 1, 1]]
