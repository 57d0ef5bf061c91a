"""Real event logs to learn on: one is bundled, one is rebuilt from an optional package.

Every function returns a `Dataset`: names of files on disk, checked, ready for a project or for polars.

Examples
--------
>>> from memberwise.data import datasets
>>> datasets.movietweetings().licence
'MIT'
"""

from memberwise.data.datasets._base import Dataset
from memberwise.data.datasets._completejourney import completejourney
from memberwise.data.datasets._movietweetings import movietweetings

__all__ = ["Dataset", "completejourney", "movietweetings"]
