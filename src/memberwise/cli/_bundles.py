"""Saved versions: bundles list, bundles rollback."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from memberwise.cli._app import ProjectPath, app, out
from memberwise.errors import ConfigError

bundles = typer.Typer(help="List the saved versions of a project, or go back to one.", no_args_is_help=True)
app.add_typer(bundles, name="bundles")


@bundles.command("list")
def bundles_list(project: ProjectPath) -> None:
    """List the versions, oldest first; the star marks the current one."""
    from memberwise import bundle
    from memberwise.project import Project

    directory = Project.load(project).bundles
    table = Table("", "version", "created", "from", "as of", "size")
    now = bundle.current(directory)
    for path in bundle.versions(directory):
        manifest = bundle.read_manifest(path)
        size = sum(f["bytes"] for f in manifest.files.values())
        table.add_row(
            "*" if path.name == now else "",
            path.name,
            manifest.created,
            manifest.parent or "",
            str(manifest.info.get("as_of", "")),
            f"{size / 1e6:.1f} MB",
        )
    out.print(table)


@bundles.command("rollback")
def bundles_rollback(
    project: ProjectPath,
    version: Annotated[
        str | None, typer.Argument(help="Version to go back to; default: the parent of the current.")
    ] = None,
) -> None:
    """Make an earlier version the current one. Nothing is deleted."""
    from memberwise import bundle
    from memberwise.project import Project
    from memberwise.recommender.removal import refuse_forgotten

    loaded = Project.load(project)
    directory = loaded.bundles
    if version is None:
        version = bundle.read_manifest(bundle.resolve(directory)).parent
        if version is None:
            raise ConfigError("the current version has no parent", where=str(directory), fix="name a version")
    if version == bundle.current(directory):
        out.print(f"[bold]{version}[/] is the current version already: nothing changed")
        return
    if version in {path.name for path in bundle.versions(directory)}:
        bundle.verify(directory / version)
        refuse_forgotten(loaded, directory / version)
    bundle.point(directory, version)
    out.print(f"Current version: [bold]{version}[/]")
