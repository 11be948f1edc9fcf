"""`python -m naslab` is the `naslab` command."""

from naslab.runs.cli import main

main()
