"""TWGTM (arXiv 2508.04551): one diffusion model that puts a garment on a person and takes it off.

Equation numbers are the paper's; what the paper leaves open is a parameter, explained in the folder's README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.batches import TryOffBatch, TryOnBatch, to_float
from fashiongen.checkpoints import locate, read_state
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.twgtm.masks import flat_mask, grown_squares, mask_loss, rectangles
from fashiongen.methods.twgtm.network import Fusion, Reference, TWGTMNetwork, keep_mask_last, scale_heads, scale_widths
from fashiongen.methods.twgtm.semantic import PlainTokens, SemanticAbstraction
from fashiongen.methods.twgtm.settings import PROMPTS, SWIN, Direction, Layout, Painting, check
from fashiongen.methods.twgtm.spatial import SpatialRefinement, build_swin, load_swin
from fashiongen.nn import noise
from fashiongen.nn.attention import join, repeat
from fashiongen.nn.crop import bounding_boxes, crop_and_resize, stretch_into
from fashiongen.nn.denoising import add_noise, denoising_loss
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.nn.guidance import condition_mask
from fashiongen.nn.parts import load_codec, load_image_encoder, load_inpainting_unet, load_noise_schedule, load_prompt_encoder
from fashiongen.nn.sampling import SamplerName, Sampling, sample

TARGETS = {"vton": "person", "vtoff": "garment"}


class TWGTM(Method):
    """Dresses a person in a garment (`vton`), or restores the garment from a photo (`vtoff`): the order of the two images decides."""

    name: ClassVar[str] = "twgtm"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    frozen: ClassVar[tuple[str, ...]] = ("codec", "prompt_encoder", "image_encoder")

    def __init__(
        self,
        pretrained: str = "tiny",
        vae: str | None = None,
        image_encoder: str = "tiny",
        image_encoder_subfolder: str | None = None,
        swin: str | dict[str, Any] | None = None,
        prompts: dict[str, str] | None = None,
        phase: int = 2,
        directions: tuple[Direction, ...] = get_args(Direction),
        qformer: bool = True,
        queries: int = 32,
        qformer_layers: int = 12,
        spatial: bool = True,
        fusion: Fusion = "extended",
        spatial_queries: int = 16,
        spatial_width: int = 256,
        units: int = 3,
        layout: Layout = "side_by_side",
        synthesised_masks: bool = False,
        growth: tuple[float, float] = (-0.1, 0.5),
        rectangle: str | tuple[float, float, float, float] | None = None,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        noises_per_sample: int = 1,
        snr_gamma: float | None = None,
        condition_dropout: float = 0.1,
        sampler: SamplerName = "ddim",
        steps: int = 50,
        guidance_scale: float = 2.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
        karras: bool = False,
        cache_encodings: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Load the pretrained parts and build the two modules around the UNet.

        Args:
            pretrained: Stable Diffusion 1.5 for inpainting: `tiny`, a folder in the diffusers layout, or a hub id.
            vae: another autoencoder: a folder or hub id that is one; None takes that of `pretrained`.
            image_encoder: the frozen CLIP image encoder: `tiny`, a folder, or a hub id. Its embedding is as wide as the text's.
            image_encoder_subfolder: its subfolder, if any.
            swin: the spatial refinement module's image encoder: a folder or hub id, or the sizes of one with random weights, some of
                `width`, `depths`, `heads` and `window`; None is Swin-T with random weights.
            prompts: the QFormer's text for each of "upper", "lower" and "full".
            phase: 1 or 2 of the training strategy: in 1 the flat garment's own mask is the hole and F_SRM does not reach the UNet.
            directions: which are trained, `vton`, `vtoff` or both; with both, each sample of a batch is trained in both.
            qformer: False is Table 4's variant 8: CLIP's tokens instead of the QFormer's.
            queries: N of eq. 3.
            qformer_layers: its layers.
            spatial: False is variant 1, without the spatial refinement module.
            fusion: `extended` (eq. 13), `joined` (variant 6) or `ip_adapter` (variant 7).
            spatial_queries: K of eq. 8.
            spatial_width: d, the width of TaskFormer.
            units: of TaskFormer.
            layout: `side_by_side`, or `warped`, variant 2: instead of a second image the reference's garment is stretched into the hole.
            synthesised_masks: take flat garments' masks from the images, as what is not white, instead of the dataset's.
            growth: of phase 2's squares, see `grown_squares`.
            rectangle: the hole of a try-off test: None is everything (the paper's all-zeros mask); variant 3 is `predicted`, the box of
                TaskFormer's flat mask, or four shares of the image, left, top, right, bottom.
            mask_weight: lambda of eq. 14.
            dice_weight: lambda' of eq. 15.
            bce_weight: lambda'' of eq. 15.
            noises_per_sample: number of noises and timesteps per training sample, direction and step; the reference is read once for all.
            snr_gamma: weight each noise's loss by min(SNR, snr_gamma) / SNR; None weights all equally, as in eq. 2.
            condition_dropout: probability that a training sample's reference is dropped everywhere, in [0, 1].
            sampler: see `fashiongen.nn.sampling`.
            steps: of the sampler.
            guidance_scale: of classifier-free guidance; at 1.0 the unconditional half is not computed.
            guidance_interval: the share of timesteps with guidance.
            eta: of DDIM.
            karras: of `dpm++`, `unipc` and `euler`: noise levels as in Karras et al. 2022, see `fashiongen.nn.sampling`.
            cache_encodings: keep the frozen encoders' outputs of training samples in memory. Only for data without augmentation.
            gradient_checkpointing: recompute the UNet's activations in the backward pass to save memory.
            optimizer: creates the optimizer of the trainable parameters.
            lr_scheduler: creates its scheduler; stepped once per training step.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(optimizer, lr_scheduler)
        check(
            prompts=prompts or {},
            phase=phase,
            directions=directions,
            fusion=fusion,
            layout=layout,
            spatial=spatial,
            growth=growth,
            rectangle=rectangle,
            condition_dropout=condition_dropout,
            snr_gamma=snr_gamma,
            swin=swin,
            counts={
                "queries": queries,
                "qformer_layers": qformer_layers,
                "spatial_queries": spatial_queries,
                "spatial_width": spatial_width,
                "units": units,
                "noises_per_sample": noises_per_sample,
            },
            weights={"mask_weight": mask_weight, "dice_weight": dice_weight, "bce_weight": bce_weight},
        )
        self.phase, self.directions, self.layout, self.rectangle = phase, tuple(directions), layout, rectangle
        self.synthesised_masks, self.growth = synthesised_masks, growth
        self.mask_weight, self.dice_weight, self.bce_weight = mask_weight, dice_weight, bce_weight
        self.noises_per_sample, self.snr_gamma, self.condition_dropout = noises_per_sample, snr_gamma, condition_dropout
        self.prompts = PROMPTS | (prompts or {})

        unet_folder, folder = locate(pretrained, "inpainting"), locate(pretrained, "sd")  # the tiny one shares its other parts
        self.codec = load_codec(folder) if vae is None else load_codec(locate(vae, "sd/vae"), subfolder=None)
        self.prompt_encoder = load_prompt_encoder(folder)
        self.image_encoder = load_image_encoder(locate(image_encoder, "clip"), image_encoder_subfolder)
        self.schedule = load_noise_schedule(folder)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(f"TWGTM: pretrained: {folder}: predicts {self.schedule.config.prediction_type}, but eq. 2 needs epsilon")
        self.sampling = Sampling(sampler=sampler, steps=steps, scale=guidance_scale, interval=guidance_interval, eta=eta, karras=karras)
        self.sampling.check(self.schedule, "TWGTM")
        unet = load_inpainting_unet(unet_folder)
        keep_mask_last(unet)
        width, image_config = unet.config.cross_attention_dim, self.image_encoder.config
        if image_config.projection_dim != width:
            raise UserError(
                f"TWGTM: image_encoder: its embedding has {image_config.projection_dim} numbers, the UNet's cross-attention {width}: "
                "choose another encoder (for Stable Diffusion 1.5 CLIP ViT-L/14)"
            )
        tokens = image_config.hidden_size
        heads = max(1, width // 64)
        semantic = SemanticAbstraction(tokens, width, queries, qformer_layers, heads) if qformer else PlainTokens(tokens, width)
        refinement = None
        if spatial:
            encoder = load_swin(locate(swin)) if isinstance(swin, str) else build_swin(**SWIN | (swin or {}))
            refinement = SpatialRefinement(encoder, width, scale_widths(unet), scale_heads(unet), spatial_width, spatial_queries, units)
        self.network = TWGTMNetwork(unet, semantic, refinement, fusion)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if phase == 1:
            for part in self.network.spatial_parts():
                part.requires_grad_(False)
        self.encoding_cache = EncodingCache() if cache_encodings else None

    def parts(self) -> dict[str, nn.Module]:
        """Return the network's parts and the frozen ones."""
        own = {name: child for name, child in self.named_children() if name != "network"}
        return dict(self.network.named_children()) | own

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Start phase 2 from phase 1's checkpoint, or a fine-tuning (Figures 7, 8) from phase 2's."""
        for role, path in parents.items():
            if role not in ("phase1", "whole"):
                raise UserError(f"TWGTM supports the parents `phase1` and `whole`, but the recipe names `{role}`")
            self.load_weights(read_state(path), source=str(path))

    def training_step(self, batch: TryOffBatch | TryOnBatch, batch_idx: int) -> Tensor:
        """Return the loss of eq. 14 (phase 1) or eq. 16 (phase 2), with references dropped at random."""
        losses = self.losses(batch, ("train", self.global_step), self.condition_dropout)
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, prog_bar=True, batch_size=len(batch))
        return losses["loss"]

    def validation_step(self, batch: TryOffBatch | TryOnBatch, batch_idx: int) -> None:
        """Log the same losses, with the same draws in every epoch."""
        losses = self.losses(batch, ("val",), 0.0)
        named = {f"val/{name}": loss for name, loss in losses.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def losses(self, batch: TryOffBatch | TryOnBatch, names: tuple[str | int, ...], dropout: float) -> dict[str, Tensor]:
        """Return `loss` and its terms: `noise`, and in phase 1 `mask` (eq. 15); every draw is keyed by (seed, *names, id, direction).

        Both directions of a batch run through the networks together.
        """
        if batch.garment is None or batch.person is None:
            raise ValueError("training needs the people and the garments")
        images = {name: self.codec.mode(self.encoded(name, batch)) for name in ("person", "garment")}
        paintings = [self.painting(batch, direction, images, names) for direction in self.directions]
        both = Painting(*(torch.cat(parts) for parts in zip(*paintings, strict=True)))
        latents = torch.cat([images[TARGETS[direction]] for direction in self.directions])
        if self.layout == "side_by_side":
            latents = torch.cat([latents, both.reference_latents], dim=-1)  # E(h_i)
        ids = [f"{id_}/{direction}" for direction in self.directions for id_ in batch.ids]
        reference, mask_logits = self.reference(both, batch.category * len(self.directions))
        condition = self.condition(both)
        if dropout > 0:
            shown = condition_mask(ids, dropout, self.seed, *names, "dropout")
            reference, condition = self.drop(reference, condition, both, shown.to(condition.device))

        # The reference is read and projected once for all noises of a sample.
        times = self.noises_per_sample
        ids = [id_ if time == 0 else f"{id_}/{time}" for time in range(times) for id_ in ids]
        noised = add_noise(self.schedule, latents.repeat(times, 1, 1, 1), ids, self.seed, *names)
        memory, semantic = repeat(self.network.memory(reference), times), reference.semantic.repeat(times, 1, 1)
        predicted = self.network(noised.latents, condition.repeat(times, 1, 1, 1), noised.timestep, memory, semantic)
        gamma = None if names == ("val",) else self.snr_gamma
        found = {"noise": denoising_loss(predicted, noised, self.schedule, gamma)}
        if self.phase == 1 and mask_logits is not None:
            flat = self.flat_masks(batch).repeat(len(self.directions), 1, 1, 1)
            found["mask"] = mask_loss(mask_logits, flat, self.dice_weight, self.bce_weight)
        return {"loss": found["noise"] + self.mask_weight * found.get("mask", torch.zeros_like(found["noise"])), **found}

    def painting(
        self, batch: TryOffBatch | TryOnBatch, direction: Direction, images: dict[str, Tensor], names: tuple[str | int, ...]
    ) -> Painting:
        """Return one direction of a training batch (Figure 2a), given the latents of both images."""
        assert batch.garment is not None and batch.person is not None
        person, garment = to_float(batch.person), to_float(batch.garment)
        if direction == "vton":
            kept = person.masked_fill(batch.mask, 0.0)  # x_a = (1 - M) x
            latents, tokens = self.codec.mode(self.encoded("masked_person", batch)), self.encoded("clip_garment", batch)
            region = self.flat_masks(batch) if self.layout == "warped" else batch.mask
            return Painting(kept, latents, batch.mask, garment, images["garment"], tokens, region)
        hole = self.flat_masks(batch)
        if self.phase == 2:
            hole = grown_squares(hole, self.growth, batch.ids, self.seed, *names, "growth")
        kept = garment.masked_fill(hole, 0.0)
        return Painting(kept, self.codec.encode(kept), hole, person, images["person"], self.encoded("clip_person", batch), batch.mask)

    def flat_masks(self, batch: TryOffBatch | TryOnBatch) -> Tensor:
        """Return the flat garments' masks, (B, 1, H, W) bool: the dataset's, or synthesised from the images."""
        assert batch.garment is not None
        if self.synthesised_masks:
            return flat_mask(to_float(batch.garment))
        if batch.garment_mask is None:
            raise UserError("TWGTM: the data offer no masks of the shop images: set --model.synthesised_masks true")
        return batch.garment_mask

    def condition(self, painting: Painting) -> Tensor:
        """Return E(h_f) and h_m, resized: (B, 5, h, 2w), or (B, 5, h, w) with the garment warped into the hole."""
        shown = (~painting.hole).float()
        if self.layout == "warped":
            height, width = painting.reference.shape[-2:]
            garment = crop_and_resize(painting.reference, bounding_boxes(painting.region), (height, width))
            latents = self.codec.encode(torch.where(painting.hole, stretch_into(garment, bounding_boxes(painting.hole)), painting.kept))
        else:
            latents = torch.cat([painting.kept_latents, painting.reference_latents], dim=-1)
            shown = torch.cat([shown, torch.ones_like(shown)], dim=-1)
        return torch.cat([latents, interpolate(shown, size=latents.shape[-2:], mode="nearest")], dim=1)

    def reference(self, painting: Painting, categories: list[str]) -> tuple[Reference, Tensor | None]:
        """Return F_SAM and F_SRM of the references (eqs. 3, 4, 12), and the logits of the flat garment mask, if it is predicted."""
        encoder: Any = self.image_encoder
        text = self.prompt_encoder.remembered([self.prompts[category] for category in categories])
        semantic = self.network.semantic(painting.tokens, text)
        with torch.no_grad():  # CLIP's embedding from its cached last hidden states
            first = painting.tokens[:, 0].to(encoder.dtype)
            whole = encoder.visual_projection(encoder.vision_model.post_layernorm(first))
        joined = torch.cat([whole[:, None].to(semantic), semantic], dim=1)
        if self.network.spatial is None:
            return Reference(joined, []), None
        size = tuple(painting.reference_latents.shape[-2:])
        image = _normalised(painting.reference, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        spatial = self.network.spatial(image.to(semantic), semantic, None if self.phase == 1 else size)
        return Reference(joined, spatial.tokens), spatial.flat_mask

    def drop(self, reference: Reference, condition: Tensor, painting: Painting, shown: Tensor) -> tuple[Reference, Tensor]:
        """Replace what is told of the reference by zeros in the samples where `shown`, (B,) bool, is False; h_m and x_a stay."""
        bare = painting.kept_latents
        if self.layout == "side_by_side":
            bare = torch.cat([bare, torch.zeros_like(painting.reference_latents)], dim=-1)
        images = shown[:, None, None, None]
        condition = torch.where(images, condition, torch.cat([bare, condition[:, 4:]], dim=1))
        return Reference(reference.semantic * shown[:, None, None], [part * shown[:, None, None] for part in reference.spatial]), condition

    def encodings(self) -> dict[str, Encoding]:
        """Return E of the garment, the person and the masked person (moments, (B, 8, h, w)), and CLIP's tokens of both, (B, L, E)."""

        def moments(images: Tensor) -> Tensor:
            return self.codec.moments(to_float(images))

        def masked(person: Tensor, mask: Tensor) -> Tensor:
            return self.codec.moments(to_float(person).masked_fill(mask, 0.0))

        vae, clip = self.codec.vae, self.image_encoder
        latents = "moments of RGB in [-1, 1]"
        mean, std = tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)
        tokens = f"last hidden states of RGB in [0, 1], resized to a square (bicubic, antialiased, clamped), less {mean}, over {std}"
        return {
            "garment": Encoding(reads=("garment",), compute=moments, encoder=vae, preprocessing=latents),
            "person": Encoding(reads=("person",), compute=moments, encoder=vae, preprocessing=latents),
            "masked_person": Encoding(reads=("person", "mask"), compute=masked, encoder=vae, preprocessing=f"{latents}, 0 inside the mask"),
            "clip_garment": Encoding(reads=("garment",), compute=self.tokens, encoder=clip, preprocessing=tokens),
            "clip_person": Encoding(reads=("person",), compute=self.tokens, encoder=clip, preprocessing=tokens),
        }

    def tokens(self, images: Tensor) -> Tensor:
        """Return F_CLIP.S, CLIP's last hidden states of images (B, 3, H, W): (B, L, E)."""
        config: Any = self.image_encoder.config
        resized = interpolate(to_float(images), size=(config.image_size,) * 2, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
        states: Tensor = self.image_encoder(_normalised(resized, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)).last_hidden_state
        return states

    @torch.no_grad()
    def try_on(self, batch: TryOnBatch) -> Tensor:
        """Dress the people: (B, 3, H, W) in [-1, 1]."""
        garment = to_float(batch.garment)
        kept = to_float(batch.agnostic).masked_fill(batch.mask, 0.0)
        region = flat_mask(garment) if self.synthesised_masks or batch.garment_mask is None else batch.garment_mask
        images = self.codec.encode(kept), self.codec.encode(garment)
        painting = Painting(kept, images[0], batch.mask, garment, images[1], self.encode_tokens(garment), region)
        return self.paint(painting, batch.ids, self.reference(painting, batch.category)[0])

    @torch.no_grad()
    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments, (B, 3, H, W) in [-1, 1]: without a mask, everything is painted."""
        person, hole = to_float(batch.person), torch.ones_like(batch.mask)
        nothing = torch.zeros_like(person)
        latents = self.codec.encode(nothing[:1]).expand(len(person), -1, -1, -1)
        painting = Painting(nothing, latents, hole, person, self.codec.encode(person), self.encode_tokens(person), batch.mask)
        reference, mask_logits = self.reference(painting, batch.category)
        if self.rectangle is not None:
            height, width = person.shape[-2:]
            if isinstance(self.rectangle, str):
                assert mask_logits is not None  # checked by the constructor
                boxes = bounding_boxes(interpolate(mask_logits.float(), size=(height, width), mode="bilinear") > 0)
            else:
                shares = person.new_tensor(self.rectangle) * person.new_tensor([width, height, width, height])
                boxes = shares.expand(len(person), 4)
            hole = rectangles(boxes, height, width)
            white = torch.ones_like(person).masked_fill(hole, 0.0)  # a shop image is white around the garment
            painting = painting._replace(hole=hole, kept=white, kept_latents=self.codec.encode(white))
        return self.paint(painting, batch.ids, reference)

    def encode_tokens(self, images: Tensor) -> Tensor:
        """Return CLIP's tokens as in `encodings`: outside autocast, so that they are those of the training."""
        with torch.autocast(images.device.type, enabled=False):
            return self.tokens(images).float()

    def paint(self, painting: Painting, ids: list[str], reference: Reference) -> Tensor:
        """Sample from pure noise and decode the first image: (B, 3, H, W) in [-1, 1].

        Everything but the UNet runs once per sample: both images' latents, F_SAM, F_SRM, and their projections to keys and values.
        """
        condition = self.condition(painting)
        memory, semantic = self.network.memory(reference), reference.semantic
        if self.sampling.scale != 1.0:
            none, bare = self.drop(reference, condition, painting, torch.zeros(len(ids), dtype=torch.bool, device=condition.device))
            doubled = (torch.cat([bare, condition]), join(self.network.memory(none), memory), torch.cat([none.semantic, semantic]))
        height, width = condition.shape[-2:]
        latents = noise.normal(noise.keys(ids, self.seed, "sample", 0, 0), (self.codec.channels, height, width), self.device)

        def predict(noisy: Tensor, timestep: Tensor, guided: bool) -> Tensor:
            beside, projected, tokens = doubled if guided else (condition, memory, semantic)
            predicted: Tensor = self.network(noisy, beside, timestep, projected, tokens)
            return predicted

        latents = sample(self.sampling, self.schedule, predict, latents, ids, self.seed, "sampler")
        return self.codec.decode(latents.chunk(2, dim=-1)[0] if self.layout == "side_by_side" else latents)


def _normalised(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Return images in [-1, 1] with the mean and standard deviation that an encoder expects."""
    shift, scale = (images.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return ((images + 1.0) / 2.0 - shift) / scale
