"""The graph of a project: graph densify."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from memberwise.cli._app import INSIDE, ProjectPath, app, out
from memberwise.errors import ConfigError

graphs = typer.Typer(help="Work on the graph of a project's events.", no_args_is_help=True)
app.add_typer(graphs, name="graph", rich_help_panel=INSIDE)


@graphs.command("densify")
def graph_densify(
    project: ProjectPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for the graph.")],
    before: Annotated[
        datetime | None, typer.Option(help="Know nothing from this moment on, UTC; default: all events.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Edges that a node with few edges gets.")] = 20,
    low: Annotated[float, typer.Option(help="Percentile of degree up to which a node is cold.")] = 30.0,
    high: Annotated[float, typer.Option(help="Percentile of degree from which on a node is hot.")] = 90.0,
) -> None:
    """Write the graph with edges from cold nodes to hot ones that resemble them in content.

    Degrees are counted at several moments: a node is cold if it was so at one of them. Content is what the
    vector features of an entity say. This is for looking, and for graphs used alone: a project does the same
    before its encoder learns, with the key graph.densify. Open the result with HeteroGraph.open.
    """
    from memberwise.graph.config import DensifyConfig
    from memberwise.graph.densify import densify
    from memberwise.graph.store import HeteroGraph
    from memberwise.project import Project
    from memberwise.schema import to_micros

    if low >= high:
        raise ConfigError(f"{low:g} must be below --high {high:g}", where="--low")
    loaded = Project.load(project)
    edges = loaded.config.graph.edges if loaded.config.graph is not None else []
    moment = None if before is None else to_micros(before)
    graph = HeteroGraph.from_project(loaded, edges, moment)
    denser, done = densify(graph, DensifyConfig(k=k, low=low, high=high), moment)
    denser.write(output)
    table = Table("node type", "nodes", "cold at some moment", "hot ones that they lead to", "new edges")
    for part in done:
        node_type = part.edge_type[0]
        table.add_row(
            node_type, *(f"{n:,}" for n in (graph.count(node_type), part.cold, part.hot, part.edges))
        )
    out.print(table)
    out.print(f"Wrote [bold]{output}[/]", soft_wrap=True)
