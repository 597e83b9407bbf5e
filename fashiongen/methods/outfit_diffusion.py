"""The base of the latent-diffusion methods that generate items of outfits from prompts: what they share of training and sampling.

Shapes: B outfits with T items in all, K of them blanks, each filled D times; latents (..., 4, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fashiongen.batches import to_float
from fashiongen.checkpoints import locate
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.nn import noise
from fashiongen.nn.denoising import Noised, denoising_loss
from fashiongen.nn.encodings import EncodingCache
from fashiongen.nn.guidance import condition_mask
from fashiongen.nn.outfits import item_prompt, mean_of_rows
from fashiongen.nn.parts import load_codec, load_noise_schedule, load_prompt_encoder, load_unet
from fashiongen.nn.sampling import Predict, SamplerName, Sampling, sample
from fashiongen.outfit_batches import WHITE, ComposeBatch, FillBlankBatch, Generated, OutfitBatch


class Conditions(NamedTuple):
    """What a denoiser knows of N items besides their noisy latents.

    Attributes:
        text: the encoded prompts, (N, L, C).
        extra: latents of further conditions, joined along the channels, (N, E, h, w); None without any.
    """

    text: Tensor
    extra: Tensor | None = None


class OutfitDiffusion(Method):
    """Generates the blanks of outfits; a subclass says what conditions them besides the prompt of their category.

    Attributes:
        draws: how often each blank is filled; a test sets it to the number that its protocol states.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    frozen: ClassVar[tuple[str, ...]] = ("codec", "prompt_encoder")

    def __init__(
        self,
        pretrained: str = "tiny",
        vae: str | None = None,
        draws: int = 1,
        snr_gamma: float | None = 5.0,
        text_dropout: float = 0.2,
        sampler: SamplerName = "pndm",
        steps: int = 50,
        guidance_scale: float = 7.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
        karras: bool = False,
        cache_encodings: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the pretrained parts.

        Args:
            pretrained: Stable Diffusion: `tiny`, a folder in the diffusers layout, or a hub id.
            vae: another autoencoder: a folder or a hub id that holds it at its top, or `tiny`.
            draws: how often each blank is filled.
            snr_gamma: weight each noise's loss by min(SNR, snr_gamma) / SNR (min-SNR, arXiv 2303.09556); None weights all equally.
            text_dropout: probability that an item's prompt is dropped in training, in [0, 1].
            sampler: see `fashiongen.nn.sampling`.
            steps: of the sampler.
            guidance_scale: of classifier-free guidance; at 1.0 the unconditional half is not computed.
            guidance_interval: the share of the timesteps in which guidance applies, from 0 (no noise) to 1.
            eta: of `ddim`.
            karras: of `dpm++`, `unipc` and `euler`: noise levels as in Karras et al. 2022.
            cache_encodings: cache the latents of training items in memory, history included. Only for data without augmentation.
            gradient_checkpointing: recompute the denoiser's activations in the backward pass to save memory.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        title = type(self).__name__
        if draws < 1:
            raise UserError(f"{title}: draws: {draws}: must be at least 1")
        if not 0.0 <= text_dropout <= 1.0:
            raise UserError(f"{title}: text_dropout: {text_dropout}: must lie in [0, 1]")
        if snr_gamma is not None and not snr_gamma > 0:
            raise UserError(f"{title}: snr_gamma: {snr_gamma}: must be above 0; leave it out to weight all noises equally")
        self.draws, self.snr_gamma, self.text_dropout = draws, snr_gamma, text_dropout
        self.sampling = Sampling(sampler=sampler, steps=steps, scale=guidance_scale, interval=guidance_interval, eta=eta, karras=karras)
        folder = locate(pretrained, "sd")
        self.codec = load_codec(folder) if vae is None else load_codec(locate(vae, "sd/vae"), subfolder=None)
        self.prompt_encoder = load_prompt_encoder(folder)
        self.schedule = load_noise_schedule(folder)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(f"{title}: pretrained: {folder}: predicts {self.schedule.config.prediction_type}, but its loss needs epsilon")
        self.sampling.check(self.schedule, title)
        self.unet: UNet2DConditionModel = self.build_unet(folder)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.encoding_cache = EncodingCache() if cache_encodings else None
        self._white: dict[tuple[int, int], Tensor] = {}

    def build_unet(self, folder: str) -> UNet2DConditionModel:
        """Load the denoiser; a subclass may widen its input."""
        return load_unet(folder)

    def training_conditions(self, batch: OutfitBatch, latents: Tensor, ids: list[str], names: tuple[str | int, ...]) -> Conditions:
        """Return what conditions all T items of a training batch, conditions dropped at random, given the items' clean latents."""
        return Conditions(self.prompts(batch.category.values, self.kept(ids, self.text_dropout, names, "text")))

    def blank_conditions(self, batch: OutfitBatch) -> Conditions:
        """Return what conditions the K blanks of a test batch."""
        categories = batch.category.values
        return Conditions(self.prompts([categories[slot] for slot in batch.blank_slots().tolist()]))

    def null(self, conditions: Conditions) -> Conditions:
        """Return the conditions of the unconditional half of the guidance: the empty prompt, all else as it is."""
        return conditions._replace(text=self.prompt_encoder.remembered([""]).expand_as(conditions.text))

    def training_step(self, batch: OutfitBatch, batch_idx: int) -> Tensor:
        """Return the loss of the predicted noise of all items."""
        loss = self.denoising_loss(batch, ("train", self.global_step))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: OutfitBatch, batch_idx: int) -> None:
        """Log the plain loss with all conditions, with the same draws in every epoch."""
        self.log("val/loss", self.denoising_loss(batch, ("val",)), prog_bar=True, batch_size=len(batch), sync_dist=True)

    def denoising_loss(self, batch: OutfitBatch, names: tuple[str | int, ...]) -> Tensor:
        """Return the mean of || eps - eps_theta(z_t, t, conditions) ||^2 over all items, weighted in training (min-SNR)."""
        latents, ids = self.true_latents(batch), slot_ids(batch)
        noised = self.add_noise(batch, latents, ids, names)
        conditions = self.training_conditions(batch, latents, ids, names)
        predicted = self.denoise(self.noisy_input(batch, noised, ids, names), noised.timestep, conditions)
        return denoising_loss(predicted, noised, self.schedule, None if names == ("val",) else self.snr_gamma)

    def add_noise(self, batch: OutfitBatch, latents: Tensor, ids: list[str], names: tuple[str | int, ...]) -> Noised:
        """Noise all items of an outfit to the same timestep: in sampling they are denoised together."""
        epsilon = noise.normal(noise.keys(ids, self.seed, *names, "noise"), latents.shape[1:], latents.device)
        timesteps = self.schedule.config.num_train_timesteps
        timestep = noise.integers(noise.keys(batch.ids, self.seed, *names, "timestep"), 0, timesteps, latents.device)[batch.blank.row_of]
        return Noised(self.schedule.add_noise(latents, epsilon, timestep), epsilon, timestep)

    def noisy_input(self, batch: OutfitBatch, noised: Noised, ids: list[str], names: tuple[str | int, ...]) -> Tensor:
        """Return what the denoiser sees of the noisy latents of all T items: z_t itself, unless a subclass mixes something in."""
        return noised.latents

    def denoise(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict the noise of N items' latents (N, 4, h, w) at timesteps (N,), or one for all."""
        inputs = noisy if conditions.extra is None else torch.cat([noisy, conditions.extra], dim=1)
        text = conditions.text.to(self.unet.dtype)
        predicted: Tensor = self.unet(inputs.to(self.unet.dtype), timestep, encoder_hidden_states=text).sample
        return predicted.float()

    def fill_blank(self, batch: FillBlankBatch) -> Generated:
        """Generate the missing item of each outfit, `draws` times."""
        return self.generate(batch)

    def compose_outfit(self, batch: ComposeBatch) -> Generated:
        """Generate all items of each outfit, `draws` times."""
        return self.generate(batch)

    @torch.no_grad()
    def generate(self, batch: OutfitBatch) -> Generated:
        """Sample all blanks with guidance, draw after draw."""
        conditions = self.blank_conditions(batch)
        guided = Conditions(*(_both(*parts) for parts in zip(self.null(conditions), conditions, strict=True)))

        def predict(noisy: Tensor, timestep: Tensor, doubled: bool) -> Tensor:
            return self.denoise(noisy, timestep, guided if doubled else conditions)

        return self.sampled_draws(batch, [predict] * self.draws)

    def sampled_draws(self, batch: OutfitBatch, predictors: Sequence[Predict]) -> Generated:
        """Sample and decode one draw of all blanks with each of the denoisers; a draw at a time bounds the memory."""
        images = []
        for draw, predict in enumerate(predictors):
            ids = self.draw_ids(batch, draw)
            latents = sample(self.sampling, self.schedule, predict, self.pure_noise(batch, ids), ids, self.seed, "sampler")
            images.append(self.codec.decode(latents))
        return Generated(images=torch.stack(images))

    def draw_ids(self, batch: OutfitBatch, draw: int) -> list[str]:
        """Return the id of each blank in a draw: it keys the draw's noise."""
        ids = slot_ids(batch)
        return [f"{ids[slot]}/{draw}" for slot in batch.blank_slots().tolist()]

    def pure_noise(self, batch: OutfitBatch, ids: Sequence[str]) -> Tensor:
        """Draw the noise that sampling starts from, (N, 4, h, w)."""
        height, width = self.latent_size(batch)
        return noise.normal(noise.keys(ids, self.seed, "sample"), (self.codec.channels, height, width), self.device)

    def prompts(self, categories: Sequence[str], kept: Tensor | None = None) -> Tensor:
        """Encode the prompts of items, (N, L, C); the empty one where `kept` (N,) is False."""
        chosen = [True] * len(categories) if kept is None else kept.tolist()
        return self.prompt_encoder.remembered([item_prompt(name) if shown else "" for name, shown in zip(categories, chosen, strict=True)])

    def kept(self, ids: list[str], dropout: float, names: tuple[str | int, ...], what: str) -> Tensor | None:
        """Return which items keep a condition in training, (N,) bool; None for all of them, as in validation."""
        if names == ("val",) or dropout == 0:
            return None
        return condition_mask(ids, dropout, self.seed, *names, what)

    def true_latents(self, batch: OutfitBatch) -> Tensor:
        """Return the latents of all T true items."""
        if batch.true_images is None or batch.true_items is None:
            raise ValueError("training needs the true items")
        return self.item_latents(batch.true_items.values, batch.true_images.values)

    def item_latents(self, ids: list[str], images: Tensor) -> Tensor:
        """Return the latents of items, (N, 4, h, w), each distinct one encoded once; in training cached in memory.

        Args:
            ids: the items' ids.
            images: uint8 (N, 3, H, W).
        """
        cache = self.encoding_cache if self.training and self.encoding_cache is not None else EncodingCache()
        return cache.of_items("item", ids, lambda places: self.codec.encode(to_float(images[places])))

    def history_latents(self, batch: OutfitBatch, slots: Tensor) -> Tensor:
        """Return the mean latents of the user's history in the category of N slots, (N, 4, h, w): a white image's where there is none.

        Raises:
            UserError: if the data offer no history.
        """
        if batch.history is None or batch.history_items is None:
            raise UserError(f"{type(self).__name__} reads the user's history: set data.init_args.history=null, which offers all of it")
        chosen = slots.tolist()
        images, items = batch.history.values.select(chosen), batch.history_items.values.select(chosen)
        white = self.white(batch)
        if not len(items.values):
            return white.expand(len(chosen), -1, -1, -1)
        return mean_of_rows(self.item_latents(items.values, images.values), images.row_of, white, len(chosen))

    def white(self, batch: OutfitBatch) -> Tensor:
        """Return the latents of a white image, which stand for no item, (1, 4, h, w)."""
        assert batch.images is not None
        size = batch.images.values.shape[-2:]
        if size not in self._white or self._white[size].device != self.device:
            blank = torch.full((1, 3, *size), WHITE, dtype=torch.uint8, device=self.device)
            with torch.inference_mode(False):  # training may use what a validation computed
                self._white[size] = self.codec.encode(to_float(blank))
        return self._white[size]

    def latent_size(self, batch: OutfitBatch) -> tuple[int, int]:
        """Return the height and width of an item's latents.

        Raises:
            UserError: if the data have no images, or the denoiser cannot halve their latents as often as it must.
        """
        if batch.images is None:
            raise UserError(f"{type(self).__name__} generates images: set data.init_args.images=true")
        height, width = batch.images.values.shape[-2:]
        multiple = self.codec.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % multiple or width % multiple:
            raise UserError(f"{type(self).__name__}: the images are {height}x{width}: set data.init_args.size to multiples of {multiple}")
        return height // self.codec.factor, width // self.codec.factor


def slot_ids(batch: OutfitBatch) -> list[str]:
    """Return an id for each of the T slots, from its sample's id and its place: it keys random draws."""
    places = torch.arange(len(batch.blank.values)) - batch.blank.offsets.cpu()[batch.blank.row_of.cpu()]
    return [f"{batch.ids[row]}/{place}" for row, place in zip(batch.blank.row_of.tolist(), places.tolist(), strict=True)]


def _both(first: Any, second: Any) -> Any:  # noqa: ANN401  a part of Conditions
    return None if first is None else torch.cat([first, second])
