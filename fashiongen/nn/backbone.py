"""The parts of a Stable-Diffusion-style folder, loaded one by one and safely."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fashiongen.checkpoints import some
from fashiongen.errors import UserError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
PIXELS_AT_ONCE = 2**22

# What `from_pretrained` raises on files that are absent, damaged, of another model, or whose settings are nonsense.
UNLOADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SafetensorError,
    StrictDataclassError,
)

# What files of a whole CLIP pair hold besides the half that is loaded.
OTHER_HALF = {
    "CLIPTextModel": ("vision_model.", "visual_projection.", "text_projection.", "logit_scale"),
    "CLIPVisionModelWithProjection": ("text_model.", "text_projection.", "logit_scale"),
}


def load_part(kind: Any, folder: str, subfolder: str | None = None, **options: Any) -> Any:  # noqa: ANN401  any class with from_pretrained
    """Load one part by its `from_pretrained`, weights in float32.

    Args:
        kind: the diffusers or transformers class.
        folder: a local folder or hub id, as `checkpoints.locate` returns it.
        subfolder: the part's folder inside it.
        **options: handed on.

    Raises:
        UserError: one line, if a file is missing or unfit, or a key too many, too few or of another shape.
    """
    if subfolder is not None:
        options["subfolder"] = subfolder
    is_module = issubclass(kind, nn.Module)
    if is_module:
        options |= {"use_safetensors": True, "output_loading_info": True}
        if issubclass(kind, transformers.PreTrainedModel):
            options["ignore_mismatched_sizes"] = True  # which it then tells; its own error does not name them
    place = f"{folder}/{subfolder}" if subfolder else folder
    try:
        with _silenced():
            loaded = kind.from_pretrained(folder, **options)
    except UNLOADABLE as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = reason.partition(". If you want")[0]  # diffusers goes on with advice for programmers
        raise UserError(f"pretrained: {place}: cannot load a {kind.__name__} from there ({reason})") from error
    if not is_module:
        return loaded
    part, info = loaded
    # The libraries fill what is missing or misshapen with random numbers, and pass over what is left over.
    problems = {
        "lacks weights": sorted(info["missing_keys"]),
        "has weights of another shape than those": sorted(
            f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]
        ),
        "has weights that are none": sorted(key for key in info["unexpected_keys"] if not _is_no_weight(key, kind)),
    }
    for what, keys in problems.items():
        if keys:
            raise UserError(f"pretrained: {place}: {what} of a {kind.__name__}: {some(keys)}")
    return part.float()


def _is_no_weight(key: str, kind: type) -> bool:
    """Tell whether a key may be left over: the other half of a CLIP pair, or the counted positions that older files hold."""
    return key.endswith("position_ids") or key.startswith(OTHER_HALF.get(kind.__name__, ()))


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the libraries' reports and progress bars off the screen: what matters of them is told by `load_part`, in one line."""
    logs = (transformers.logging, diffusers.utils.logging)
    verbosity = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, verbosity, strict=True):
            log.set_verbosity(level)
        transformers.logging.enable_progress_bar()


def freeze(module: AnyModule) -> AnyModule:
    """Turn gradients off and evaluation mode on, and return the module."""
    return module.requires_grad_(False).eval()


class LatentCodec(nn.Module):
    """A frozen AutoencoderKL, with the scaling of its latents.

    Images are (B, 3, H, W) in [-1, 1]; latents (B, 4, H / factor, W / factor) of about unit variance.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        """Wrap and freeze `vae`."""
        super().__init__()
        self.vae = freeze(vae)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels
        self.scaling: float = vae.config.scaling_factor

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance of the latents' distribution, unscaled, (B, 8, ...): float32 in any precision."""
        parts = images.to(self.vae.dtype).split(self._at_once(*images.shape[-2:]))
        return torch.cat([self.vae.encode(part).latent_dist.parameters.float() for part in parts])

    def mode(self, moments: Tensor) -> Tensor:
        """Return the scaled latents that are likeliest under moments, (B, 4, ...)."""
        return moments.chunk(2, dim=1)[0] * self.scaling

    def encode(self, images: Tensor) -> Tensor:
        """Return the scaled mode of the latents' distribution (not a sample, so that it can be kept), float32 in any precision."""
        return self.mode(self.moments(images))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of scaled latents, in [-1, 1], float32; not in autocast, whose bfloat16 is coarser than grey levels."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        parts = (latents / self.scaling).to(self.vae.dtype).split(self._at_once(height, width))
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([self.vae.decode(part).sample.float() for part in parts]).clamp(-1.0, 1.0)

    @staticmethod
    def _at_once(height: int, width: int) -> int:
        """Return how many images go through the autoencoder at a time: its activations at full size are gigabytes an image."""
        return max(1, PIXELS_AT_ONCE // (height * width))


class PromptEncoder(nn.Module):
    """A frozen CLIP text encoder with its tokenizer."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        """Wrap and freeze `text_encoder`."""
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = freeze(text_encoder)

    def forward(self, prompts: list[str]) -> Tensor:
        """Return the last hidden states of `prompts`, (len(prompts), length, C), on the encoder's device.

        They are ordinary tensors even under inference mode, so that validation may encode what training uses later.
        """
        with torch.inference_mode(False), torch.no_grad():
            tokens = self.tokenizer(
                prompts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
            )
            return self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state  # type: ignore[no-any-return]


def load_codec(folder: str) -> LatentCodec:
    """Load the `vae` of a Stable-Diffusion-style folder."""
    return LatentCodec(load_part(AutoencoderKL, folder, "vae"))


def load_prompt_encoder(folder: str) -> PromptEncoder:
    """Load the `tokenizer` and `text_encoder` of a Stable-Diffusion-style folder.

    Raises:
        UserError: as `load_part`; or if the tokenizer's vocabulary is missing, or is not the text encoder's.
    """
    tokenizer, text_encoder = load_part(CLIPTokenizer, folder, "tokenizer"), load_part(CLIPTextModel, folder, "text_encoder")
    place = f"pretrained: {folder}/tokenizer"
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers makes an empty one of a folder that lacks the files
        raise UserError(f"{place}: cannot load a CLIPTokenizer from there (no word in it: vocab.json and merges.txt are missing)")
    known, positions = text_encoder.config.vocab_size, text_encoder.config.max_position_embeddings
    if len(tokenizer) > known or tokenizer.model_max_length > positions:
        sizes = f"{len(tokenizer)} words and {tokenizer.model_max_length} places, the text encoder {known} and {positions}"
        raise UserError(f"{place}: belongs to another text encoder (it has {sizes})")
    return PromptEncoder(tokenizer, text_encoder)


def load_unet(folder: str) -> UNet2DConditionModel:
    """Load the `unet` of a Stable-Diffusion-style folder."""
    unet: UNet2DConditionModel = load_part(UNet2DConditionModel, folder, "unet")
    return unet.train()  # from_pretrained leaves it in evaluation mode


def load_noise_schedule(folder: str) -> DDPMScheduler:
    """Load the `scheduler` as the forward process (beta schedule and parametrisation as the folder says)."""
    return load_part(DDPMScheduler, folder, "scheduler")


def ddim(schedule: DDPMScheduler) -> DDIMScheduler:
    """Return the DDIM sampler of a forward process; latents are never clipped (diffusers' default would clip them to [-1, 1])."""
    return DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
