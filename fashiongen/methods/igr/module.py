"""IGR (arXiv 2412.11513): improving a diffusion model for garment restoration from a person image.

Equation numbers are the paper's; what the paper leaves open is a parameter, explained in the folder's README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.checkpoints import locate, locate_file, read_state
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.igr.network import Conditions, IGRNetwork, drop, repeat
from fashiongen.nn import noise
from fashiongen.nn.attention import Memory, join
from fashiongen.nn.crop import bounding_boxes, crop_and_resize
from fashiongen.nn.denoising import add_noise, denoising_loss
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.nn.guidance import condition_mask
from fashiongen.nn.parts import load_codec, load_image_encoder, load_noise_schedule, load_prompt_encoder, load_unet
from fashiongen.nn.sampling import SamplerName, Sampling, sample

PROMPTS = {
    "upper": "a photo of an upper body garment",
    "lower": "a photo of a lower body garment",
    "full": "a photo of a full body garment",
}
CONDITIONS = ("text", "image", "garment")


class IGR(Method):
    """Restores a garment's shop image from a photo of a person wearing it."""

    name: ClassVar[str] = "igr"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    frozen: ClassVar[tuple[str, ...]] = ("codec", "prompt_encoder", "image_encoder")

    def __init__(
        self,
        pretrained: str = "tiny",
        image_encoder: str = "tiny",
        image_encoder_subfolder: str | None = None,
        ip_adapter: str | None = "tiny",
        prompts: dict[str, str] | None = None,
        garmnet: bool = True,
        garmnet_timestep: int = 0,
        image_tokens: int = 4,
        noises_per_sample: int = 1,
        snr_gamma: float | None = None,
        condition_dropout: float = 0.1,
        drop_conditions: tuple[str, ...] = CONDITIONS,
        guidance_scale: float = 1.5,
        steps: int = 25,
        sampler: SamplerName = "ddim",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
        karras: bool = False,
        cache_encodings: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the pretrained parts and build GarmNet and the garment fusion blocks.

        Args:
            pretrained: Stable Diffusion 1.5: `tiny`, a folder in the diffusers layout, or a hub id.
            image_encoder: the CLIP image encoder of the image prompt: `tiny`, a folder, or a hub id.
            image_encoder_subfolder: its subfolder, if any.
            ip_adapter: IP-Adapter weights to initialise the image prompt: `tiny`, a file, or a file on the hub; None for random ones.
            prompts: the text for each of "upper", "lower" and "full" (Section 3.2 mentions three prompts without giving them).
            garmnet: False removes GarmNet (the paper's ablation).
            garmnet_timestep: the timestep at which GarmNet runs, once per sample.
            image_tokens: tokens per image prompt.
            noises_per_sample: number of noises and timesteps per training sample and step. GarmNet, half of the work, runs once for all.
            snr_gamma: weight each noise's loss by min(SNR, snr_gamma) / SNR (min-SNR, arXiv 2303.09556), which helps colours converge in
                few steps; None weights all equally, as in eq. 1.
            condition_dropout: probability that the conditions of a training sample are dropped, in [0, 1].
            drop_conditions: which conditions are dropped, together: any of "text", "image", "garment" (eq. 2 drops all).
            guidance_scale: s of eq. 2; at 1.0 the unconditional half is not computed.
            steps: of the sampler.
            sampler: the paper's is `ddim`; see `fashiongen.nn.sampling` for the others.
            guidance_interval: the share of timesteps with guidance.
            eta: of DDIM.
            karras: of `dpm++`, `unipc` and `euler`: noise levels as in Karras et al. 2022, see `fashiongen.nn.sampling`.
            cache_encodings: cache the frozen encoders' outputs of each training sample in memory, instead of encoding it in every epoch;
                a sample takes 0.8 MB at 1024x768 (calculated). Only for data without augmentation.
            gradient_checkpointing: recompute activations in the backward pass to save memory.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        for what, given, known in (("drop_conditions", drop_conditions, CONDITIONS), ("prompts", prompts or {}, PROMPTS)):
            if unknown := set(given) - set(known):
                raise UserError(f"IGR: {what}: {', '.join(sorted(unknown))}: unknown; choose among {', '.join(known)}")
        if not 0.0 <= condition_dropout <= 1.0:
            raise UserError(f"IGR: condition_dropout: {condition_dropout}: must lie in [0, 1]")
        if snr_gamma is not None and not snr_gamma > 0:
            raise UserError(f"IGR: snr_gamma: {snr_gamma}: must be above 0; leave it out to weight all noises equally")
        for what, count in (("image_tokens", image_tokens), ("noises_per_sample", noises_per_sample)):
            if count < 1:
                raise UserError(f"IGR: {what}: {count}: must be at least 1")
        self.noises_per_sample = noises_per_sample
        self.snr_gamma = snr_gamma
        self.condition_dropout = condition_dropout
        self.drop_conditions = frozenset(drop_conditions)
        self.sampling = Sampling(sampler=sampler, steps=steps, scale=guidance_scale, interval=guidance_interval, eta=eta, karras=karras)
        self.prompts = PROMPTS | (prompts or {})

        folder = locate(pretrained, "sd")
        self.codec = load_codec(folder)
        self.prompt_encoder = load_prompt_encoder(folder)
        self.image_encoder = load_image_encoder(locate(image_encoder, "clip"), image_encoder_subfolder)
        self.schedule = load_noise_schedule(folder)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(f"IGR: pretrained: {folder}: predicts {self.schedule.config.prediction_type}, but IGR's eq. 1 needs epsilon")
        self.sampling.check(self.schedule, "IGR")
        if not 0 <= garmnet_timestep < self.schedule.config.num_train_timesteps:
            raise UserError(f"IGR: garmnet_timestep: {garmnet_timestep}: must lie in 0 to {self.schedule.config.num_train_timesteps - 1}")
        self.network = IGRNetwork(load_unet(folder), self.image_encoder.config.projection_dim, image_tokens, garmnet, garmnet_timestep)
        if ip_adapter is not None:
            file = locate_file(ip_adapter, "ip_adapter/ip_adapter.safetensors")
            self.network.load_image_prompt(read_state(file), str(file))
        if gradient_checkpointing:
            self.network.denoiser.enable_gradient_checkpointing()
            if self.network.garmnet is not None:
                self.network.garmnet.enable_gradient_checkpointing()
        self.encoding_cache = EncodingCache() if cache_encodings else None

    def parts(self) -> dict[str, nn.Module]:
        """Return the network's parts and the frozen ones."""
        own = {name: child for name, child in self.named_children() if name != "network"}
        renamed = {"garmnet": "garmnet (up to its last tapped layer)"}
        return {renamed.get(name, name): child for name, child in self.network.named_children()} | own

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Start the fine stage from the coarse stage's checkpoint (Section 3.2, training strategy)."""
        for role, path in parents.items():
            if role != "coarse":
                raise UserError(f"IGR supports only the parent `coarse`, but the recipe names `{role}`")
            self.load_weights(read_state(path), source=str(path))

    def training_step(self, batch: TryOffBatch, batch_idx: int) -> Tensor:
        """Return the loss of eq. 1, with conditions dropped at random."""
        loss = self.denoising_loss(batch, ("train", self.global_step), self.condition_dropout)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TryOffBatch, batch_idx: int) -> None:
        """Log the loss of eq. 1, with the same draws in every epoch."""
        self.log("val/loss", self.denoising_loss(batch, ("val",), 0.0), prog_bar=True, batch_size=len(batch), sync_dist=True)

    def denoising_loss(self, batch: TryOffBatch, names: tuple[str | int, ...], dropout: float) -> Tensor:
        """Eq. 1: || eps - eps_theta(z_t; c, t) ||^2, mean over all elements; every draw is keyed by (seed, *names, id, draw).

        With `snr_gamma` in training each sample's mean is weighted by min(SNR, snr_gamma) / SNR.
        """
        if batch.garment is None:
            raise ValueError("training needs the garments")
        # The first draw of all samples, then the second, and so on.
        ids = [id_ if draw == 0 else f"{id_}/{draw}" for draw in range(self.noises_per_sample) for id_ in batch.ids]
        latents = self.codec.mode(self.encoded("garment", batch)).repeat(self.noises_per_sample, 1, 1, 1)
        noised = add_noise(self.schedule, latents, ids, self.seed, *names)
        conditions = repeat(self.conditions(batch), self.noises_per_sample)
        if dropout > 0:
            mask = condition_mask(ids, dropout, self.seed, *names, "dropout")
            conditions = drop(conditions, mask, self.prompt_encoder.remembered([""]), self.drop_conditions)
        predicted = self.network(noised.latents, noised.timestep, self.network.memory(conditions), conditions.text)
        return denoising_loss(predicted, noised, self.schedule, None if names == ("val",) else self.snr_gamma)

    def conditions(self, batch: TryOffBatch) -> Conditions:
        """Compute the three conditions of a batch: prompt by category, image prompt of the cropped garment, GarmNet's features."""
        text = self.prompt_encoder.remembered([self.prompts[category] for category in batch.category])
        image = self.encoded("image", batch)
        latents = self.codec.mode(self.encoded("person", batch))
        resized_mask = interpolate(batch.mask.to(latents), size=latents.shape[-2:], mode="nearest")
        return Conditions(text, image, self.network.garment_features(latents, resized_mask, text))

    def encodings(self) -> dict[str, Encoding]:
        """Return E of the garment and of the person (moments, (B, 8, h, w)) and the image encoder's embedding of p_g, (B, D)."""

        def moments(images: Tensor) -> Tensor:
            return self.codec.moments(to_float(images))

        def embedding(person: Tensor, mask: Tensor) -> Tensor:
            embeds: Tensor = self.image_encoder(self.garment_crop(to_float(person), mask)).image_embeds
            return embeds

        mean, std = tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)
        latents, crop = "moments of RGB in [-1, 1]", f"person in [0, 1] times mask, its box stretched, less {mean}, over {std}"
        return {
            "garment": Encoding(reads=("garment",), compute=moments, encoder=self.codec.vae, preprocessing=latents),
            "person": Encoding(reads=("person",), compute=moments, encoder=self.codec.vae, preprocessing=latents),
            "image": Encoding(reads=("person", "mask"), compute=embedding, encoder=self.image_encoder, preprocessing=crop),
        }

    def garment_crop(self, person: Tensor, mask: Tensor) -> Tensor:
        """p_g = Resize(Crop(p * m)), normalised for the image encoder: (B, 3, S, S).

        p is in [0, 1] here, so that everything outside the mask is black; the crop is the mask's bounding box, stretched to a square.
        """
        config: Any = self.image_encoder.config  # the type allows a pair for its size, but CLIP never has one
        size: int = config.image_size
        pixels = (person + 1.0) / 2.0 * mask
        crop = crop_and_resize(pixels, bounding_boxes(mask), (size, size))
        mean, std = (crop.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return (crop - mean) / std

    @torch.no_grad()
    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments, (B, 3, H, W) in [-1, 1], with the guidance of eq. 2.

        GarmNet, the image encoder and the projections to keys and values run once per sample, before the first step.
        """
        conditions = self.conditions(batch)
        height, width = (side // self.codec.factor for side in batch.person.shape[-2:])
        key = noise.keys(batch.ids, self.seed, "sample", 0, 0)
        latents = noise.normal(key, (self.codec.channels, height, width), self.device)

        memory, text = self.network.memory(conditions), conditions.text
        guided_memory = join(self.null_memory(conditions), memory) if self.sampling.scale != 1.0 else memory

        def predict(noisy: Tensor, timestep: Tensor, guided: bool) -> Tensor:
            tokens = torch.cat([text, text]) if guided else text
            epsilon: Tensor = self.network(noisy, timestep, guided_memory if guided else memory, tokens)
            return epsilon

        latents = sample(self.sampling, self.schedule, predict, latents, batch.ids, self.seed, "sampler")
        return self.codec.decode(latents)

    def null_memory(self, conditions: Conditions) -> dict[str, Memory]:
        """Return the keys and values of the unconditional half: with batch size one if all conditions are dropped, else B."""
        if self.drop_conditions == frozenset(CONDITIONS):
            conditions = Conditions(
                conditions.text[:1], conditions.image[:1], {name: value[:1] for name, value in conditions.garment.items()}
            )
        mask = torch.zeros(len(conditions.text), dtype=torch.bool)
        return self.network.memory(drop(conditions, mask, self.prompt_encoder.remembered([""]), self.drop_conditions))
