"""``python -m memberwise.cli``."""

from memberwise.cli import main

main()
