"""The test files that take longest, as `pytest --durations=60` shows."""

LONG = (
    "test_recipes.py",
    "methods/test_igr_training.py",
    "benchmark/test_runner.py",
    "evaluation/test_processes.py",
    "benchmark/test_command.py",
    "test_deepspeed.py",
    "methods/test_igr.py",
    "methods/test_contract.py",
    "data/test_pairs.py",
)
"""Longest first: with several workers (-n) they start first, so that all workers end together."""
