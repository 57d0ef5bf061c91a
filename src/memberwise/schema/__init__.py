"""What the columns of a log mean: entities, features, tasks and time.

Pure data models without input or output. A project file is one `Schema` plus the settings of the
ranker and of training (see `memberwise.project`).

A column is named as it stands in the event table (``hour``), or as ``entity.column`` when it stands
in the table of an entity (``item.genres``).
"""

from memberwise.schema.aggregates import Aggregate, aggregate_name
from memberwise.schema.basics import (
    DAY,
    HOUR,
    MICROSECOND,
    SECOND,
    Delay,
    Duration,
    Model,
    format_duration,
    parse_duration,
    to_micros,
)
from memberwise.schema.features import (
    Age,
    Categorical,
    Clock,
    Feature,
    History,
    Numeric,
    Vector,
    feature_columns,
    feature_name,
)
from memberwise.schema.log import Entity, Events, Negatives, Percentile, Split, Task
from memberwise.schema.whole import Schema

__all__ = [
    "DAY",
    "HOUR",
    "MICROSECOND",
    "SECOND",
    "Age",
    "Aggregate",
    "Categorical",
    "Clock",
    "Delay",
    "Duration",
    "Entity",
    "Events",
    "Feature",
    "History",
    "Model",
    "Negatives",
    "Numeric",
    "Percentile",
    "Schema",
    "Split",
    "Task",
    "Vector",
    "aggregate_name",
    "feature_columns",
    "feature_name",
    "format_duration",
    "parse_duration",
    "to_micros",
]
