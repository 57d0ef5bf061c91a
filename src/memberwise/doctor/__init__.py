"""Check a project against its data before any training, and say what to do."""

from memberwise.doctor.examine import CHECKS, examine
from memberwise.doctor.findings import Diagnosis, Finding

__all__ = ["CHECKS", "Diagnosis", "Finding", "examine"]
