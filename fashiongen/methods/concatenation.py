"""The Lightning module shared by CatVTON and TryOffAnyone: two images are concatenated in latent space and denoised together.

Both halves are noised and both are in the loss; the first half of what is sampled is the result. The methods differ in which image is
generated, and in what is concatenated to it as its condition.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.batches import TryOffBatch, TryOnBatch, to_float
from fashiongen.checkpoints import locate, locate_file
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.nn import noise
from fashiongen.nn.concatenation import JoinedDenoiser, Trained, apply_dream, check_trained, join_conditions, train_only
from fashiongen.nn.denoising import add_noise, denoising_loss
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.nn.guidance import condition_mask
from fashiongen.nn.parts import load_codec, load_noise_schedule, load_unet
from fashiongen.nn.sampling import SamplerName, Sampling, sample


class Conditions(NamedTuple):
    """What is known of B samples: the latents of both halves, (B, 4, h, w) each, and the mask of the first one, (B, 1, h, w) or None."""

    first: Tensor
    reference: Tensor
    mask: Tensor | None


class ConcatenationMethod(Method):
    """Generates an image beside a reference; a subclass names both, declares their encodings and implements its task.

    Attributes:
        generated: the batch's field with the true image, and the kind of its encoding.
        first: the kind of encoding that is the condition of the generated half.
        reference: the kind of encoding that is the other half, of condition and target alike.
        axis: the dimension along which latents are joined: -2 (the reference stands below) or -1 (to the right).
        masked: whether a mask says what of the first half is repainted; it takes one input channel.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    frozen: ClassVar[tuple[str, ...]] = ("codec", "network")  # of the network only what `trained` leaves out
    generated: ClassVar[str]
    first: ClassVar[str]
    reference: ClassVar[str]
    axis: ClassVar[int] = -2
    masked: ClassVar[bool] = True

    def __init__(
        self,
        pretrained: str = "tiny",
        vae: str | None = None,
        weights: str | None = None,
        trained: Trained = "self_attention",
        dream: float | None = None,
        snr_gamma: float | None = None,
        condition_dropout: float = 0.1,
        guidance_scale: float = 2.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        sampler: SamplerName = "ddim",
        steps: int = 50,
        eta: float = 1.0,
        karras: bool = False,
        cache_encodings: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the pretrained parts, remove the UNet's cross-attention, and load the authors' weights if they are given.

        Args:
            pretrained: the base model, whose UNet's input is [noise 4 | mask 1 | image latents 4] (Stable Diffusion inpainting), or
                [noise 4 | image latents 4] without a mask (InstructPix2Pix): `tiny`, a folder in the diffusers layout, or a hub id.
            vae: an autoencoder instead of the base model's: a folder or a hub id that holds it at its top, or `tiny`.
            weights: the authors' weights, which replace those of the base model: a file, or a file on the hub.
            trained: what is trained: `self_attention` (the layers), `transformers` (their blocks, with feed-forward and norms), or `all`.
            dream: p of DREAM (arXiv 2312.00210), the exponent of its weight; it costs a second prediction per step. None trains without.
            snr_gamma: weight each sample's loss by min(SNR, snr_gamma) / SNR (min-SNR, arXiv 2303.09556); None weights all equally.
            condition_dropout: probability that the reference is dropped from the conditions of a training sample, in [0, 1].
            guidance_scale: of classifier-free guidance; at 1.0 the unconditional half is not computed.
            guidance_interval: the share of the timesteps, from 0 (no noise) to 1, in which guidance applies.
            sampler: `ddim`, `dpm++`, `unipc` or `euler`.
            steps: sampling steps.
            eta: of `ddim`: 0 is deterministic, 1 adds as much noise in each step as DDPM.
            karras: of `dpm++`, `unipc` and `euler`: noise levels as in Karras et al. 2022, see `fashiongen.nn.sampling`.
            cache_encodings: cache the autoencoder's outputs of each training sample in memory. Only for data without augmentation.
            gradient_checkpointing: recompute activations in the backward pass to save memory.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        name = type(self).__name__
        check_trained(trained, name)
        if not 0.0 <= condition_dropout <= 1.0:
            raise UserError(f"{name}: condition_dropout: {condition_dropout}: must lie in [0, 1]")
        for what, value, without in (("dream", dream, "train without it"), ("snr_gamma", snr_gamma, "weight all noises equally")):
            if value is not None and not value > 0:
                raise UserError(f"{name}: {what}: {value}: must be above 0; leave it out to {without}")
        self.dream = dream
        self.snr_gamma = snr_gamma
        self.condition_dropout = condition_dropout
        self.sampling = Sampling(sampler=sampler, steps=steps, scale=guidance_scale, interval=guidance_interval, eta=eta, karras=karras)

        folder, others = locate(pretrained, "inpainting"), locate(pretrained, "sd")  # the same, except for `tiny`
        self.codec = load_codec(others) if vae is None else load_codec(locate(vae, "sd/vae"), subfolder=None)
        self.schedule = load_noise_schedule(others)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(f"{name}: pretrained: {others}: predicts {self.schedule.config.prediction_type}, but its loss needs epsilon")
        self.sampling.check(self.schedule, name)
        unet = load_unet(folder)
        inputs = 2 * self.codec.channels + self.masked
        if unet.config.in_channels != inputs:
            needed = "[noise | mask | image] (Stable Diffusion inpainting)" if self.masked else "[noise | image] (InstructPix2Pix)"
            raise UserError(f"{name}: pretrained: {folder}: its UNet has {unet.config.in_channels} input channels, not {inputs}: {needed}")
        self.network = JoinedDenoiser(unet)
        if weights is not None:
            self.load_published(unet, locate_file(weights))
        train_only(unet, trained)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.encoding_cache = EncodingCache() if cache_encodings else None

    def load_published(self, unet: UNet2DConditionModel, file: Path) -> None:
        """Load the authors' weights into a UNet without cross-attention.

        Raises:
            UserError: one line that names each key that is missing, left over or of another shape.
        """
        raise UserError(f"{type(self).__name__} has no published weights: leave `weights` out")

    def training_step(self, batch: TryOnBatch | TryOffBatch, batch_idx: int) -> Tensor:
        """Return the loss, with references dropped at random."""
        loss = self.denoising_loss(batch, ("train", self.global_step), self.condition_dropout)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TryOnBatch | TryOffBatch, batch_idx: int) -> None:
        """Log the plain loss, with the same draws in every epoch."""
        self.log("val/loss", self.denoising_loss(batch, ("val",), 0.0), prog_bar=True, batch_size=len(batch), sync_dist=True)

    def denoising_loss(self, batch: TryOnBatch | TryOffBatch, names: tuple[str | int, ...], dropout: float) -> Tensor:
        """Return || eps - eps_theta([z_t | conditions], t) ||^2 over both halves, mean over all elements.

        Every draw is keyed by (seed, *names, id). In training `dream` corrects z_t and eps, and `snr_gamma` weights the samples.
        """
        if getattr(batch, self.generated) is None:
            raise ValueError(f"training needs the true {self.generated}")
        conditions, training = self.conditions(batch), names != ("val",)
        latents = torch.cat([self.latents(self.generated, batch), conditions.reference], dim=self.axis)
        noised = add_noise(self.schedule, latents, batch.ids, self.seed, *names)
        if dropout > 0:  # of the condition alone: the reference's noisy half stays
            mask = condition_mask(batch.ids, dropout, self.seed, *names, "dropout").to(latents.device)
            conditions = conditions._replace(reference=conditions.reference * mask[:, None, None, None])
        joined = join_conditions(*conditions, self.axis)
        if self.dream is not None and training:
            with torch.no_grad():
                predicted = self.network(noised.latents, noised.timestep, joined)
            alpha_bar = self.schedule.alphas_cumprod.to(latents.device)[noised.timestep]
            noisy, target = apply_dream(noised.latents, noised.epsilon, predicted, alpha_bar, self.dream)
            noised = noised._replace(latents=noisy, epsilon=target)
        predicted = self.network(noised.latents, noised.timestep, joined)
        return denoising_loss(predicted, noised, self.schedule, self.snr_gamma if training else None)

    def encoding_of(self, field: str) -> Encoding:
        """Return the encoding of one image of the batch: the moments of its latents, (B, 8, h, w)."""

        def moments(images: Tensor) -> Tensor:
            return self.codec.moments(to_float(images))

        return Encoding(reads=(field,), compute=moments, encoder=self.codec.vae, preprocessing="moments of RGB in [-1, 1]")

    def latents(self, kind: str, batch: TryOnBatch | TryOffBatch) -> Tensor:
        """Return the mode of an encoding's latents, (B, 4, h, w)."""
        return self.codec.mode(self.encoded(kind, batch))

    def conditions(self, batch: TryOnBatch | TryOffBatch) -> Conditions:
        """Encode what is known of a batch; nothing of it changes over the denoising steps."""
        first = self.latents(self.first, batch)
        mask = interpolate(batch.mask.to(first), size=first.shape[-2:], mode="nearest") if self.masked else None
        return Conditions(first, self.latents(self.reference, batch), mask)

    @torch.no_grad()
    def generate(self, batch: TryOnBatch | TryOffBatch) -> Tensor:
        """Sample both halves with guidance and decode the first: (B, 3, H, W) in [-1, 1].

        The unconditional half of the guidance has the same mask and a reference of zero latents.
        """
        conditions = self.conditions(batch)
        joined = join_conditions(*conditions, self.axis)
        doubled = joined
        if self.sampling.scale != 1.0:
            null = conditions._replace(reference=torch.zeros_like(conditions.reference))
            doubled = torch.cat([join_conditions(*null, self.axis), joined])

        def predict(latents: Tensor, timestep: Tensor, guided: bool) -> Tensor:
            return self.network(latents, timestep, doubled if guided else joined)  # type: ignore[no-any-return]  # nn.Module is untyped

        key = noise.keys(batch.ids, self.seed, "sample", 0, 0)
        latents = noise.normal(key, (self.codec.channels, *joined.shape[-2:]), self.device)
        latents = sample(self.sampling, self.schedule, predict, latents, batch.ids, self.seed, "sample", 0, 0)
        return self.codec.decode(latents.chunk(2, dim=self.axis)[0])
