"""The network and the equations shared by DiFashion and FashionDPO: items of an outfit denoised together, each influenced by the others.

What the authors' code does otherwise than their paper (`variant`), and what the paper leaves open, is in DiFashion's README.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.methods.outfit_diffusion import Conditions, OutfitDiffusion, slot_ids
from fashiongen.nn import noise
from fashiongen.nn.denoising import Noised
from fashiongen.nn.outfits import MutualEncoder, mean_of_others
from fashiongen.nn.parts import load_unet, widen_input
from fashiongen.nn.sampling import Predict
from fashiongen.outfit_batches import Generated, OutfitBatch

Variant = Literal["paper", "code"]


class Scales(NamedTuple):
    """The guidance scales of the category, of mutual influence and of the history."""

    category: float
    mutual: float
    history: float


class Known(NamedTuple):
    """What conditions K blanks of a test batch besides their noisy latents.

    Attributes:
        text: the encoded prompts, (K, L, C).
        history: the history's mean latents, (K, 4, h, w).
        given: the latents of all G given items, (G, 4, h, w).
    """

    text: Tensor
    history: Tensor
    given: Tensor


class MutualDiffusion(OutfitDiffusion):
    """Denoises all items of an outfit together: z'_t = (1 - eta) z_t + eta m, with m from the others, beside the history's latents."""

    needs: ClassVar[frozenset[str]] = frozenset({"images", "history"})

    def __init__(
        self,
        variant: Variant = "paper",
        read_history: bool = True,
        mutual_weight: float = 0.1,
        mutual_width: int = 256,
        mutual_dropout: float = 0.1,
        image_size: tuple[int, int] = (512, 512),
        history_only: float = 0.2,
        both_dropped: float = 0.3,
        mutual_only: float = 0.2,
        category_scale: float = 12.0,
        mutual_scale: float = 5.0,
        history_scale: float = 4.0,
        **options: Any,  # noqa: ANN401  the base's own
    ) -> None:
        """Load the pretrained parts and build the mutual encoder.

        Args:
            variant: `paper`; or `code`, where the authors' code breaks it: the history is never read, and in sampling a blank's mutual
                input is the sum of the others, given items without noise, instead of the mean of the others' noisy latents.
            read_history: False gives every item the latents of a white image, as where there is no history: an ablation.
            mutual_weight: eta, the share of the mutual condition in the denoiser's input.
            mutual_width: hidden width of the mutual encoder.
            mutual_dropout: of the mutual encoder.
            image_size: height and width of the images: the mutual encoder's layers are as wide as their latents.
            history_only: probability that of an item's two conditions the history alone is dropped in training.
            both_dropped: that both are.
            mutual_only: that the mutual condition alone is.
            category_scale: guidance scale of the category.
            mutual_scale: of mutual influence.
            history_scale: of the history.
            options: options of every such method but `guidance_scale`, in place of which there are the three scales.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(guidance_scale=1.0, **options)
        if not 0.0 <= mutual_weight <= 1.0:
            raise UserError(f"{type(self).__name__}: mutual_weight: {mutual_weight}: must lie in [0, 1]")
        shares = {"history_only": history_only, "both_dropped": both_dropped, "mutual_only": mutual_only}
        if min(shares.values()) < 0 or sum(shares.values()) > 1:
            raise UserError(f"{type(self).__name__}: {', '.join(shares)}: must not be negative, nor add up to more than 1")
        self.variant, self.mutual_weight = variant, mutual_weight
        self.reads_history = read_history and variant == "paper"
        self.history_only, self.both_dropped, self.mutual_only = history_only, both_dropped, mutual_only
        self.scales = Scales(category_scale, mutual_scale, history_scale)
        height, width = (side // self.codec.factor for side in image_size)
        self.mutual_size = (height, width)
        self.mutual_encoder = MutualEncoder(self.codec.channels * height * width, mutual_width, mutual_dropout)

    def build_unet(self, folder: str) -> UNet2DConditionModel:
        """Load the denoiser and widen its input by the history's channels: [z'_t | history]."""
        unet = load_unet(folder)
        widen_input(unet, self.codec.channels)
        return unet

    def training_conditions(self, batch: OutfitBatch, latents: Tensor, ids: list[str], names: tuple[str | int, ...]) -> Conditions:
        """Return the prompts and the history's latents, dropped at random: one draw per item decides for both conditions."""
        text = super().training_conditions(batch, latents, ids, names).text
        history = self.history_of(batch, torch.arange(len(ids)))
        if names != ("val",):
            kept = self.condition_draw(ids, names) >= self.history_only + self.both_dropped
            history = torch.where(kept[:, None, None, None], history, self.white(batch))
        return Conditions(text, history)

    def noisy_input(self, batch: OutfitBatch, noised: Noised, ids: list[str], names: tuple[str | int, ...]) -> Tensor:
        """Return z'_t = (1 - eta) z_t + eta m, with m = MLP(mean of the other items' z_t); m = 0 where it is dropped."""
        mutual = self.mutual(mean_of_others(noised.latents, batch.blank.row_of, len(batch)))
        if names != ("val",):
            draw = self.condition_draw(ids, names)
            dropped = (draw >= self.history_only) & (draw < self.history_only + self.both_dropped + self.mutual_only)
            mutual = mutual * ~dropped[:, None, None, None]
        return self.mixed(noised.latents, mutual)

    def condition_draw(self, ids: list[str], names: tuple[str | int, ...]) -> Tensor:
        """Draw a number in [0, 1) per item, (N,): below `history_only` the history is dropped, next both are, next the mutual condition."""
        return noise.uniform(noise.keys(ids, self.seed, *names, "conditions"), self.device)

    def mutual(self, latents: Tensor) -> Tensor:
        """Return m of N items, (N, 4, h, w).

        Raises:
            UserError: if the latents have another size than the mutual encoder.
        """
        if tuple(latents.shape[-2:]) != self.mutual_size:
            height, width = (side * self.codec.factor for side in latents.shape[-2:])
            raise UserError(
                f"{type(self).__name__}: image_size: the images are {height}x{width}: set --model.init_args.image_size [{height},{width}]"
            )
        return self.mutual_encoder(latents)  # type: ignore[no-any-return]  # nn.Module is untyped

    def mixed(self, latents: Tensor, mutual: Tensor) -> Tensor:
        """Return (1 - eta) z_t + eta m."""
        return (1 - self.mutual_weight) * latents + self.mutual_weight * mutual

    def history_of(self, batch: OutfitBatch, slots: Tensor) -> Tensor:
        """Return the history's mean latents of N slots, (N, 4, h, w); those of a white image if it is not to be read."""
        if not self.reads_history:
            return self.white(batch).expand(len(slots), -1, -1, -1)
        return self.history_latents(batch, slots)

    @torch.no_grad()
    def generate(self, batch: OutfitBatch) -> Generated:
        """Denoise all blanks of an outfit together, draw after draw."""
        known = self.known(batch)
        return self.sampled_draws(batch, [self.guided(batch, [draw], known) for draw in range(self.draws)])

    def known(self, batch: OutfitBatch) -> Known:
        """Encode what conditions the blanks of a test batch; nothing of it changes over the steps or the draws."""
        assert batch.images is not None
        given = batch.given.values.nonzero().flatten()
        items = [batch.items.values[place] for place in given.tolist()]
        height, width = self.latent_size(batch)
        empty = torch.zeros(0, self.codec.channels, height, width, device=self.device)
        return Known(
            text=self.blank_conditions(batch).text,
            history=self.history_of(batch, batch.blank_slots()),
            given=self.item_latents(items, batch.images.values[given]) if items else empty,
        )

    def guided(self, batch: OutfitBatch, draws: Sequence[int], known: Known) -> Predict:
        """Return the denoiser of all blanks of some draws, with three guidance terms in one batch of four predictions.

        eps = eps_0 + s_c (eps_c - eps_0) + s_m (eps_cm - eps_c) + s_h (eps_cmh - eps_cm): without any condition, with the category, with
        mutual influence too, and with the history too.
        """
        times, scales = len(draws), self.scales
        none = self.white(batch).expand_as(known.history)
        empty = self.prompt_encoder.remembered([""]).expand_as(known.text)
        conditions = Conditions(
            torch.cat([part.repeat(times, 1, 1) for part in (empty, known.text, known.text, known.text)]),
            torch.cat([part.repeat(times, 1, 1, 1) for part in (none, none, none, known.history)]),
        )
        alone = Conditions(known.text.repeat(times, 1, 1), known.history.repeat(times, 1, 1, 1))  # outside of `guidance_interval`
        others = _Others(self, batch, draws, known.given)
        low, high = self.sampling.interval

        def predict(noisy: Tensor, timestep: Tensor, doubled: bool) -> Tensor:
            mixed = self.mixed(noisy, self.mutual(others.mean(noisy, timestep)))
            if not low <= float(timestep) / self.schedule.config.num_train_timesteps <= high:
                return self.denoise(mixed, timestep, alone)
            plain = self.mixed(noisy, torch.zeros_like(noisy))
            nothing, category, both, everything = self.denoise(torch.cat([plain, plain, mixed, mixed]), timestep, conditions).chunk(4)
            return (
                nothing + scales.category * (category - nothing) + scales.mutual * (both - category) + scales.history * (everything - both)
            )

        return predict


class _Others:
    """What a blank's mutual condition reads at each step: the outfit's other items, the given ones noised to the same timestep."""

    def __init__(self, method: MutualDiffusion, batch: OutfitBatch, draws: Sequence[int], given: Tensor) -> None:
        """Draw the noise of the given items, whose latents are (G, 4, h, w), once for each of the draws: (D * G, 4, h, w)."""
        slots = batch.given.values.nonzero().flatten()
        places, ids = slots.tolist(), slot_ids(batch)
        keys = noise.keys([f"{ids[place]}/{draw}" for draw in draws for place in places], method.seed, "given")
        self.method, self.rows = method, len(batch) * len(draws)
        self.clean = given.repeat(len(draws), 1, 1, 1)
        self.epsilon = noise.normal(keys, given.shape[1:], method.device)
        # Each draw of an outfit is a row of its own.
        first = [turn * len(batch) for turn in range(len(draws))]
        self.of_blanks = torch.cat([batch.blank_samples() + start for start in first])
        self.of_given = torch.cat([batch.given.row_of[slots] + start for start in first])

    def mean(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Return the mean of each blank's others, (D * K, 4, h, w), given the blanks' latents at a timestep."""
        of_all = torch.cat([self.of_blanks, self.of_given])
        if self.method.variant == "code":  # ones for weights, and given items without noise
            together = torch.cat([noisy, self.clean])
            total = noisy.new_zeros(self.rows, *noisy.shape[1:]).index_add_(0, of_all, together)
            return total[self.of_blanks] - noisy
        moment = timestep.round().long()  # that of `euler` lies between two
        given = self.method.schedule.add_noise(self.clean, self.epsilon, moment.expand(len(self.clean)))
        return mean_of_others(torch.cat([noisy, given]), of_all, self.rows)[: len(noisy)]
