"""The benchmark: a suite of recipes becomes a graph of trainings and tests, each of which is one command line."""
