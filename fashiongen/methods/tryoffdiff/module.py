"""TryOffDiff (arXiv 2411.18350) and its second version (arXiv 2504.13078): a shop image from SigLIP's tokens of a dressed person.

What the authors' code does otherwise, and why, is in the folder's README.
"""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.checkpoints import locate, locate_file
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.tryoffdiff.network import DROPOUTS, LABELS, TryOffDiffNetwork, Version, from_square, to_square
from fashiongen.methods.tryoffdiff.published import load_published, unscaled_euler
from fashiongen.nn import noise
from fashiongen.nn.denoising import add_noise, denoising_loss
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.nn.guidance import condition_mask
from fashiongen.nn.parts import load_codec, load_noise_schedule, load_siglip, load_unet
from fashiongen.nn.sampling import SamplerName, Sampling, build_sampler, sample


class TryOffDiff(Method):
    """Restores a garment's shop image from a photo of a person wearing it; it needs no mask."""

    name: ClassVar[str] = "tryoffdiff"
    frozen: ClassVar[tuple[str, ...]] = ("codec", "siglip")

    def __init__(
        self,
        pretrained: str = "tiny",
        vae: str | None = None,
        siglip: str = "tiny",
        version: Version = "v1",
        published: str | None = None,
        image_size: int = 512,
        context_tokens: int = 77,
        adapter_dropout: float = 0.1,
        condition_dropout: float = 0.0,
        snr_gamma: float | None = None,
        sampler: SamplerName = "pndm",
        karras: bool = False,
        steps: int = 50,
        guidance_scale: float = 2.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
        adapter_lr_scale: float = 1.0,
        cache_encodings: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the pretrained parts and build the adapter.

        Args:
            pretrained: Stable Diffusion 1.4: `tiny`, a folder in the diffusers layout, or a hub id.
            vae: another autoencoder: a folder of its own or a hub id, such as `stabilityai/sd-vae-ft-mse`; by default `pretrained`'s.
            siglip: the SigLIP image encoder: `tiny`, a folder, or a hub id.
            version: `v1`; or of the second paper `v2-single`, for one kind of garment, or `v2-multi`, for all kinds.
            published: the authors' weights of that version: a file, or a file on the hub. They replace those of `pretrained`.
            image_size: side of the squares that are generated and trained on, in pixels.
            context_tokens: number of tokens that the denoiser attends to.
            adapter_dropout: of v1's transformer layer, in training; in [0, 1).
            condition_dropout: probability that a training sample has no condition: SigLIP's tokens are zeros. The authors drop none.
            snr_gamma: weight each sample's loss by min(SNR, snr_gamma) / SNR; None weights all equally, as the authors do.
            sampler: `pndm` (v1), `euler` (v2), `ddim`, `dpm++` or `unipc`.
            karras: of `euler` (v2), `dpm++` and `unipc`: noise levels as in Karras et al. 2022.
            steps: of the sampler.
            guidance_scale: of classifier-free guidance, by zero tokens; at 1.0 the unconditional half is not computed.
            guidance_interval: the share of the timesteps in which guidance applies, from 0 (no noise) to 1.
            eta: of `ddim`: from 0, deterministic, to 1, as much noise in each step as DDPM.
            adapter_lr_scale: learning rate of the adapter (all but the denoiser), as a multiple of the optimizer's; 10 in v2.
            cache_encodings: cache the frozen encoders' outputs of each training sample in memory, instead of encoding it in every epoch;
                a sample takes 3.3 MB at full size (calculated). Only for data without augmentation.
            gradient_checkpointing: recompute the denoiser's activations in the backward pass to save memory.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        if version not in get_args(Version):
            raise UserError(f"TryOffDiff: version: {version}: unknown; choose among {', '.join(get_args(Version))}")
        if not 0.0 <= condition_dropout <= 1.0:
            raise UserError(f"TryOffDiff: condition_dropout: {condition_dropout}: must lie in [0, 1]")
        if not 0.0 <= adapter_dropout < 1.0:
            raise UserError(f"TryOffDiff: adapter_dropout: {adapter_dropout}: must be at least 0 and below 1")
        if context_tokens < 1:
            raise UserError(f"TryOffDiff: context_tokens: {context_tokens}: must be at least 1")
        if snr_gamma is not None and not snr_gamma > 0:
            raise UserError(f"TryOffDiff: snr_gamma: {snr_gamma}: must be above 0; leave it out to weight all noises equally")
        if not adapter_lr_scale > 0:
            raise UserError(f"TryOffDiff: adapter_lr_scale: {adapter_lr_scale}: must be above 0")
        self.version = version
        self.image_size = image_size
        self.condition_dropout = condition_dropout
        self.adapter_lr_scale = adapter_lr_scale
        self.snr_gamma = snr_gamma
        self.sampling = Sampling(sampler=sampler, steps=steps, scale=guidance_scale, interval=guidance_interval, eta=eta, karras=karras)

        folder = locate(pretrained, "sd")
        self.codec = load_codec(folder) if vae is None else load_codec(locate(vae, "sd/vae"), subfolder=None)
        self.siglip = load_siglip(locate(siglip, "siglip"))
        self.schedule = load_noise_schedule(folder)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(
                f"TryOffDiff: pretrained: {folder}: predicts {self.schedule.config.prediction_type}, but it must predict epsilon"
            )
        self.sampling.check(self.schedule, "TryOffDiff")
        unet = load_unet(folder)
        multiple = self.codec.factor * 2 ** (len(unet.config.block_out_channels) - 1)
        if image_size < multiple or image_size % multiple:
            raise UserError(f"TryOffDiff: image_size: {image_size}: must be a multiple of {multiple}")
        config: Any = self.siglip.config
        tokens = (config.image_size // config.patch_size) ** 2
        self.network = TryOffDiffNetwork(
            unet, version, tokens=tokens, width=config.hidden_size, context=context_tokens, dropout=adapter_dropout
        )
        if published is not None:
            load_published(self.network, locate_file(published))
            self.check_sampler()
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.encoding_cache = EncodingCache() if cache_encodings else None

    def parts(self) -> dict[str, nn.Module]:
        """Return the network's parts and the frozen ones."""
        own = {name: child for name, child in self.named_children() if name != "network"}
        return dict(self.network.named_children()) | own

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give the adapter its own learning rate; v2 decays no bias and no norm.

        Raises:
            UserError: if the scheduler gives all parameters one rate, as OneCycleLR does, although the adapter has its own.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            decays = self.version == "v1" or not ("bias" in name or "norm" in name)  # the authors' rule
            groups.setdefault((not name.startswith("unet."), decays), []).append(parameter)
        optimizer = self.optimizer(
            [{"params": parameters} | ({} if decays else {"weight_decay": 0.0}) for (_, decays), parameters in groups.items()]
        )
        for (adapter, _), group in zip(groups, optimizer.param_groups, strict=True):
            group["lr"] *= self.adapter_lr_scale if adapter else 1.0
        if self.lr_scheduler is None:
            return optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = self.lr_scheduler(optimizer)
        highest = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        if any(abs(rates[0] * other - rate * highest[0]) > 1e-6 * rates[0] * other for rate, other in zip(rates, highest, strict=True)):
            problem = f"gives all parameters one rate, but adapter_lr_scale is {self.adapter_lr_scale}"
            raise UserError(f"TryOffDiff: lr_scheduler: {type(scheduler).__name__} {problem}: choose one that scales rates, or set it to 1")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: TryOffBatch, batch_idx: int) -> Tensor:
        """Return the loss, with conditions dropped at random."""
        loss = self.denoising_loss(batch, ("train", self.global_step), training=True)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TryOffBatch, batch_idx: int) -> None:
        """Log the loss, with the same draws in every epoch and without dropout."""
        self.log("val/loss", self.denoising_loss(batch, ("val",), training=False), prog_bar=True, batch_size=len(batch), sync_dist=True)

    def denoising_loss(self, batch: TryOffBatch, names: tuple[str | int, ...], *, training: bool) -> Tensor:
        """Return || eps - eps_theta(z_t; c, t) ||^2, mean over all elements; every draw is keyed by (seed, *names, id).

        Args:
            batch: with garments.
            names: of the draws.
            training: whether conditions and the adapter's values are dropped.
        """
        if batch.garment is None:
            raise ValueError("training needs the garments")
        latents = self.codec.mode(self.encoded("garment", batch))
        noised = add_noise(self.schedule, latents, batch.ids, self.seed, *names)
        # Divided by sqrt(alpha bar) it is z + sigma * epsilon, on which the authors' v2 weights were trained.
        alpha_bar = self.schedule.alphas_cumprod.to(latents)[noised.timestep].view(-1, 1, 1, 1)
        noisy = torch.where(self.network.unscaled, noised.latents / alpha_bar.sqrt(), noised.latents)

        tokens, keys = self.encoded("tokens", batch), None
        if training:
            mask = condition_mask(batch.ids, self.condition_dropout, self.seed, *names, "dropout")
            tokens = tokens * mask.to(tokens)[:, None, None]
            keys = [noise.keys(batch.ids, self.seed, *names, "adapter", place) for place in range(DROPOUTS)]
        predicted = self.network(noisy, noised.timestep, self.network.context(tokens, keys), self.labels(batch))
        return denoising_loss(predicted, noised, self.schedule, self.snr_gamma if training else None)

    def encodings(self) -> dict[str, Encoding]:
        """Return E of the garment's square (moments, (B, 8, h, w)) and SigLIP's tokens of the person's square, (B, N, D)."""
        config: Any = self.siglip.config  # the type allows a pair for its size, but SigLIP never has one
        side: int = config.image_size

        def moments(garment: Tensor) -> Tensor:
            return self.codec.moments(to_square(to_float(garment), self.image_size))

        def tokens(person: Tensor) -> Tensor:
            hidden: Tensor = self.siglip(to_square(to_float(person), side)).last_hidden_state
            return hidden

        square = "RGB in [-1, 1], padded to a square by its edges, resized to {0}x{0}"
        return {
            "garment": Encoding(
                reads=("garment",), compute=moments, encoder=self.codec.vae, preprocessing=f"moments of {square.format(self.image_size)}"
            ),
            "tokens": Encoding(
                reads=("person",), compute=tokens, encoder=self.siglip, preprocessing=f"last hidden state of {square.format(side)}"
            ),
        }

    def labels(self, batch: TryOffBatch) -> Tensor | None:
        """Return the classes of `v2-multi`, (B,) int64; None for other versions."""
        if self.version != "v2-multi":
            return None
        return torch.tensor([LABELS[category] for category in batch.category], device=self.device)

    @torch.no_grad()
    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments, (B, 3, H, W) in [-1, 1]: squares are generated and cropped back to the batch's size.

        SigLIP and the adapter run once per sample, before the first step; the unconditional context is one for all samples.
        """
        self.check_sampler()
        tokens = self.encoded("tokens", batch)
        context, labels = self.network.context(tokens), self.labels(batch)
        null = self.network.context(torch.zeros_like(tokens[:1]))
        both = torch.cat([null.expand_as(context), context])

        def predict(latents: Tensor, timestep: Tensor, doubled: bool) -> Tensor:
            if not doubled:
                return self.network(latents, timestep, context, labels)  # type: ignore[no-any-return]  # nn.Module's __call__
            return self.network(latents, timestep, both, None if labels is None else labels.repeat(2))  # type: ignore[no-any-return]

        side = self.image_size // self.codec.factor
        start = noise.normal(noise.keys(batch.ids, self.seed, "sample", 0, 0), (self.codec.channels, side, side), self.device)
        build = unscaled_euler if self.network.unscaled else build_sampler
        latents = sample(self.sampling, self.schedule, predict, start, batch.ids, self.seed, "sample", 0, 0, build=build)
        height, width = batch.person.shape[-2:]
        return from_square(self.codec.decode(latents), (height, width))

    def check_sampler(self) -> None:
        """Check that the sampler is that of the weights.

        Raises:
            UserError: if the authors' v2 weights, or weights that started from them, are to be sampled by another than Euler's method.
        """
        if self.network.unscaled and (self.sampling.sampler != "euler" or not self.sampling.karras):
            told = "the authors' v2 weights, and what was trained from them, can only be sampled by euler on Karras' steps"
            remedy = "set --model.init_args.sampler euler --model.init_args.karras true"
            raise UserError(f"TryOffDiff: sampler: {self.sampling.sampler}: {told}: {remedy}")
