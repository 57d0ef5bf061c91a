"""Tiny logs, and what a reader would compute from them by hand."""
