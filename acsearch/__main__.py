"""`python -m acsearch`."""

from acsearch.cli import main

main()
