"""Learning rates that rise linearly at first and then fall to zero, each parameter group's in proportion to its own."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fashiongen.errors import UserError


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine from the optimizer's rate to zero, `cycles` times ("hard restarts")."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, cycles: int = 1) -> None:
        """Schedule an optimizer's rates.

        Args:
            optimizer: whose rates are the highest ones.
            warmup_steps: training steps until they are reached.
            total_steps: training steps until the end, warm-up included.
            cycles: number of times that the cosine is run.

        Raises:
            UserError: if a setting is out of range.
        """
        _check(type(self).__name__, warmup_steps, total_steps)
        if cycles < 1:
            raise UserError(f"{type(self).__name__}: cycles: {cycles}: must be at least 1")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return step / warmup_steps
            progress = (step - warmup_steps) / (total_steps - warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1))) if progress < 1 else 0.0

        super().__init__(optimizer, factor)


class WarmupLinear(LambdaLR):
    """Linear warm-up, then linearly from the optimizer's rate to zero."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> None:
        """Schedule an optimizer's rates.

        Args:
            optimizer: whose rates are the highest ones.
            warmup_steps: training steps until they are reached.
            total_steps: training steps until the end, warm-up included.

        Raises:
            UserError: if a setting is out of range.
        """
        _check(type(self).__name__, warmup_steps, total_steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return step / warmup_steps
            return max(0.0, (total_steps - step) / (total_steps - warmup_steps))

        super().__init__(optimizer, factor)


def _check(name: str, warmup_steps: int, total_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise UserError(f"{name}: warmup_steps: {warmup_steps}: must be at least 0 and below total_steps, {total_steps}")
