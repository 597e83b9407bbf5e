"""`python -m fashiongen` is the `fashiongen` script."""

from fashiongen.cli import main

main()
