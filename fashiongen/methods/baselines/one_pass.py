"""The base of baselines that collect what they need in one pass over the training data."""

from __future__ import annotations

from typing import ClassVar

from fashiongen.errors import UserError
from fashiongen.methods.base import Method


class OnePassMethod(Method):
    """A baseline that collects from the first epoch of `fit`, in one process, from every training sample."""

    trains_on_all: ClassVar[bool] = True

    def setup(self, stage: str) -> None:
        """Reject training in several processes, since each would collect only its own share.

        Raises:
            UserError: if there are several.
        """
        if stage == "fit" and self.trainer.world_size > 1:
            raise UserError(f"{type(self).__name__} collects from the training data in one process: add --trainer.devices 1")
