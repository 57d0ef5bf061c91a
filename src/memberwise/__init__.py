"""memberwise: from a log of who saw what and what they did to a ranker personal to every member.

Examples
--------
::

    import memberwise as mw

    project = mw.Project.load("project.yaml")
    rec = mw.Recommender.fit(project)
    rec.evaluate(baselines=True).write("report.html")
    rec.rank(member="17", items=["0770828", "1300854"])
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from memberwise.errors import BundleError, ConfigError, DataError, MemberwiseError

if TYPE_CHECKING:
    from memberwise.data.entities import EntityEmbeddings
    from memberwise.project import Project
    from memberwise.recommender import Recommender
    from memberwise.report import Report

# Idle OpenMP threads that spin collapse as soon as another process wants the core: one training step cost
# fourteen times its work on a busy two-core machine. It counts only if torch is not loaded yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "EntityEmbeddings",
    "MemberwiseError",
    "Project",
    "Recommender",
    "Report",
    "__version__",
]

# Loaded when first asked for: `memberwise.bayes` and the command line's help must not wait for torch.
_LAZY = {
    "EntityEmbeddings": "memberwise.data.entities",
    "Project": "memberwise.project",
    "Recommender": "memberwise.recommender",
    "Report": "memberwise.report",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'memberwise' has no attribute {name!r}")
