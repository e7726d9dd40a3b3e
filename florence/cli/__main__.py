"""`python -m florence.cli`: the same as `florence`."""

from florence.cli.main import main

main()
