"""``python -m tokay``."""

from tokay.cli import main

main()
