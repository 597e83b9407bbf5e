"""Types of the options' values, for argparse: each raises its error with what the value should be."""

from argparse import ArgumentTypeError


def size(text: str) -> tuple[int, int]:
    """Read height and width.

    >>> size("512x384")
    (512, 384)
    """
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x384")
    return int(height), int(width)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdigit() or not int(text):
        raise ArgumentTypeError(f"{text}: must be at least 1")
    return int(text)


def pixels(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdigit():
        raise ArgumentTypeError(f"{text}: must be a whole number of pixels, at least 0")
    return int(text)


def key_value(text: str) -> tuple[str, str]:
    """Read a setting.

    >>> key_value("partition=gpu")
    ('partition', 'gpu')
    """
    key, _, value = text.partition("=")
    if not key or not value:
        raise ArgumentTypeError(f"{text}: must be KEY=VALUE, such as partition=gpu")
    return key, value
