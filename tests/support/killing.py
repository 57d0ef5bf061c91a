"""An update in a process of its own, to be killed. Importing this reads all that an update needs."""

from __future__ import annotations

from multiprocessing.connection import Connection

from memberwise.fresh.update import update
from memberwise.project import Project


def update_when_told(project: str, events: str, link: Connection) -> None:
    """Say that everything is read, wait for the word, update, say so."""
    loaded = Project.load(project)
    link.send("ready")
    link.recv()
    update(loaded, events, train=True)
    link.send("done")
