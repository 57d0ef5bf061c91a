"""Look at a company's files and propose a project file that works."""

from memberwise.starter.proposal import Proposal, propose

__all__ = ["Proposal", "propose"]
