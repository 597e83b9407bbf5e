"""The benchmark: a suite becomes a graph of trainings and tests, each writes a record, and the leaderboard compares the records."""
