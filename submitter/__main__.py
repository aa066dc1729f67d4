"""``python -m submitter``."""

from submitter.cli import main

main()
