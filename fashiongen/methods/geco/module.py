"""CIGM and GECo (Attimonelli et al., "Fashion Image-to-Image Translation for Complementary Item Retrieval").

Stage 1 generates a bottom for a top, the template; stage 2 ranks bottoms by the top and its template. Equations are the paper's; where it
and the authors' code part, `variant` chooses, and the folder's README tells how.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchvision.utils import make_grid

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch, to_float, to_uint8
from fashiongen.checkpoints import check_fit, read_state
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.geco import loss
from fashiongen.methods.geco.loss import Variant
from fashiongen.methods.geco.network import Compatibility, Discriminator, Generator, load_backbone, resized
from fashiongen.methods.geco.published import load_discriminator, load_generator, load_ranker
from fashiongen.nn import noise
from fashiongen.nn.encodings import EncodingCache

SHOWN = 8  # rows of a logged image


class CIGM(Method):
    """Complementary item generation: from a top to a bottom that may go with it, by a conditional GAN (Section 4.2).

    Two optimizers take turns, so that a training step counts twice in `global_step` and in `trainer.max_steps`.
    """

    name: ClassVar[str] = "geco-cigm"
    n_optimizers: ClassVar[int] = 2
    inner_product: ClassVar[bool] = False
    draws_templates: ClassVar[bool] = True

    def __init__(
        self,
        image_size: int = 128,
        features: int = 64,
        noise_channels: int = 1024,
        discriminator_widths: tuple[int, ...] = (64, 128, 256, 512),
        l1_weight: float = 100.0,
        diversity: float = 0.0,
        compared_size: int = 16,
        variant: Variant = "paper",
        published: str | None = None,
        published_discriminator: str | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Build the generator and the discriminator.

        Args:
            image_size: S, a power of two from 16; images of another size are resized.
            features: width of the generator's first convolution.
            noise_channels: Z, how many normal numbers are joined at the bottleneck.
            discriminator_widths: of the discriminator's convolutions; leave out the last but one for 64 pixels.
            l1_weight: lambda of eq. 7.
            diversity: 0 is eq. 7; up to 1, two draws of a top are rewarded for being apart, as far as its true bottoms may be (ours, see
                `loss.spread`). Each step then draws two templates a top, of which the discriminator judges the first.
            compared_size: side to which images are reduced where CIGM alone ranks bottoms (see `score`).
            variant: `code` has half the discriminator's loss, and the layer `down6` that is never called.
            published: a generator that was trained with the authors' code.
            published_discriminator: likewise a discriminator.
            optimizer: builds two of them, one for each network.
            lr_scheduler: gets each of them; stepped once a batch. The paper has none.

        Raises:
            UserError: if a setting is out of range or a file unfit.
        """
        super().__init__(optimizer, lr_scheduler)
        _check("CIGM", variant, l1_weight=l1_weight, diversity=diversity)
        if diversity > 1:
            raise UserError(
                f"CIGM: diversity: {diversity}: must not be above 1, where templates would be rewarded for varying more than the bottoms do"
            )
        if not 1 <= compared_size <= image_size:
            raise UserError(f"CIGM: compared_size: {compared_size}: must lie in 1 to the image size, {image_size}")
        self.automatic_optimization = False
        self.image_size = image_size
        self.l1_weight, self.diversity = l1_weight, diversity
        self.compared_size = compared_size
        self.variant: Variant = variant
        self.generator = Generator(image_size, features, noise_channels, unused_down=variant == "code")
        self.discriminator = Discriminator(image_size, tuple(discriminator_widths))
        if published is not None:
            load_generator(self.generator, published)
        if published_discriminator is not None:
            load_discriminator(self.discriminator, published_discriminator)

    def setup(self, stage: str) -> None:
        """Have DDP expect that each of the two backward passes leaves the other network alone."""
        if isinstance(self.trainer.strategy, DDPStrategy):
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_fit_start(self) -> None:
        """Say what is trained, and keep Lightning from advising, in twenty lines, to save the weights from before a step."""
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        super().on_fit_start()

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give each network an optimizer of its own."""
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise UserError(
                "CIGM has two optimizers and DeepSpeed takes one: leave out the zero2 overlay, or use recipes/overlays/ddp.yaml"
            )
        optimizers = [self.optimizer(self.generator.parameters()), self.optimizer(self.discriminator.parameters())]
        if self.lr_scheduler is None:
            return optimizers
        schedulers = [self.lr_scheduler(optimizer) for optimizer in optimizers]
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise UserError(
                "CIGM: lr_scheduler: ReduceLROnPlateau waits for a figure, and two networks at odds have none; choose another one"
            )
        return optimizers, schedulers

    def training_step(self, batch: PairBatch, batch_idx: int) -> STEP_OUTPUT:
        """Minimise eq. 8 by the discriminator, then eq. 7, less the spread, by the generator against the discriminator so improved."""
        top, bottom = self.images(batch.top), self.images(batch.bottom)
        names = (self.seed, "train", self.global_step)
        purposes = ["template", "second template"] if self.diversity else ["template"]
        drawn = [
            noise.normal(noise.keys(batch.ids, *names, purpose), (self.generator.noise_channels,), self.device) for purpose in purposes
        ]
        # A normal number is positive in half of the cases.
        kept = [
            noise.normal(noise.keys(batch.ids, *names, "dropout", level), shape, self.device) > 0
            for level, shape in enumerate(self.generator.dropped)
        ]
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        generated = self.generator(top, torch.cat(drawn), kept)  # (B or, with a second draw, 2B, 3, S, S)
        judged = generated[: len(batch)]

        discriminator_loss = loss.discriminator_loss(
            self.discriminator(top, bottom), self.discriminator(top, judged.detach()), self.variant
        )
        discriminator_optimizer.zero_grad()
        self.manual_backward(discriminator_loss)
        discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)
        true = bottom.repeat(len(drawn), 1, 1, 1)
        adversarial, l1 = loss.generator_loss(self.discriminator(top, judged), generated, true, self.l1_weight)
        values = {
            "train/loss": adversarial + l1,
            "train/l1": l1,
            "train/adversarial": adversarial,
            "train/discriminator": discriminator_loss,
        }
        if self.diversity:
            values["train/spread"] = loss.spread(generated, self.l1_weight, self.diversity)
            values["train/loss"] = values["train/loss"] - values["train/spread"]
        generator_optimizer.zero_grad()
        self.manual_backward(values["train/loss"])
        generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        schedulers: Any = self.lr_schedulers() or []
        for scheduler in schedulers:
            scheduler.step()
        self.log_dict(values, batch_size=len(batch))
        return None

    @torch.no_grad()
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the generator's loss at the noise of inference, and an image of the first rows: tops, templates, bottoms."""
        top, bottom = self.images(batch.top), self.images(batch.bottom)
        templates = [self.template(top, batch.top_ids, draw) for draw in range(2 if self.diversity else 1)]
        adversarial, l1 = loss.generator_loss(self.discriminator(top, templates[0]), templates[0], bottom, self.l1_weight)
        values = {"val/loss": adversarial + l1, "val/l1": l1}
        if self.diversity:
            values["val/spread"] = loss.spread(torch.cat(templates), self.l1_weight, self.diversity)
            values["val/loss"] = values["val/loss"] - values["val/spread"]
        self.log_dict(values, batch_size=len(batch), sync_dist=True)
        if batch_idx == 0 and self.trainer.is_global_zero and isinstance(self.logger, TensorBoardLogger):
            rows = torch.cat([images[:SHOWN] for images in (top, *templates, bottom)])
            grid = make_grid(to_uint8(rows.cpu()), nrow=len(top[:SHOWN]))
            self.logger.experiment.add_image("val/top, template, bottom", grid, self.global_step)

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Generate each top's template, (B, 3, S, S) in [-1, 1]: eq. 3, the noise from the top's id."""
        return self.template(self.images(batch.top), batch.top_ids)

    def template(self, top: Tensor, top_ids: list[str], draw: int = 0) -> Tensor:
        """Return G(t, z), (B, 3, S, S), for tops in [-1, 1], at noise of inference number `draw`; that of 0 is the template."""
        drawn: Tensor = self.generator(top, _noise_of(top_ids, self.seed, draw, self.generator.noise_channels, self.device))
        return drawn

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return the templates at `compared_size`, (B, 3 * compared_size^2)."""
        return resized(self.draw_template(batch), self.compared_size).flatten(1)

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the bottoms at `compared_size`, (C, 3 * compared_size^2)."""
        return resized(self.images(batch.bottom), self.compared_size).flatten(1)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return minus the mean absolute difference between template and bottom, (B, C).

        The paper ranks by GECo alone; this is what CIGM's own L1 loss makes of ranking.
        """
        return -torch.cdist(query, candidate, p=1.0) / query.shape[1]

    def images(self, images: Tensor | None) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1]."""
        return _images(images, self.image_size, "CIGM")


class GECo(Method):
    """Ranks bottoms for a top: the top and its template are composed to a query, compared with bottoms by a dot product (Section 4.3)."""

    name: ClassVar[str] = "geco"
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
            alpha: of BPR in eq. 10; 0 is the ablation "w/o BPR".
            beta: of InfoNCE in eq. 10; 0 is the ablation "w/o InfoNCE".
            gamma: of the regulariser in eq. 10.
            tau: the temperature of eq. 12.
            template: False makes the query of the top alone (an ablation of ours).
            template_variants: K, how many templates a top has in training. They are kept, 3 * S^2 bytes each, and each step takes one of
                them by chance; 0 draws a new one at each step, as the paper does.
            variant: `paper` or `code`, see the folder's README.
            published: a network that was trained with the authors' code.
            published_generator: likewise a generator, in place of the parent.
            optimizer: gets the trainable parameters.
            lr_scheduler: gets the optimizer; stepped once an epoch.

        Raises:
            UserError: if a setting is out of range or a file unfit.
        """
        super().__init__(optimizer, lr_scheduler)
        _check("GECo", variant, alpha=alpha, beta=beta, gamma=gamma, template_variants=template_variants)
        if alpha == beta == 0:
            raise UserError("GECo: alpha and beta are both 0, so that there is nothing to learn: give one of them")
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
        """Take the frozen generator from CIGM's checkpoint (stage 2 of Section 4)."""
        for role, path in parents.items():
            if role != "cigm":
                raise UserError(f"GECo knows the parent `cigm` only, but the recipe names `{role}`")
            if self.generator is None:
                continue
            # CIGM's `unused_down` is of no use to a frozen network.
            state = {
                key.removeprefix("generator."): value
                for key, value in read_state(path).items()
                if key.startswith("generator.") and not key.startswith("generator.unused_down.")
            }
            check_fit(self.generator.state_dict(), state, source=str(path), name="GECo's generator")
            self.generator.load_state_dict(state)
            self._generates = True

    def on_fit_start(self) -> None:
        """Refuse to learn from the templates of a generator that has learnt nothing."""
        if not self._generates and self.trainer.ckpt_path is None:
            raise UserError("GECo needs a trained generator: name `parents: {cigm: geco-cigm}` in the recipe and add --parents.cigm PATH")
        super().on_fit_start()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the generator, which stays as in inference: the statistics of its norms are CIGM's."""
        super().train(mode)
        if self.generator is not None:
            self.generator.eval()
        return self

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """As other methods, but for the scheduler, which steps once an epoch."""
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
                self.network.features(images[2])  # the authors embed the negatives, the same bottoms, anew: batch norm counts them twice
            losses = self.losses(batch, query, embedded)
        else:
            losses = self.losses(batch, *self.network(*images))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(batch))
        return losses["loss"]

    @torch.no_grad()
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the loss of eq. 10 at the templates of inference, and the AUC against the batch's true negatives."""
        query = self.query(self.images(batch.top), batch.top_ids)
        bottom = self.network.bottom(self.normalised(self.images(batch.bottom)))
        values = self.losses(batch, query, bottom)
        negative = loss.negative_mask(batch.bottom_ids, batch.positives).to(self.device)
        margin = (query * bottom).sum(dim=1, keepdim=True) - self.score(query, bottom)
        values["auc"] = ((margin.sign() + 1) / 2)[negative].mean() if negative.any() else margin.new_tensor(0.5)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, batch_size=len(batch), sync_dist=True)

    def losses(self, batch: PairBatch, query: Tensor, bottom: Tensor) -> dict[str, Tensor]:
        """Eq. 10 and its parts, alpha BPR + beta InfoNCE + gamma regulariser, of embeddings (B, D)."""
        negative = loss.negative_mask(batch.bottom_ids, batch.positives).to(self.device)
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
        kept_as = [f"{top_id}/{variant}" for top_id, variant in zip(batch.top_ids, chosen, strict=True)]
        drawn = noise.normal(noise.keys(kept_as, self.seed, "template", "kept"), (channels,), self.device)
        return self.normalised_template(to_float(self._templates("template", kept_as, lambda: to_uint8(self.generate(top, drawn)))))

    def generate(self, top: Tensor, drawn: Tensor) -> Tensor:
        """Eq. 3: the templates, (B, 3, S, S) in [-1, 1], of tops in [-1, 1] at noise (B, Z).

        `code` hands the generator, which knows tops in [-1, 1], what is normalised for the backbone.
        """
        if self.generator is None:
            raise UserError("GECo was built with template: false and draws no template")
        return self.generator(self.normalised(top) if self.variant == "code" else top, drawn)  # type: ignore[no-any-return]

    def normalised(self, images: Tensor) -> Tensor:
        """Bring images in [-1, 1] to the mean and deviation that the backbone knows."""
        return ((images + 1.0) / 2.0 - self.mean) / self.std

    def normalised_template(self, template: Tensor) -> Tensor:
        """The same for a template; `code` hands it to the backbone as it is."""
        return template if self.variant == "code" else self.normalised(template)

    def query(self, top: Tensor, top_ids: list[str]) -> Tensor:
        """Embed tops in [-1, 1] with their templates of inference, (B, D)."""
        template = None
        if self.generator is not None:
            drawn = _noise_of(top_ids, self.seed, 0, self.generator.noise_channels, self.device)
            template = self.normalised_template(self.generate(top, drawn))
        return self.network.query(self.normalised(top), template)

    @property
    def draws_templates(self) -> bool:
        """Whether there is a template to show beside a query."""
        return self.generator is not None

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Generate each top's template, (B, 3, S, S) in [-1, 1]; the noise is drawn from the top's id."""
        channels = 0 if self.generator is None else self.generator.noise_channels
        return self.generate(self.images(batch.top), _noise_of(batch.top_ids, self.seed, 0, channels, self.device))

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed the composed queries in W, (B, D)."""
        return self.query(self.images(batch.top), batch.top_ids)

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms in W~, (C, D)."""
        return self.network.bottom(self.normalised(self.images(batch.bottom)))

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Eq. 9: m, the dot products, (B, C), in float32 whatever the precision of the networks."""
        with torch.autocast(query.device.type, enabled=False):
            return query.float() @ candidate.float().T

    def images(self, images: Tensor | None) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1]."""
        return _images(images, self.image_size, "GECo")


def _noise_of(top_ids: list[str], seed: int, draw: int, channels: int, device: torch.device) -> Tensor:
    """Draw z of inference, (B, Z): it belongs to the top, so that two passes, and CIGM and GECo, agree."""
    return noise.normal(noise.keys(top_ids, seed, "template", draw), (channels,), device)


def _images(images: Tensor | None, size: int, method: str) -> Tensor:
    if images is None:
        raise UserError(f"{method} looks at images, and the dataset reads its lists alone: have it read the images too")
    return resized(to_float(images), size)


def _check(method: str, variant: str, **at_least_zero: float) -> None:
    if variant not in ("paper", "code"):
        raise UserError(f"{method}: variant: {variant}: choose `paper` or `code`")
    for name, value in at_least_zero.items():
        if not value >= 0:
            raise UserError(f"{method}: {name}: {value}: must not be below 0")
