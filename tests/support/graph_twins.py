"""Small temporal graphs for hypothesis: many equal times, several edge types, appended edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from memberwise.graph import EdgeArrays, EdgeType, HeteroGraph
from memberwise.graph.nodes import numbered

RATES: EdgeType = ("member", "rates", "item")
KNOWS: EdgeType = ("member", "knows", "member")
HAS: EdgeType = ("item", "has", "genre")
COUNTS = {"member": 4, "item": 5, "genre": 2}


@dataclass(frozen=True)
class Edges:
    """Edges of one type as plain lists: what a brute-force twin reads."""

    edge_type: EdgeType
    source: list[int]
    target: list[int]
    time: list[int] | None
    weight: list[float] | None

    def arrays(self, first: int = 0, last: int | None = None) -> EdgeArrays:
        """Rows [first, last) as the store takes them."""
        rows = slice(first, last)
        return EdgeArrays(
            self.edge_type,
            np.array(self.source[rows], np.int64),
            np.array(self.target[rows], np.int64),
            None if self.time is None else np.array(self.time[rows], np.int64),
            None if self.weight is None else np.array(self.weight[rows]),
            self_loops="keep",
        )

    def before(self, node: int, cut: int | None, backwards: bool = False, since: int | None = None):
        """Edge numbers of a node, oldest first, in the order of (time, row)."""
        ends = self.target if backwards else self.source
        rows = [e for e, v in enumerate(ends) if v == node]
        if self.time is None:
            return rows
        rows.sort(key=lambda e: (self.time[e], e))
        rows = [e for e in rows if cut is None or self.time[e] < cut]
        return [e for e in rows if since is None or self.time[e] >= since]


def edges(edge_type: EdgeType, timed: bool, in_order: bool = False) -> st.SearchStrategy[Edges]:
    """Up to 30 edges; in any order unless asked otherwise."""
    row = st.tuples(
        st.integers(0, COUNTS[edge_type[0]] - 1),
        st.integers(0, COUNTS[edge_type[2]] - 1),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    )

    def build(rows: list[tuple[int, int, int, float]], weighted: bool) -> Edges:
        if in_order:
            rows = sorted(rows, key=lambda r: r[2])
        columns = [list(c) for c in zip(*rows, strict=True)] or [[], [], [], []]
        return Edges(
            edge_type, columns[0], columns[1], columns[2] if timed else None, columns[3] if weighted else None
        )

    return st.builds(build, st.lists(row, max_size=30), st.booleans())


@st.composite
def graphs(draw, in_order: bool = False) -> tuple[HeteroGraph, dict[EdgeType, Edges]]:
    """A graph of three edge types, and its edges as lists."""
    lists = {
        RATES: draw(edges(RATES, timed=True, in_order=in_order)),
        KNOWS: draw(edges(KNOWS, timed=True, in_order=in_order)),
        HAS: draw(edges(HAS, timed=False)),
    }
    nodes = [numbered(t, n) for t, n in COUNTS.items()]
    if not in_order:
        return HeteroGraph.from_arrays(nodes, [e.arrays() for e in lists.values()]), lists
    # The same edges in up to three steps.
    steps = sorted(draw(st.tuples(*[st.integers(0, 30)] * 2)))
    graph = HeteroGraph.from_arrays(
        nodes, [lists[RATES].arrays(0, steps[0]), lists[KNOWS].arrays(0, steps[0]), lists[HAS].arrays()]
    )
    for first, last in ((steps[0], steps[1]), (steps[1], None)):
        graph, _ = graph.append([lists[t].arrays(first, last) for t in (RATES, KNOWS)])
    return graph, lists
