"""Words of the graph: what an edge type is called, and the two ends of time."""

from __future__ import annotations

from typing import Any

import numpy as np

from memberwise.errors import ConfigError

EdgeType = tuple[str, str, str]
"""Source node type, relation, target node type: ``("member", "rates", "item")``.

An edge says that its source looks at its target: the neighbours of a node are the targets of its edges, and
messages flow from target to source. To look the other way, follow the reverse edge type.
"""

Whole = Any
"""An integer as kernels take it, Python's or numpy's (numba infers its own types)."""

NEVER = np.int64(np.iinfo(np.int64).max)
"""Cut-off of a seed without a time: every edge is before it."""

TIMELESS = np.int64(np.iinfo(np.int64).min)
"""Time of an edge that always holds, such as an attribute: it is before every cut-off."""

RESEMBLES = "resembles"
"""Relation of the edges that densification makes (`memberwise.graph.densify`): nobody did anything there."""

_REVERSE = "rev_"


def reverse_of(edge_type: EdgeType) -> EdgeType:
    """The edge type that leads back.

    Examples
    --------
    >>> reverse_of(("member", "rates", "item"))
    ('item', 'rev_rates', 'member')
    >>> reverse_of(("item", "rev_rates", "member"))
    ('member', 'rates', 'item')
    """
    source, relation, target = edge_type
    back = relation.removeprefix(_REVERSE) if relation.startswith(_REVERSE) else _REVERSE + relation
    return (target, back, source)


def is_artificial(edge_type: EdgeType) -> bool:
    """Whether densification made edges of this type, so that they say nothing of how active a node is."""
    return edge_type[1] == RESEMBLES


def edge_name(edge_type: EdgeType) -> str:
    """An edge type in one word, as settings and files write it: ``member:rates:item``."""
    return ":".join(edge_type)


def parse_edge(name: str) -> EdgeType:
    """The inverse of `edge_name`.

    Raises
    ------
    ConfigError
        If the text is not three words with colons between them.
    """
    parts = tuple(name.split(":"))
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"{name!r} is not an edge type", fix="write it like member:rates:item")
    return parts
