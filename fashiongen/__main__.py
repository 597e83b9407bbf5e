"""`python -m fashiongen` runs the `fashiongen` script."""

from fashiongen.cli import main

main()
