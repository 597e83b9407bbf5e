"""Shared building blocks in plain PyTorch: no Lightning, no data, no metrics."""
