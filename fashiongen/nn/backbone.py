"""The parts of a Stable-Diffusion-style folder, loaded one by one and safely."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fashiongen.errors import UserError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
PIXELS_AT_ONCE = 2**22


def load_part(kind: Any, folder: str, subfolder: str | None = None, **options: Any) -> Any:  # noqa: ANN401  any class with from_pretrained
    """Load one part by its `from_pretrained`, weights in float32; a missing, unfit or incomplete file gives one line.

    Args:
        kind: the diffusers or transformers class.
        folder: a local folder or hub id, as `checkpoints.locate` returns it.
        subfolder: the part's folder inside it.
        **options: handed on.
    """
    if subfolder is not None:
        options["subfolder"] = subfolder
    is_module = issubclass(kind, nn.Module)
    if is_module:
        options |= {"use_safetensors": True, "output_loading_info": True}
    place = f"{folder}/{subfolder}" if subfolder else folder
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # loading one tower of a CLIP pair would list the other's weights as left over
    transformers.logging.disable_progress_bar()
    try:
        loaded = kind.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"pretrained: {place}: cannot load a {kind.__name__} from there ({reason})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
    if not is_module:
        return loaded
    part, info = loaded
    if missing := sorted(info["missing_keys"]):  # the libraries would fill these with random numbers
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"pretrained: {place}: lacks weights of a {kind.__name__}: {', '.join(missing[:3])}{more}")
    return part.float()


def freeze(module: AnyModule) -> AnyModule:
    """Turn gradients off and evaluation mode on, and return the module."""
    return module.requires_grad_(False).eval()


class LatentCodec(nn.Module):
    """A frozen AutoencoderKL, with the scaling of its latents.

    Pictures are (B, 3, H, W) in [-1, 1]; latents (B, 4, H / factor, W / factor) of about unit variance.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        """Wrap and freeze `vae`."""
        super().__init__()
        self.vae = freeze(vae)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels
        self.scaling: float = vae.config.scaling_factor

    @torch.no_grad()
    def moments(self, pictures: Tensor) -> Tensor:
        """Return mean and log-variance of the latents' distribution, unscaled, (B, 8, ...): float32 in any precision."""
        parts = pictures.to(self.vae.dtype).split(self._at_once(*pictures.shape[-2:]))
        return torch.cat([self.vae.encode(part).latent_dist.parameters.float() for part in parts])

    def mode(self, moments: Tensor) -> Tensor:
        """Return the scaled latents that are likeliest under moments, (B, 4, ...)."""
        return moments.chunk(2, dim=1)[0] * self.scaling

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the scaled mode of the latents' distribution (not a sample, so that it can be kept), float32 in any precision."""
        return self.mode(self.moments(pictures))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of scaled latents, in [-1, 1], float32; not in autocast, whose bfloat16 is coarser than grey levels."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        parts = (latents / self.scaling).to(self.vae.dtype).split(self._at_once(height, width))
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([self.vae.decode(part).sample.float() for part in parts]).clamp(-1.0, 1.0)

    @staticmethod
    def _at_once(height: int, width: int) -> int:
        """Return how many pictures go through the autoencoder at a time: its activations at full size are gigabytes a picture."""
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
    """Load the `tokenizer` and `text_encoder` of a Stable-Diffusion-style folder."""
    return PromptEncoder(load_part(CLIPTokenizer, folder, "tokenizer"), load_part(CLIPTextModel, folder, "text_encoder"))


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
