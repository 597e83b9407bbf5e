"""Communication between the processes of a run."""

from typing import Any

import torch.distributed as dist


def gather(mine: Any) -> list[Any]:  # noqa: ANN401  any picklable object
    """Return every process's object in rank order; only this one's in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return parts
