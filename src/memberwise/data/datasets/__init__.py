"""Real event logs to learn on: one is bundled, one is rebuilt from an optional package.

Every function returns a `Dataset`: names of files on disk, checked, ready for a project or for polars.

Examples
--------
>>> from memberwise.data import datasets
>>> datasets.movietweetings().licence
'MIT'
"""

from ._base import Dataset
from ._completejourney import completejourney
from ._movietweetings import movietweetings

__all__ = ["Dataset", "completejourney", "movietweetings"]
