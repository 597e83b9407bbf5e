"""Images for whatever logger a run has."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor


def takes_images(logger: Logger) -> bool:
    """Tell whether a logger takes images: TensorBoard, MLflow, and any with `log_image(key, images, step)` as Weights & Biases has."""
    return isinstance(logger, TensorBoardLogger | MLFlowLogger) or hasattr(logger, "log_image")


def log_image(trainer: L.Trainer, key: str, image: Tensor) -> None:
    """Show a uint8 image (3, H, W) in every logger that takes images, at the current step."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, _channels_last(image), key=key, step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(key, [_channels_last(image)], step=step)


def _channels_last(image: Tensor) -> Any:  # noqa: ANN401  a numpy array
    """Return (3, H, W) as the array (H, W, 3) that these loggers take."""
    return image.permute(1, 2, 0).cpu().numpy()
