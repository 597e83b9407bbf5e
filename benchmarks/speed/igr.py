"""The speed of IGR's optimisations, each compared with the plain computation in one run on the same samples; asserts equal results.

    python benchmarks/speed/igr.py OUT.json [--device cpu|cuda] [--size tiny|full] [--image HxW] [--batch B] [--steps N] [--repeats R]

`tiny` uses the shipped weights at 64x48. `full` uses Stable Diffusion 1.5's shapes and CLIP ViT-H with random weights at 1024x768: it needs
4 GB of temporary disk space, at most 50 GB of memory, and on a CPU a small --image such as 64x64. Prints the table as Markdown and writes
it, with the conditions, as JSON. Times are medians of the repeats after one warm-up, alternating between the two ways: wall time with a
GPU, CPU time without one (which a busy machine changes less).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import stand_ins  # the scripts next to this one
import torch
from comparing import Comparison, Samples, half, parser_of, show_table
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fashiongen.batches import TryOffBatch
from fashiongen.methods.igr import IGR
from fashiongen.nn import noise
from fashiongen.nn.attention import Memory, attention_layers, join
from fashiongen.nn.guidance import guide
from fashiongen.nn.parts import ddim

FULL = {
    "pretrained": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "image_encoder": "h94/IP-Adapter",
    "ip_adapter": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
}
DIFFERENCE = "difference / rms"


def build(size: str, steps: int, scratch: Path, device: str) -> IGR:
    """Return IGR with the shipped weights, or at full size with random ones, written to `scratch`."""
    torch.manual_seed(0)
    if size == "tiny":
        return IGR(steps=steps)
    random = stand_ins.replaced(FULL, scratch, size, device)
    return IGR(**random, image_encoder_subfolder="models/image_encoder", steps=steps, gradient_checkpointing=True)


class AllQueries:
    """Eq. 4 as written: queries of all of [F_hl, F_g]; the latter half of the output is used."""

    def __init__(self, name: str, features: dict[str, Tensor]) -> None:
        """Take F_hl, (B, N, C), from `features` under the layer's name."""
        self.name, self.features = name, features

    def __call__(  # noqa: D102  diffusers' processor protocol
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        memory: dict[str, Memory] | None = None,
    ) -> Tensor:
        assert memory is not None
        joined = torch.cat([self.features[self.name].to(hidden_states), hidden_states], dim=1)
        query, own_key, own_value = (
            layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, tokens in ((attn.to_q, joined), (attn.to_k, hidden_states), (attn.to_v, hidden_states))
        )
        reference = memory[self.name].first
        key, value = torch.cat([reference.key, own_key], dim=2), torch.cat([reference.value, own_value], dim=2)
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[0](attended)[:, -hidden_states.shape[1] :]


@contextmanager
def all_queries(igr: IGR, features: dict[str, Tensor]) -> Iterator[None]:
    """Make the denoiser compute all queries; `features` hold both halves of guidance, (2 B, N, C)."""
    layers = attention_layers(igr.network.denoiser, "attn1")
    own = {name: attn.processor for name, attn in layers.items()}
    for name, attn in layers.items():
        attn.set_processor(AllQueries(name, features))
    try:
        yield
    finally:
        for name, attn in layers.items():
            attn.set_processor(own[name])


@torch.no_grad()
def sample(igr: IGR, batch: TryOffBatch, *, anew: bool = False, two_passes: bool = False) -> Tensor:
    """Denoise like `IGR.take_off`, and return latents.

    Args:
        igr: the method.
        batch: a batch with frozen encodings, so that only the compared networks run.
        anew: run GarmNet and project keys and values at every step.
        two_passes: run the two halves of guidance one after the other.
    """
    height, width = (side // igr.codec.factor for side in batch.person.shape[-2:])
    latents = noise.normal(noise.keys(batch.ids, 0, "sample", 0, 0), (igr.codec.channels, height, width), igr.device)
    sampler = ddim(igr.schedule)
    sampler.set_timesteps(igr.sampling.steps, device=igr.device)
    memory: dict[str, Memory] = {}
    for timestep in sampler.timesteps:
        if anew or not memory:
            conditions = igr.conditions(batch)
            memory = join(igr.null_memory(conditions), igr.network.memory(conditions))
        if two_passes:
            unconditional, conditional = (igr.network(latents, timestep, half(memory, which), conditions.text) for which in (0, 1))
        else:
            text = torch.cat([conditions.text] * 2)
            unconditional, conditional = igr.network(torch.cat([latents] * 2), timestep, memory, text).chunk(2)
        latents = sampler.step(guide(unconditional, conditional, igr.sampling.scale), timestep, latents, eta=0.0).prev_sample
    return latents


def train(igr: IGR, batch: TryOffBatch) -> Tensor:
    """Run one forward and backward pass without an optimizer step; return the loss and each trained parameter's gradient norm."""
    igr.zero_grad()
    loss = igr.denoising_loss(batch, ("train", 0), 0.1)
    loss.backward()
    norms = [parameter.grad.norm() for parameter in igr.network.parameters() if parameter.grad is not None]
    return torch.stack([loss.detach(), *norms])


def main(args: list[str] | None = None, written: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Run all comparisons and write the table; fail at the end if two ways differ. `written` is told the content after each row."""
    parser = parser_of(__doc__, steps="of DDIM")
    options = parser.parse_args(args)
    if options.table:
        show_table(parser, options.out, DIFFERENCE)
        return
    # Autocast leaves three digits, and 25 steps of guidance amplify the error; float32 must agree to a thousandth.
    compare = Comparison(parser, options, 0.25 if options.bf16 else 1e-3, written)
    device = compare.device
    with tempfile.TemporaryDirectory() as scratch:
        igr = build(options.size, options.steps, options.weights or Path(scratch) / "weights", options.device).to(device)
        samples = Samples(TryOffBatch, options.batch, compare.size, device)
        from_cache = samples.cache(igr.encodings(), Path(scratch) / "cache")
        ready = from_cache()
        with torch.no_grad(), compare.precision():
            features = igr.conditions(ready).garment
        both = {name: torch.cat([torch.zeros_like(tokens), tokens]) for name, tokens in features.items()}

        def all_of_eq4() -> Tensor:
            with all_queries(igr, both):
                return sample(igr, ready)

        comparisons: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "sampling: reference's keys and values projected once, against GarmNet and projections at every step": (
                lambda: sample(igr, ready),
                lambda: sample(igr, ready, anew=True),
            ),
            "sampling: both halves of guidance in one pass, against two passes": (
                lambda: sample(igr, ready),
                lambda: sample(igr, ready, two_passes=True),
            ),
            "sampling: queries of the own half, against all 2N of eq. 4": (lambda: sample(igr, ready), all_of_eq4),
            "training step: encodings from the cache (read and checked in the step), against frozen encoders": (
                lambda: train(igr, from_cache()),
                lambda: train(igr, samples.batch),
            ),
        }
        igr.eval()
        with compare.precision():
            taken = igr.take_off(samples.batch.without_target())
            own = igr.codec.decode(sample(igr, ready))
        assert (taken - own).abs().max() < compare.tolerance, "the loop of this file is not that of IGR.take_off"
        for name, (short, long) in comparisons.items():
            igr.train(name.startswith("training"))
            compare(name, short, long)
        if device.type == "cuda":
            compare.rows["peak memory in GB"] = {"short": compare.peak / 1e9}
            compare.write()
    compare.end(DIFFERENCE)


if __name__ == "__main__":
    main()
