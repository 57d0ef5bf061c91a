"""The project file: read it, check it, and say where a mistake is and how to mend it."""

from memberwise.project.config import MAKERS, FreshConfig, MakesVectors, ProjectConfig
from memberwise.project.whole import Project, json_schema

__all__ = ["MAKERS", "FreshConfig", "MakesVectors", "Project", "ProjectConfig", "json_schema"]
