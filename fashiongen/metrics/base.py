"""The bases of all image metrics: one `update` signature, per-sample accumulation, and rules for degenerate input.

Rules that hold for every metric of this package:

- A non-finite prediction or target scores NaN, and so does the whole metric: such samples are never excluded.
- A sample whose value is undefined (an empty mask for a foreground metric) has the value NaN, is excluded from the mean, and is counted
  by `n_undefined`.
- The mean over no samples is NaN.
- States are concatenated over batches and processes and reduced once, so results depend on neither.
- Scores are computed in true float32, outside autocast and without TF32.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fashiongen.errors import UserError
from fashiongen.nn.precision import full_float32

Region = Literal["whole", "foreground"]

# Images may overshoot [0, 1] by rounding; more means another range, such as [-1, 1] or [0, 255].
RANGE_TOLERANCE = 1e-3


class Judged(Metric, ABC):
    """The base of all metrics of images."""

    full_state_update = False
    extractor: str | None = None
    """Name of the feature extractor, part of the metric's reported name."""
    pairs: bool = True
    """Whether predictions and targets must be paired, sample by sample."""

    def prepare(self) -> None:
        """Load the feature extractor now, so that missing weights are reported before any work.

        Raises:
            UserError: if they are missing.
        """
        network = getattr(self, "_network", None)
        if network is not None:
            network.on(self.device)

    def provenance(self) -> dict[str, str] | None:
        """Return `{weights, sha256}` of the feature extractor, for the record; None without one."""
        network = getattr(self, "_network", None)
        return None if network is None else network.provenance()

    def doubt(self) -> str | None:
        """Return a warning if the extractor's weights are not the published ones, which the metric's name promises."""
        network = getattr(self, "_network", None)
        return None if network is None else network.doubt()


class PerSample(Judged):
    """Mean over samples of a per-sample value."""

    scores: list[Tensor]
    defined: list[Tensor]

    def __init__(self) -> None:
        """Start with no samples."""
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        # Float, because a process without samples contributes an empty float tensor to the concatenation.
        self.add_state("defined", default=[], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """Return the mean over all samples with a defined value, a scalar; NaN without any."""
        return self.values()[self.defined_samples()].double().mean().float()

    def values(self) -> Tensor:
        """Return the value of each sample `(N,)`, in the order of the updates, NaN if undefined.

        These are this process's samples; inside `sync_context()` those of all processes, in rank order.
        """
        return concatenate(self.scores, self.device)

    def defined_samples(self) -> Tensor:
        """Return which samples have a defined value `(N,)` bool, in the order of `values`."""
        return concatenate(self.defined, self.device) == 1

    @property
    def n_undefined(self) -> int:
        """Number of samples with an undefined value, which are excluded from the mean."""
        return int((~self.defined_samples()).sum())


class PairMetric(PerSample):
    """Mean over samples of a score between each prediction and its target."""

    region: Region = "whole"
    """`foreground`: compare only inside the mask: the true garment's on its shop image, or where a person was to be repainted."""

    @abstractmethod
    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return one value per sample `(B,)` for float32 images `(B, 3, H, W)` in [0, 1] and a bool mask `(B, 1, H, W)`.

        The mask is never None if `region` is `foreground`.
        """

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Score a batch.

        Args:
            prediction: `(B, 3, H, W)` floats in [0, 1].
            target: the truth, likewise.
            mask: `(B, 1, H, W)` bool, the foreground of the truth.

        Raises:
            UserError: if `region` is `foreground` and there is no mask.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"{type(self).__name__} takes pairs of images, got {tuple(prediction.shape)} and {tuple(target.shape)}")
        prediction, target = _checked(self, "prediction", prediction), _checked(self, "target", target)
        if mask is not None and mask.shape != (len(target), 1, *target.shape[2:]):
            raise ValueError(f"{type(self).__name__} takes a mask (B, 1, H, W) that fits the images, got {tuple(mask.shape)}")
        if mask is None and self.region == "foreground":
            raise UserError(f"{type(self).__name__}(region=foreground) needs a mask and got none: use region=whole")
        with exact_arithmetic(prediction.device):
            scores = self.score(prediction, target, mask)
        finite = finite_samples(prediction) & finite_samples(target)
        defined = torch.ones_like(finite) if self.region == "whole" or mask is None else mask.flatten(1).any(dim=1)
        self.scores.append(torch.where(finite & defined, scores.float(), torch.nan))
        self.defined.append(defined.float())


class SetMetric(Judged):
    """Distance between the sets of all predictions and all targets in a network's feature space.

    The sets may have different numbers of images, and the images different sizes.
    """

    pairs = False

    prediction_features: list[Tensor]
    target_features: list[Tensor]
    n_predictions: Tensor
    n_targets: Tensor

    def __init__(self) -> None:
        """Start with no samples."""
        super().__init__()
        # Features are stored flat: a process without samples contributes an empty one-dimensional tensor to the concatenation.
        self.add_state("prediction_features", default=[], dist_reduce_fx="cat")
        self.add_state("target_features", default=[], dist_reduce_fx="cat")
        self.add_state("n_predictions", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("n_targets", default=torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return features `(B, F)` of float32 images `(B, 3, H, W)` in [0, 1]."""

    @abstractmethod
    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar distance between two sets of features, `(N, F)` and `(M, F)`, float64, finite and on the CPU."""

    def update(self, prediction: Tensor | None, target: Tensor | None, mask: Tensor | None = None) -> None:
        """Store the features of a batch.

        Args:
            prediction: `(B, 3, H, W)` floats in [0, 1]; None adds only targets.
            target: the truth, likewise; None adds only predictions.
            mask: not used; all metrics have the same signature.
        """
        if prediction is not None and target is not None and prediction.shape != target.shape:
            raise ValueError(f"{type(self).__name__} takes pairs of images, got {tuple(prediction.shape)} and {tuple(target.shape)}")
        if prediction is not None:
            self.prediction_features.append(self._flat_features(_checked(self, "prediction", prediction)))
            self.n_predictions += len(prediction)
        if target is not None:
            self.target_features.append(self._flat_features(_checked(self, "target", target)))
            self.n_targets += len(target)

    def _flat_features(self, images: Tensor) -> Tensor:
        with exact_arithmetic(images.device):
            return torch.where(finite_samples(images)[:, None], self.features(images).float(), torch.nan).flatten()

    def compute(self) -> Tensor:
        """Return the distance, a scalar; NaN if any image was not finite or either set has fewer than two samples."""
        everything = (torch.ones(int(count), dtype=torch.bool) for count in (self.n_predictions, self.n_targets))
        return self.between(*everything)

    def between(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the distance of parts of the sets, under the same rules: a scalar.

        Inside `sync_context()` the images are those of all processes, in rank order.

        Args:
            predictions: which of the predictions, in the order of the updates, `(N,)` bool on the CPU.
            targets: which of the targets, likewise `(M,)`.
        """
        undefined = torch.tensor(torch.nan, device=self.device)
        if min(int(predictions.sum()), int(targets.sum())) < 2:
            return undefined
        states = zip((self.prediction_features, self.target_features), (predictions, targets), strict=True)
        features = [concatenate(state, self.device).reshape(len(places), -1).cpu().double()[places] for state, places in states]
        if not all(bool(values.isfinite().all()) for values in features):
            return undefined
        return self.distance(*features).float().to(self.device)


def grey_outside(images: Tensor, mask: Tensor | None, region: Region) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] with mid-grey outside the mask (B, 1, H, W) for `foreground`, unchanged for `whole`."""
    return images if region == "whole" or mask is None else images.where(mask, torch.full_like(images[:, :1], 0.5))


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in true float32: no autocast, and no TF32, whose 10-bit mantissa is too coarse for SSIM's variances."""
    with torch.autocast(device.type, enabled=False), full_float32():
        yield


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` `(B, H, W)` where `mask` `(B, H, W)` is True: `(B,)`, NaN for an empty mask."""
    return torch.where(mask, values, 0).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def _checked(metric: Metric, role: str, images: Tensor) -> Tensor:
    """Return images as float32, after checking shape, dtype and range."""
    name = type(metric).__name__
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name} takes pairs of images (B, 3, H, W), the {role} is {tuple(images.shape)}")
    return in_range(name, role, images)


def in_range(name: str, role: str, images: Tensor) -> Tensor:
    """Return images of any shape as float32, after checking dtype and range; `name` is the metric's, for the error."""
    if not images.is_floating_point():
        raise TypeError(f"{name} takes floats in [0, 1], the {role} is {images.dtype}")
    outside = ((images < -RANGE_TOLERANCE) | (images > 1 + RANGE_TOLERANCE)) & images.isfinite()
    if outside.any():
        raise ValueError(f"{name} takes images in [0, 1], the {role} has the value {images[outside][0].item():.4g}")
    return images.float()


def finite_samples(images: Tensor) -> Tensor:
    """Return for each image whether all its values are finite: `(B,)` bool."""
    return images.isfinite().flatten(1).all(dim=1)


def concatenate(state: list[Tensor] | Tensor, device: torch.device) -> Tensor:
    """Return a list state as one tensor; torchmetrics turns it into a tensor itself when it synchronises."""
    if isinstance(state, list) and not state:
        return torch.empty(0, device=device)
    return dim_zero_cat(state)
