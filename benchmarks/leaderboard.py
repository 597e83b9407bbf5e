"""The same as `fashiongen leaderboard DIR ...`: compares the records that a benchmark left in DIR."""

import sys

from fashiongen.cli import main

if __name__ == "__main__":
    main(["leaderboard", *sys.argv[1:]])
