"""A graph on disk: arrays that are mapped, ids as Arrow, and a manifest with the SHA-256 of every file.

====================================  ============================================================
``graph.json``                        format, node types, edge types, and ``{"sha256", "bytes"}`` by file
``nodes.<i>.ids.arrow``               ids of node type i
``nodes.<i>.<j>.npy``                 its features and content, named in the manifest
``edges.<i>.base.<array>.npy``        compressed rows of edge type i (`memberwise.graph.adjacency.Segment`)
``edges.<i>.tail.<array>.npy``        what was appended since the last compaction
``edges.<i>.features.npy``            features of its edges
====================================  ============================================================

A directory is written under another name, forced to disk and renamed. Files never change once they are there:
a newer graph is another directory, in which equal files are hard links.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from memberwise.data.sealed import check, seal, sync
from memberwise.errors import BundleError
from memberwise.formats import check_format
from memberwise.graph.adjacency import Adjacency, Segment
from memberwise.graph.nodes import Nodes
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import edge_name, parse_edge

FORMAT = 1
MANIFEST = "graph.json"
_FIX = "write the graph anew from its events"


def write_graph(graph: HeteroGraph, folder: Path) -> None:
    """See `HeteroGraph.write`.

    Raises
    ------
    BundleError
        If the directory exists: a graph in use must not change under its readers.
    """
    if folder.exists():
        raise BundleError("is there already", where=str(folder), fix="write to a new directory")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        out = _Writer(partial)
        manifest = {
            "format": FORMAT,
            "nodes": [_write_nodes(out, i, graph.nodes[t]) for i, t in enumerate(graph.node_types)],
            "edges": [
                _write_edges(out, i, graph.adjacency[e], graph.edge_features.get(e))
                for i, e in enumerate(graph.edge_types)
            ],
            "files": out.files,
        }
        path = partial / MANIFEST
        path.write_text(json.dumps(manifest, indent=1))
        sync(path)
        sync(partial)
        try:
            partial.rename(folder)
        except OSError as error:  # another writer was faster
            raise BundleError(f"cannot be put in place: {error.strerror}", where=str(folder)) from error
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_graph(folder: Path, verify: bool = True) -> HeteroGraph:
    """See `HeteroGraph.open`."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        check_format(manifest["format"], FORMAT, path)
        for name, entry in manifest["files"].items():
            check(folder / name, entry, _FIX, deep=verify)
        nodes = {n["type"]: _open_nodes(folder, i, n) for i, n in enumerate(manifest["nodes"])}
        adjacency, features = {}, {}
        for i, e in enumerate(manifest["edges"]):
            edge_type = parse_edge(e["type"])
            base, tail = (_open_segment(folder, f"edges.{i}.{part}") for part in ("base", "tail"))
            adjacency[edge_type] = Adjacency(edge_type, e["sources"], e["targets"], base, tail)
            if e["features"]:
                features[edge_type] = _map(folder / f"edges.{i}.features.npy")
        return HeteroGraph(nodes, adjacency, features)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the graph cannot be read: {error}", where=str(path), fix=_FIX) from error


class _Writer:
    """Files of one directory and their checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self._manifests: dict[Path, Mapping[str, Any]] = {}

    def array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write an array, or link the file that it maps."""
        if not self._link(name, array):
            with (self.folder / name).open("wb") as file:
                np.save(file, array, allow_pickle=False)
            self.done(name)

    def done(self, name: str) -> None:
        """Force a file to disk and note its checksum."""
        self.files[name] = seal(self.folder / name)

    def _link(self, name: str, array: npt.NDArray[Any]) -> bool:
        mapped = array.base
        if not isinstance(mapped, np.memmap) or mapped.filename is None:
            return False
        if (array.ctypes.data, array.shape, array.dtype) != (mapped.ctypes.data, mapped.shape, mapped.dtype):
            return False
        old = Path(mapped.filename)
        try:
            known = self._known(old)
            if known is None or old.stat().st_size != known["bytes"]:
                return False
            os.link(old, self.folder / name)
        except OSError:  # gone, or on a file system without links: write it instead
            return False
        self.files[name] = dict(known)
        return True

    def _known(self, file: Path) -> Mapping[str, Any] | None:
        if file.parent not in self._manifests:
            self._manifests[file.parent] = json.loads((file.parent / MANIFEST).read_text())["files"]
        return self._manifests[file.parent].get(file.name)


def _write_nodes(out: _Writer, i: int, nodes: Nodes) -> dict[str, Any]:
    name = f"nodes.{i}.ids.arrow"
    table = pa.table({"id": nodes.ids.to_arrow().cast(pa.large_string())})
    with pa.OSFile(str(out.folder / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    out.done(name)
    names = sorted(nodes.features)
    for j, feature in enumerate(names):
        out.array(f"nodes.{i}.{j}.npy", nodes.features[feature])
    if nodes.content is not None:
        out.array(f"nodes.{i}.content.npy", nodes.content)
    return {"type": nodes.type, "features": names, "content": nodes.content is not None}


def _open_nodes(folder: Path, i: int, meta: Mapping[str, Any]) -> Nodes:
    with pa.memory_map(str(folder / f"nodes.{i}.ids.arrow")) as source:
        ids = pl.Series("id", pa.ipc.open_file(source).read_all()["id"])
    features = {name: _map(folder / f"nodes.{i}.{j}.npy") for j, name in enumerate(meta["features"])}
    content = _map(folder / f"nodes.{i}.content.npy") if meta["content"] else None
    return Nodes(meta["type"], ids, features, content)


def _write_edges(
    out: _Writer, i: int, adjacency: Adjacency, features: npt.NDArray[Any] | None
) -> dict[str, Any]:
    for part, segment in (("base", adjacency.base), ("tail", adjacency.tail)):
        for field, array in segment._asdict().items():
            out.array(f"edges.{i}.{part}.{field}.npy", array)
    if features is not None:
        out.array(f"edges.{i}.features.npy", features)
    return {
        "type": edge_name(adjacency.edge_type),
        "sources": adjacency.sources,
        "targets": adjacency.targets,
        "features": features is not None,
    }


def _open_segment(folder: Path, prefix: str) -> Segment:
    return Segment(*(_map(folder / f"{prefix}.{field}.npy") for field in Segment._fields))


def _map(path: Path) -> npt.NDArray[Any]:
    """A mapped array as a plain one (kernels know no other), read-only."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(array)
