"""The test files that take longest, as `pytest --durations=60` shows."""

LONG = (
    "test_recipes.py",
    "methods/test_igr_training.py",
    "cli/test_new_method.py",
    "benchmark/test_plugins.py",
    "benchmark/test_inspection.py",
    "evaluation/test_processes.py",
    "benchmark/test_command.py",
    "benchmark/test_kills.py",
    "methods/test_igr.py",
    "test_gpu_check.py",
    "test_deepspeed.py",
    "methods/test_contract.py",
    "data/test_pairs.py",
)
"""Longest first: with several workers (-n) they start first, so that all workers end together."""
