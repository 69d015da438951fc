"""`python -m acsearch`."""

from acsearch.cli.main import main

main()
