"""fashiongen: train, run and compare generative-fashion methods in one place."""

__version__ = "0.1.0"
