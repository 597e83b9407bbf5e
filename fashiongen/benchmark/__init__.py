"""The benchmark: a suite becomes a graph of trainings and tests, each leaves a record, and the records make the leaderboard."""
