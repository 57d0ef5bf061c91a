"""What a graph stores of its tables, what it refuses, and what appending does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.errors import ConfigError, DataError
from memberwise.graph import EdgeArrays, EdgeTable, HeteroGraph, Nodes, reverse_of
from memberwise.graph.nodes import numbered
from support.graph_twins import COUNTS, HAS, KNOWS, RATES, graphs


def table(**settings) -> EdgeTable:
    """Three ratings out of order, one of them doubled."""
    values = {
        "source": pl.Series(["a", "b", "a", "a"]),
        "target": pl.Series([7, 7, 8, 7]),
        "time": pl.Series([30, 20, 10, 30]),
        "unknown_ids": "add",
    }
    return EdgeTable(RATES, **(values | settings))


def rows(graph: HeteroGraph, edge_type) -> list[tuple]:
    """All edges as (source, target, time, weight, edge), sorted."""
    coo = graph.adjacency[edge_type].coo()
    time = coo.time if coo.time is not None else np.full(len(coo.source), -1)
    weight = coo.weight if coo.weight is not None else np.ones(len(coo.source))
    return sorted(
        zip(
            coo.source.tolist(),
            coo.target.tolist(),
            time.tolist(),
            weight.tolist(),
            coo.edge.tolist(),
            strict=True,
        )
    )


@given(pair=st.one_of(graphs(), graphs(in_order=True)))
def test_every_edge_is_there_both_ways_and_every_row_in_the_order_of_time(pair):
    graph, lists = pair
    for edge_type, edges in lists.items():
        expected = [
            (
                s,
                t,
                -1 if edges.time is None else edges.time[e],
                1.0 if edges.weight is None else edges.weight[e],
                e,
            )
            for e, (s, t) in enumerate(zip(edges.source, edges.target, strict=True))
        ]
        assert rows(graph, edge_type) == sorted(expected)
        back = rows(graph, reverse_of(edge_type))
        assert back == sorted((t, s, *rest) for s, t, *rest in expected)
        for node in range(COUNTS[edge_type[0]]):
            for before in (None, 0, 4, 99):
                there = edges.before(node, before)
                adjacency = graph.adjacency[edge_type]
                assert adjacency.neighbours(node, before).tolist() == [edges.target[e] for e in there]
                assert adjacency.degrees(before)[node] == len(there)


@given(pair=graphs(in_order=True))
def test_compacting_changes_nothing_but_where_edges_lie(pair):
    graph, _ = pair
    whole = graph.compacted()
    assert whole.appended == 0
    for edge_type in graph.edge_types:
        assert rows(whole, edge_type) == rows(graph, edge_type)
        a, b = whole.adjacency[edge_type], graph.adjacency[edge_type]
        for node in range(a.sources):
            np.testing.assert_array_equal(a.neighbours(node), b.neighbours(node))


def test_ids_are_the_same_however_they_are_written():
    nodes = Nodes("item", pl.Series([7.0, 8.0]))
    assert nodes.ids.to_list() == ["7", "8"]
    graph = HeteroGraph.from_tables([nodes], [table()])
    assert graph.neighbours("a", RATES) == ["8", "7", "7"]
    assert graph.neighbours("a", RATES, before=30) == ["8"]
    assert graph.neighbours("7", reverse_of(RATES)) == ["b", "a", "a"]
    assert graph.last_time == 30
    with pytest.raises(DataError, match="'z' is not a node"):
        graph.neighbours("z", RATES)


def test_unknown_ids_are_refused_dropped_or_added():
    known = [Nodes("member", pl.Series(["a"])), Nodes("item", pl.Series(["7", "8"]))]
    with pytest.raises(DataError, match=r"ids of member in 1 row are no nodes, such as 'b'"):
        HeteroGraph.from_tables(known, [table(unknown_ids="error")])
    dropped = HeteroGraph.from_tables(known, [table(unknown_ids="drop")])
    assert [r[:3] for r in rows(dropped, RATES)] == [(0, 0, 30), (0, 0, 30), (0, 1, 10)]
    added = HeteroGraph.from_tables(known, [table()])
    assert added.nodes["member"].ids.to_list() == ["a", "b"]
    friends = EdgeTable(KNOWS, pl.Series(["a", "x"]), pl.Series(["y", "a"]), unknown_ids="add")
    graph = HeteroGraph.from_tables(known[:1], [friends])
    assert graph.neighbours("x", KNOWS) == ["a"]
    assert graph.neighbours("a", KNOWS) == ["y"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": pl.Series([30, None, 10, 30])}, "1 edges have no time or one before 1970"),
        ({"time": np.array([30, -1, 10, 30])}, "1 edges have no time or one before 1970"),
        ({"time": np.array([30.0, 1, 10, 30])}, "microseconds as integers"),
        ({"time": np.array([1, 2])}, "time: 2 rows for 4 edges"),
        ({"weight": np.array([1, -1, np.nan, 1])}, "2 weights are not numbers >= 0"),
        ({"source": pl.Series(["a", None, "a", ""])}, "2 ids are missing"),
        ({"duplicates": "error"}, "1 edges repeat the ends of another"),
    ],
)
def test_bad_edges_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        HeteroGraph.from_tables(edges=[table(**settings)])


def test_times_of_any_unit_become_microseconds():
    moments = pl.Series(["1970-01-01T00:00:01", "1970-01-01T00:00:02"]).str.to_datetime(time_unit="ms")
    for time in (moments, moments.to_numpy(), np.array([1_000_000, 2_000_000])):
        edges = EdgeTable(RATES, pl.Series([1, 1]), pl.Series([5, 6]), time=time, unknown_ids="add")
        assert HeteroGraph.from_tables(edges=[edges]).last_time == 2_000_000


def test_duplicates_merge_only_without_times():
    with pytest.raises(ConfigError, match="a later event would enter an earlier edge"):
        HeteroGraph.from_tables(edges=[table(duplicates="merge")])
    merged = table(duplicates="merge", time=None, weight=np.array([1.0, 2, 3, 4]), features=np.arange(4))
    graph = HeteroGraph.from_tables(edges=[merged])
    assert rows(graph, RATES) == [(0, 0, -1, 5.0, 0), (0, 1, -1, 3.0, 2), (1, 0, -1, 2.0, 1)]
    assert graph.edge_features[RATES].tolist() == [0, 1, 2]


def test_self_loops_follow_the_rule():
    def graph(**settings):
        edges = EdgeTable(KNOWS, pl.Series(["a", "b"]), pl.Series(["a", "a"]), unknown_ids="add", **settings)
        return HeteroGraph.from_tables(edges=[edges])

    with pytest.raises(DataError, match="1 edges lead from a node to itself"):
        graph()
    assert graph(self_loops="drop").adjacency[KNOWS].edges == 1
    assert graph(self_loops="keep").neighbours("a", KNOWS) == ["a"]


def test_ends_that_are_no_nodes_are_refused_before_a_kernel_sees_them():
    nodes = [numbered("member", 2), numbered("item", 2)]
    for source, target in (([0, 2], [0, 0]), ([0, 1], [0, -1])):
        with pytest.raises(DataError, match=r"1 edges whose (source|target) is not a node"):
            HeteroGraph.from_arrays(nodes, [EdgeArrays(RATES, np.array(source), np.array(target))])
    with pytest.raises(ConfigError, match="no nodes of type 'genre'"):
        HeteroGraph.from_arrays(nodes, [EdgeArrays(HAS, np.array([0]), np.array([0]))])
    once = EdgeArrays(RATES, np.array([0]), np.array([0]))
    with pytest.raises(ConfigError, match="the edge type stands twice"):
        HeteroGraph.from_arrays(nodes, [once, once])


def test_nodes_refuse_what_would_mix_up_rows():
    with pytest.raises(DataError, match="1 ids repeat"):
        Nodes("item", pl.Series(["7", "8", "7"]))
    with pytest.raises(DataError, match="2 ids are missing"):
        Nodes("item", pl.Series(["7", None, ""]))
    with pytest.raises(DataError, match="content: 1 rows for 2 ids"):
        Nodes("item", pl.Series([1, 2]), content=np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="not finite"):
        Nodes("item", pl.Series([1]), content=np.full((1, 3), np.nan, np.float32))


def test_append_adds_newer_edges_and_names_the_nodes_they_touch():
    nodes = Nodes("item", pl.Series([7, 8]), {"size": np.ones((2, 1))}, np.ones((2, 3), np.float32))
    graph = HeteroGraph.from_tables([nodes], [table()])
    newer = EdgeTable(
        RATES, pl.Series(["c", "a"]), pl.Series([9, 8]), time=pl.Series([40, 30]), unknown_ids="add"
    )
    grown, touched = graph.append([newer])
    assert graph.neighbours("a", RATES) == ["8", "7", "7"]  # the old one is as it was
    assert grown.neighbours("a", RATES) == ["8", "7", "7", "8"]
    assert grown.neighbours("9", reverse_of(RATES)) == ["c"]
    names = {t: grown.nodes[t].ids[v.astype(np.int64)].to_list() for t, v in touched.items()}
    assert names == {"member": ["a", "c"], "item": ["8", "9"]}
    assert grown.nodes["item"].content.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert grown.nodes["item"].features["size"].tolist() == [[1], [1], [0]]
    assert grown.appended == 4
    assert {r[4] for r in rows(grown, RATES)} == set(range(6))


def test_append_refuses_what_would_break_the_order_of_time():
    graph = HeteroGraph.from_tables(edges=[table()])
    late = EdgeTable(RATES, pl.Series(["a", "b"]), pl.Series([7, 7]), time=pl.Series([29, 31]))
    with pytest.raises(DataError, match="1 edges are older than the newest edge"):
        graph.append([late])
    with pytest.raises(DataError, match="the graph's edges have times, the new ones differ"):
        graph.append([EdgeTable(RATES, pl.Series(["a"]), pl.Series([7]))])
    with pytest.raises(
        ConfigError, match=r"(?s)no edge type member:knows:member.*it has item:rev_rates:member"
    ):
        graph.append([EdgeTable(KNOWS, pl.Series(["a"]), pl.Series(["b"]))])


def test_features_of_edges_grow_with_them():
    graph = HeteroGraph.from_tables(edges=[table(features=np.array([[1.0], [2], [3], [4]]))])
    more = {"source": pl.Series(["b"]), "target": pl.Series([8]), "time": pl.Series([50])}
    with pytest.raises(DataError, match="some edges have features and some have not"):
        graph.append([table(**more)])
    grown, _ = graph.append([table(**more, features=np.array([[9.0]]))])
    newest = rows(grown, RATES)[-1]
    assert newest[:3] == (1, 1, 50)
    assert grown.edge_features[RATES][newest[4]] == 9.0


def test_a_weight_that_comes_later_leaves_the_old_ones_at_1():
    graph = HeteroGraph.from_tables(edges=[table()])
    more = table(source=pl.Series(["b"]), target=pl.Series([8]), time=pl.Series([50]), weight=np.array([0.5]))
    grown, _ = graph.append([more])
    assert [r[3] for r in rows(grown, RATES)] == [1, 1, 1, 1, 0.5]
    plain = table(source=pl.Series(["b"]), target=pl.Series([8]), time=pl.Series([60]))
    again, _ = grown.append([plain])
    assert [r[3] for r in rows(again, RATES)] == [1, 1, 1, 1, 0.5, 1]


def test_adding_an_edge_type_shares_the_others():
    graph = HeteroGraph.from_tables(edges=[table()])
    nodes = numbered("genre", 2)
    has = EdgeTable(("item", "has", "genre"), pl.Series([7, 8]), pl.Series([0, 1]), reverse=False)
    more = HeteroGraph.from_tables([nodes], [has], base=graph)
    assert more.adjacency[RATES] is graph.adjacency[RATES]
    assert more.edge_types_from("item") == (("item", "has", "genre"), ("item", "rev_rates", "member"))
    assert more.edge_types_from("genre") == ()
