"""`python -m flows` is the `srpo` command."""

from flows.cli import main

main()
