"""Loads a recipe's method and data from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fashiongen.data.base import FashionData
    from fashiongen.methods.base import Method


def load(
    recipe: str | Path, *overlays: str | Path, checkpoint: str | Path | None = None, keys: Mapping[str, object] | None = None
) -> tuple[Method, FashionData]:
    """Return the method of a recipe, in evaluation mode, and its data.

    Python's, numpy's and torch's random states are seeded by the recipe's `seed_everything`, as any command does.

    Args:
        recipe: name or path, as for `--config`.
        overlays: further names or paths.
        checkpoint: a file written by `fashiongen fit`; without it the method has its initial weights.
        keys: further keys of the recipe, such as `{"data.init_args.root": "/data/zalando-hd-resized"}`.

    Raises:
        UserError: for what the command line would reject.
    """
    from fashiongen.cli.build import build  # heavy

    args = [arg for config in (recipe, *overlays) for arg in ("--config", str(config))]
    args += [f"--{key}={'null' if value is None else value}" for key, value in (keys or {}).items()]
    return build(args, checkpoint)
