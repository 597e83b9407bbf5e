"""BPR-DAE (Song et al., ACM MM 2017), as re-implemented by GeCo's authors as a baseline, using only images (GeCo, Section 5.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fashiongen.batches import Batch, CandidateBatch, PairBatch, QueryBatch
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.bpr_dae.loss import ROLLS, Variant, ranking_loss, reconstruction_loss, weight_penalty
from fashiongen.methods.bpr_dae.network import BPRDAENetwork, load_alexnet
from fashiongen.methods.bpr_dae.published import load_published
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.nn.negatives import negative_mask, rolled_mask
from fashiongen.nn.precision import full_float32

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SMALLEST = 63  # the smallest image with an output after AlexNet's last pooling


class BPRDAE(Method):
    """Ranks bottoms by the inner product of two autoencoders' codes."""

    name: ClassVar[str] = "bpr_dae"
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    frozen: ClassVar[tuple[str, ...]] = ("backbone",)
    inner_product: ClassVar[bool] = True

    def __init__(
        self,
        weights: str | None = "tiny",
        image_size: int = 224,
        hidden: int = 512,
        mu: float = 0.01,
        lambda_: float = 0.01,
        variant: Variant = "paper",
        cache_encodings: bool = True,
        published: str | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the frozen AlexNet and build an autoencoder for each side.

        Args:
            weights: AlexNet's weights in torchvision's key layout: `tiny`, a file, a file on the hub, or None for random ones.
            image_size: AlexNet's input size, pixels per side; images of another size are resized.
            hidden: size of the codes.
            mu: weight of the reconstruction.
            lambda_: weight of the parameters' mean squares.
            variant: `paper`, or `code` for the behaviour of the authors' code (see the README).
            cache_encodings: cache AlexNet's features of each training image in memory, 16 kB per image at the published width, instead
                of computing them in every epoch. Only for data without augmentation.
            published: a file written by the authors' code.
            optimizer: creates the optimizer of the autoencoders' parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a file cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        if variant not in get_args(Variant):
            raise UserError(f"BPRDAE: variant: {variant}: unknown; choose among {', '.join(get_args(Variant))}")
        if image_size < SMALLEST:
            raise UserError(f"BPRDAE: image_size: {image_size}: AlexNet needs at least {SMALLEST} pixels a side")
        if hidden < 1:
            raise UserError(f"BPRDAE: hidden: {hidden}: must be at least 1")
        self.image_size, self.mu, self.lambda_, self.variant = image_size, mu, lambda_, variant
        self.backbone = load_alexnet(weights)
        if weights is None:
            self.frozen = ()  # type: ignore[misc]  # random weights come from nowhere else: the checkpoint has to hold them
        self.network = BPRDAENetwork(self.backbone.width, hidden)
        if published is not None:
            load_published(self.network, published)
        self.encoding_cache = EncodingCache() if cache_encodings else None

    def parts(self) -> dict[str, nn.Module]:
        """Return the backbone and the two autoencoders."""
        return {"backbone": self.backbone, **dict(self.network.named_children())}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the cost."""
        return self._cost(batch, "train")

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the cost; the negatives are the batch's own, as in training."""
        self._cost(batch, "val")

    def _cost(self, batch: PairBatch, stage: str) -> Tensor:
        """Return and log mu * reconstruction + lambda * penalty + ranking."""
        # In memory, encodings are cached by image, since a top occurs in several rows; `data encode` caches them by row.
        top = self.encoded("top", replace(batch, ids=batch.top_ids))
        bottom = self.encoded("bottom", replace(batch, ids=batch.bottom_ids))
        top_code, bottom_code = self.network.top.encode(top), self.network.bottom.encode(bottom)
        top_again, bottom_again = self.network.top.decode(top_code), self.network.bottom.decode(bottom_code)
        reconstruction = reconstruction_loss(top, top_again, bottom, bottom_again)
        negative = rolled_mask(negative_mask(batch.bottom_ids, batch.positives), ROLLS).to(top.device)
        ranking = ranking_loss(top_code, bottom_code, negative, self.variant)
        cost = self.mu * reconstruction + self.lambda_ * weight_penalty(self.network.parameters()) + ranking
        for name, value in (("loss", cost), ("ranking", ranking), ("reconstruction", reconstruction)):
            self.log(f"{stage}/{name}", value.detach(), prog_bar=name == "loss", batch_size=len(batch), sync_dist=stage == "val")
        return cost

    def encodings(self) -> dict[str, Encoding]:
        """Return AlexNet's fc7 of the top and of the bottom, (B, 4096)."""

        def features(images: Tensor) -> Tensor:
            floats: Tensor = images / 255 if not images.is_floating_point() else (images + 1) / 2
            if floats.shape[-2:] != (self.image_size, self.image_size):
                size = (self.image_size, self.image_size)
                floats = interpolate(floats, size=size, mode="bilinear", antialias=True, align_corners=False)
            mean, std = floats.new_tensor(MEAN).view(3, 1, 1), floats.new_tensor(STD).view(3, 1, 1)
            return self.backbone.eval()((floats - mean) / std)  # type: ignore[no-any-return]

        how = f"RGB in [0, 1], bilinear with antialias to {self.image_size} x {self.image_size}, less {MEAN}, over {STD}; fc7 after ReLU"
        return {kind: Encoding(reads=(kind,), compute=features, encoder=self.backbone, preprocessing=how) for kind in ("top", "bottom")}

    def encoded(self, kind: str, batch: Batch) -> Tensor:
        """Return fc7 of a batch's tops or bottoms, like `Method.encoded`; a batch without cached encodings must have images."""
        if batch.encoded is None and getattr(batch, kind) is None:
            raise UserError("BPRDAE needs images, but the data reads only the lists: set data.init_args.images=true")
        return super().encoded(kind, batch)

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed tops, (B, hidden) in [0, 1]."""
        return self.network.top.encode(self.encoded("top", batch))

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms, (C, hidden) in [0, 1]."""
        return self.network.bottom.encode(self.encoded("bottom", batch))

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return the inner products, (B, C), in float32 whatever the networks' precision."""
        with torch.autocast(query.device.type, enabled=False), full_float32():
            return query.float() @ candidate.float().T
