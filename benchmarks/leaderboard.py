"""Compare the records that a benchmark left in a folder: the same as `fashiongen leaderboard DIR ...`."""

import sys

from fashiongen.cli import main

if __name__ == "__main__":
    main(["leaderboard", *sys.argv[1:]])
