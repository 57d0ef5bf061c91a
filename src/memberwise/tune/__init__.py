"""Search of settings: which ranker, trained how, is best on valid. Needs the extra ``tune`` (Optuna).

Examples
--------
::

    found = tune(mw.Project.load("project.yaml"), trials=40)
    print(found.snippet)  # paste it into project.yaml
"""

from memberwise.tune.search import Tuned, tune
from memberwise.tune.space import suggest

__all__ = ["Tuned", "suggest", "tune"]
