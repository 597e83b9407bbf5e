"""A recipe's method and data in a process of one's own."""

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
        recipe: name or path, as `--config` takes it.
        overlays: further names or paths.
        checkpoint: the file that `fashiongen fit` wrote; without it a method has the weights that it begins with.
        keys: further keys of the recipe, such as `{"data.init_args.root": "/data/zalando-hd-resized"}`.

    Raises:
        UserError: for what the command line would refuse.
    """
    from fashiongen.cli.build import build  # heavy

    args = [arg for config in (recipe, *overlays) for arg in ("--config", str(config))]
    args += [f"--{key}={'null' if value is None else value}" for key, value in (keys or {}).items()]
    return build(args, checkpoint)
