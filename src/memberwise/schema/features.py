"""Features: what of a row the ranker looks at."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from memberwise.schema.basics import Delay, Model


class Categorical(Model):
    """One id, or several (`max_values` > 1), looked up in an embedding table."""

    kind: Literal["categorical"] = "categorical"
    column: str
    name: str = ""
    max_values: int = Field(1, ge=1, le=256, description="Values kept of a list column, in its order.")
    table: str | None = Field(None, description="Features with the same table share their embeddings.")
    encoding: Literal["vocabulary", "hash"] = Field(
        "vocabulary", description="hash: no dictionary and no unknown value, however many there are."
    )
    min_count: int = Field(2, ge=1, description="Rarer values in train share the unseen-value row.")
    remainders: int | None = Field(
        None,
        ge=1,
        description="Rows of the table of remainders: a value is the sum of a quotient's row and of a "
        "remainder's. With a vocabulary null gives each value its own row; with hash it is 65,536.",
    )
    dim: int | None = Field(None, ge=1, le=1024, description="Width; default: ranker.embedding_dim.")


class Numeric(Model):
    """A number; missing values become the mean plus an indicator."""

    kind: Literal["numeric"] = "numeric"
    column: str
    name: str = ""
    transform: Literal["standard", "log1p", "quantile", "none"] = "standard"


class Vector(Model):
    """A vector per entity: made elsewhere, a list column, or made by this project itself.

    A row sees the newest vector whose cut-off is not after its time, and zeros where there is none.
    """

    kind: Literal["vector"] = "vector"
    entity: str | None = Field(None, description="Whose vector it is: member, item, ...")
    path: str | None = Field(None, description="Entity embeddings (Arrow).")
    column: str | None = Field(None, description="List column of the entity's table.")
    made_by: Literal["graph", "meta"] | None = Field(
        None, description="The section of the project that makes the vectors; it declares them by itself."
    )
    by: list[str] = Field(
        [], description="Columns of a combined key instead of 'entity', if made_by is given."
    )
    dim: int | None = Field(None, ge=1, le=1024, description="Width, needed with made_by.")
    name: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(source is not None for source in (self.path, self.column, self.made_by)) != 1:
            raise ValueError(
                "give one of 'path' (entity embeddings), 'column' (of the entity's table) and 'made_by'"
            )
        if (self.entity is None) == (not self.by):
            raise ValueError("say whose vector it is: 'entity', or 'by' with the columns of a combined key")
        if self.by and self.made_by is None:
            raise ValueError("'by' goes with 'made_by' only")
        if self.made_by is not None and self.dim is None:
            raise ValueError("'made_by' needs 'dim', the width of the vectors")
        return self


class History(Model):
    """The member's last events before the row: item, action and age of each, newest first."""

    kind: Literal["history"] = "history"
    name: str = "history"
    length: int = Field(20, ge=1, le=1000)
    item: str | None = Field(None, description="Column of the past item; default: the item's id.")
    action: str | None = Field(None, description="Column of what was done; default: the labels of the tasks.")
    where: str | None = Field(None, description="SQL condition for an event to enter the history.")
    delay: Delay = "daily"
    encoder: str = Field("mean", description="How the sequence becomes a vector (a name in the registry).")


class Clock(Model):
    """Hour of the day and day of the week of the row, as categories."""

    kind: Literal["clock"] = "clock"
    name: str = "clock"
    timezone: str = "UTC"


class Age(Model):
    """Days from a date in a column to the time of the row, as log1p; negative ages become 0."""

    kind: Literal["age"] = "age"
    since: str = Field(description="Column with a date or time.")
    name: str = ""


Feature = Annotated[Categorical | Numeric | Vector | History | Clock | Age, Field(discriminator="kind")]


def feature_columns(feature: Categorical | Numeric | Vector | History | Clock | Age) -> list[str]:
    """Columns that a feature reads (expressions aside)."""
    match feature:
        case Categorical() | Numeric():
            return [feature.column]
        case Age():
            return [feature.since]
        case History():
            return [c for c in (feature.item, feature.action) if c is not None]
        case Vector():
            return [f"{feature.entity}.{feature.column}"] if feature.column else feature.by
        case Clock():
            return []


def feature_name(feature: Categorical | Numeric | Vector | History | Clock | Age) -> str:
    """The name of a feature: as given, else made from its column."""
    match feature:
        case Categorical() | Numeric():
            return feature.name or feature.column
        case Age():
            return feature.name or f"age({feature.since})"
        case Vector():
            whose = feature.entity or " x ".join(feature.by)
            return feature.name or f"{feature.made_by or 'vector'}({whose})"
        case History() | Clock():
            return feature.name
