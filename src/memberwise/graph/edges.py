"""Which edges a project's log and tables give: the families of the settings.

===========  ====================================================================  ============
engagement   the member did something with the item, at that moment                timed
affinity     the same event, with a value of a column (the creator) as the target  timed
attribute    what the table of an entity says of it (the genres of a film)         timeless
social       rows of a table of its own: who follows or knows whom                 either
===========  ====================================================================  ============

Source: LiGNN (KDD 2024), section on the graph's edge families and people recommendation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from memberwise.schema import Model, Schema


class Engagement(Model):
    """An edge for every event between two entities, as strong as `weight` says."""

    kind: Literal["engagement"] = "engagement"
    name: str = "engages"
    source: str = Field("member", description="Entity from which the edge leads.")
    target: str = Field("item", description="Entity to which it leads.")
    where: str | None = Field(
        None,
        description="SQL condition over event columns and tasks: rating >= 8. Default: the label of a task "
        "is above 0.",
    )
    weight: float | str = Field(1.0, description="Strength: a number, or SQL over event columns and tasks.")
    reverse: bool = Field(True, description="Also follow the edges backwards.")


class Affinity(Model):
    """An edge for every event from an entity to a value of a column, a node of its own type."""

    kind: Literal["affinity"] = "affinity"
    name: str = "favours"
    source: str = "member"
    column: str = Field(
        description="Event column, or entity.column: item.director. Lists give several edges."
    )
    where: str | None = Field(None, description="As for engagement.")
    weight: float | str = 1.0
    max_values: int = Field(4, ge=1, le=256, description="Values used of a list column.")
    reverse: bool = True


class Attribute(Model):
    """A timeless edge from an entity to every value of a column of its table."""

    kind: Literal["attribute"] = "attribute"
    name: str = "has"
    column: str = Field(description="entity.column: item.genres. Lists give several edges.")
    weight: float = Field(1.0, gt=0, description="The same for all.")
    max_values: int = Field(4, ge=1, le=256, description="Values used of a list column.")
    reverse: bool = True


class Social(Model):
    """Edges between entities of one kind from a table of their own."""

    kind: Literal["social"] = "social"
    name: str = "follows"
    entity: str = "member"
    path: str | list[str] = Field(description="Table with one row per edge.")
    source: str = Field(description="Column with the id from which the edge leads.")
    target: str = Field(description="Column with the id to which it leads.")
    time: str | None = Field(None, description="Column with the time; without it edges are timeless.")
    weight: float | str = Field(
        1.0, description="A number, a column of the table, or salton: by common neighbours (timeless only)."
    )
    reverse: bool = False


Edge = Annotated[Engagement | Affinity | Attribute | Social, Field(discriminator="kind")]


def default_edges(schema: Schema) -> list[Engagement | Affinity | Attribute | Social]:
    """What a project gets without saying: member engages item, and the categories of the entities' tables."""
    edges: list[Engagement | Affinity | Attribute | Social] = [Engagement()]
    for feature in schema.features:
        if feature.kind == "categorical":
            entity, dot, _ = feature.column.partition(".")
            if dot and entity in schema.entities:
                edges.append(Attribute(column=feature.column, max_values=max(4, feature.max_values)))
    return edges
