"""GECo, stage 2 of GeCo (Attimonelli et al., "Fashion Image-to-Image Translation for Complementary Item Retrieval").

It ranks bottoms by the top and the template that CIGM generates for it. Equations are the paper's; where it and the authors' code part,
`variant` chooses, and the folder's README tells how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch, to_float, to_uint8
from fashiongen.checkpoints import check_fit, read_state
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.geco import loss
from fashiongen.methods.geco.common import check_settings, prepare_images, template_noise
from fashiongen.methods.geco.loss import Variant
from fashiongen.methods.geco.network import Compatibility, Generator, load_backbone
from fashiongen.methods.geco.published import load_generator, load_ranker
from fashiongen.nn import noise
from fashiongen.nn.encodings import EncodingCache
from fashiongen.nn.negatives import negative_mask
from fashiongen.nn.precision import full_float32


class GECo(Method):
    """Ranks bottoms for a top: the top and its template are composed to a query, compared with bottoms by a dot product (Section 4.3)."""

    name: ClassVar[str] = "geco"
    from_parents: ClassVar[tuple[str, ...]] = ("generator",)
    inner_product: ClassVar[bool] = True

    def __init__(
        self,
        image_size: int = 128,
        backbone: str = "resnet18",
        backbone_options: dict[str, Any] | None = None,
        weights: str | None = None,
        embedding: int = 128,
        features: int = 64,
        noise_channels: int = 1024,
        alpha: float = 0.25,
        beta: float = 0.25,
        gamma: float = 0.01,
        tau: float = 0.5,
        template: bool = True,
        template_variants: int = 0,
        variant: Variant = "paper",
        published: str | None = None,
        published_generator: str | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Build the ranker and the generator, whose weights `fit` takes from the parent `cigm`.

        Args:
            image_size: S, for the generator and the backbone; images of another size are resized.
            backbone: timm's name of the network that top, template and bottom share.
            backbone_options: further arguments of `timm.create_model`, such as `channels`.
            weights: of the backbone: None starts at random; a file, `tiny`, or a file on the hub.
            embedding: D, the size of the spaces W and W~.
            features: CIGM's.
            noise_channels: CIGM's.
            alpha: weight of BPR in eq. 10; 0 is the ablation "w/o BPR".
            beta: weight of InfoNCE in eq. 10; 0 is the ablation "w/o InfoNCE".
            gamma: weight of the regulariser in eq. 10.
            tau: the temperature of eq. 12.
            template: False builds the query from only the top (our own ablation).
            template_variants: K, number of templates per top in training. They are cached in memory, 3 * S^2 bytes each, and each step
                picks one at random; 0 draws a new one at each step, as in the paper.
            variant: `paper` or `code`, see the folder's README.
            published: weights of a network trained with the authors' code.
            published_generator: the same for a generator, instead of the parent.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per epoch.

        Raises:
            UserError: if a setting is out of range or a file does not fit.
        """
        super().__init__(optimizer, lr_scheduler)
        check_settings("GECo", variant, alpha=alpha, beta=beta, gamma=gamma, template_variants=template_variants)
        if alpha == beta == 0:
            raise UserError("GECo: alpha and beta are both 0, so there is nothing to learn: set one of them")
        if tau <= 0 or embedding < 1:
            raise UserError(f"GECo: tau must be above 0 and embedding at least 1, not {tau} and {embedding}")
        self.image_size = image_size
        self.alpha, self.beta, self.gamma, self.tau = alpha, beta, gamma, tau
        self.template_variants = template_variants
        self.variant: Variant = variant
        self.generator = Generator(image_size, features, noise_channels).requires_grad_(False).eval() if template else None
        body = load_backbone(backbone, weights, variant == "code", backbone_options or {})
        self.network = Compatibility(body, embedding, template)
        config: Any = body.pretrained_cfg
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self._templates = EncodingCache()
        self._generates = self.generator is None
        if published is not None:
            load_ranker(self.network, published)
        if published_generator is not None and self.generator is not None:
            load_generator(self.generator, published_generator)
            self._generates = True

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Load the frozen generator from CIGM's checkpoint (stage 2 of Section 4)."""
        for role, path in parents.items():
            if role != "cigm":
                raise UserError(f"GECo supports only the parent `cigm`, but the recipe names `{role}`")
            if self.generator is None:
                continue
            # A frozen network does not need CIGM's `unused_down`.
            state = {
                key.removeprefix("generator."): value
                for key, value in read_state(path).items()
                if key.startswith("generator.") and not key.startswith("generator.unused_down.")
            }
            check_fit(self.generator.state_dict(), state, source=str(path), name="GECo's generator")
            self.generator.load_state_dict(state)
            self._generates = True

    def on_fit_start(self) -> None:
        """Reject training with the templates of an untrained generator."""
        if not self._generates and self.trainer.ckpt_path is None:
            raise UserError("GECo needs a trained generator: name `parents: {cigm: geco-cigm}` in the recipe and add --parents.cigm PATH")
        super().on_fit_start()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the generator, which stays in evaluation mode to keep CIGM's norm statistics."""
        super().train(mode)
        if self.generator is not None:
            self.generator.eval()
        return self

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Like other methods, but the scheduler steps once per epoch."""
        optimizer = self.optimizer(self.network.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "epoch"}}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the loss of eq. 10."""
        top, bottom = self.images(batch.top), self.images(batch.bottom)
        images = self.normalised(top), self.training_template(batch, top), self.normalised(bottom)
        if self.variant == "code":
            query, embedded = self.network.query(*images[:2]), self.network.bottom(images[2])
            with torch.no_grad():
                self.network.features(images[2])  # the authors embed the negatives (the same bottoms) again: batch norm counts them twice
            losses = self.losses(batch, query, embedded)
        else:
            losses = self.losses(batch, *self.network(*images))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(batch))
        return losses["loss"]

    @torch.no_grad()
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the loss of eq. 10 with the inference templates, and the AUC against the batch's true negatives."""
        query = self.query(self.images(batch.top), batch.top_ids)
        bottom = self.network.bottom(self.normalised(self.images(batch.bottom)))
        values = self.losses(batch, query, bottom)
        negative = negative_mask(batch.bottom_ids, batch.positives).to(self.device)
        margin = (query * bottom).sum(dim=1, keepdim=True) - self.score(query, bottom)
        values["auc"] = ((margin.sign() + 1) / 2)[negative].mean() if negative.any() else margin.new_tensor(0.5)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, batch_size=len(batch), sync_dist=True)

    def losses(self, batch: PairBatch, query: Tensor, bottom: Tensor) -> dict[str, Tensor]:
        """Eq. 10 and its parts, alpha BPR + beta InfoNCE + gamma regulariser, of embeddings (B, D)."""
        negative = negative_mask(batch.bottom_ids, batch.positives).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            bpr = loss.bpr_loss(query, bottom, negative, self.variant)
            info_nce = loss.info_nce_loss(query, bottom, negative, self.tau, self.variant)
            regulariser = loss.regulariser(self.network.parameters(), query, bottom, self.variant)
        whole = self.alpha * bpr + self.beta * info_nce + self.gamma * regulariser
        return {"loss": whole, "bpr": bpr, "info_nce": info_nce, "regulariser": regulariser}

    @torch.no_grad()
    def training_template(self, batch: PairBatch, top: Tensor) -> Tensor | None:
        """Return the templates of a training step, normalised for the backbone, (B, 3, S, S); see `template_variants`."""
        if self.generator is None:
            return None
        names = (self.seed, "train", self.global_step)
        channels = self.generator.noise_channels
        if self.template_variants == 0:
            drawn = noise.normal(noise.keys(batch.ids, *names, "template"), (channels,), self.device)
            return self.normalised_template(self.generate(top, drawn))
        chosen = noise.integers(noise.keys(batch.ids, *names, "template variant"), 0, self.template_variants).tolist()
        cached_ids = [f"{top_id}/{variant}" for top_id, variant in zip(batch.top_ids, chosen, strict=True)]
        drawn = noise.normal(noise.keys(cached_ids, self.seed, "template", "kept"), (channels,), self.device)
        return self.normalised_template(to_float(self._templates("template", cached_ids, lambda: to_uint8(self.generate(top, drawn)))))

    def generate(self, top: Tensor, drawn: Tensor) -> Tensor:
        """Eq. 3: the templates, (B, 3, S, S) in [-1, 1], of tops in [-1, 1] at noise (B, Z).

        `code` passes the generator, trained on tops in [-1, 1], the input normalised for the backbone.
        """
        if self.generator is None:
            raise UserError("GECo was built with template: false and draws no template")
        return self.generator(self.normalised(top) if self.variant == "code" else top, drawn)  # type: ignore[no-any-return]

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images in [-1, 1] with the backbone's mean and standard deviation."""
        return ((images + 1.0) / 2.0 - self.mean) / self.std

    def normalised_template(self, template: Tensor) -> Tensor:
        """Normalise a template likewise; `code` passes it to the backbone unchanged."""
        return template if self.variant == "code" else self.normalised(template)

    def query(self, top: Tensor, top_ids: list[str]) -> Tensor:
        """Embed tops in [-1, 1] with their inference templates, (B, D)."""
        template = None
        if self.generator is not None:
            drawn = template_noise(top_ids, self.seed, 0, self.generator.noise_channels, self.device)
            template = self.normalised_template(self.generate(top, drawn))
        return self.network.query(self.normalised(top), template)

    @property
    def draws_templates(self) -> bool:
        """Whether there is a template to show next to a query."""
        return self.generator is not None

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Generate each top's template, (B, 3, S, S) in [-1, 1]; the noise is drawn from the top's id."""
        channels = 0 if self.generator is None else self.generator.noise_channels
        return self.generate(self.images(batch.top), template_noise(batch.top_ids, self.seed, 0, channels, self.device))

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed the composed queries in W, (B, D)."""
        return self.query(self.images(batch.top), batch.top_ids)

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms in W~, (C, D)."""
        return self.network.bottom(self.normalised(self.images(batch.bottom)))

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Eq. 9: m, the dot products, (B, C), in float32 whatever the networks' precision."""
        with torch.autocast(query.device.type, enabled=False), full_float32():
            return query.float() @ candidate.float().T

    def images(self, images: Tensor | None) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1]."""
        return prepare_images(images, self.image_size, "GECo")
