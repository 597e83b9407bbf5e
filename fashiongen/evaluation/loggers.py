"""Logs images to any logger."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor


def takes_images(logger: Logger) -> bool:
    """Return whether a logger takes images: TensorBoard, MLflow, or any with `log_image(key, images, step)`, such as Weights & Biases."""
    return isinstance(logger, TensorBoardLogger | MLFlowLogger) or hasattr(logger, "log_image")


def log_image(trainer: L.Trainer, key: str, image: Tensor) -> None:
    """Log a uint8 image (3, H, W) at the current step to every logger that takes images."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, _channels_last(image), key=key, step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(key, [_channels_last(image)], step=step)


def _channels_last(image: Tensor) -> Any:  # noqa: ANN401  a numpy array
    """Return an image (3, H, W) as an array (H, W, 3)."""
    return image.permute(1, 2, 0).cpu().numpy()
