"""The speed of IGR's optimisations, each compared with the plain computation in one run on the same samples; asserts equal results.

    python benchmarks/speed/igr.py OUT.json [--device cpu|cuda] [--size tiny|full] [--image HxW] [--batch B] [--steps N] [--repeats R]

`tiny` uses the shipped weights at 64x48. `full` uses Stable Diffusion 1.5's shapes and CLIP ViT-H with random weights at 1024x768: it needs
4 GB of temporary disk space, at most 50 GB of memory, and on a CPU a small --image such as 64x64. Prints the table as Markdown and writes
it, with the conditions, as JSON. Times are medians of the repeats after one warm-up, alternating between the two ways: wall time with a
GPU, CPU time without one (which a busy machine changes less).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import stand_ins  # the script next to this one
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import Dataset

from fashiongen.batches import TryOffBatch
from fashiongen.data.encoding_cache import EncodedDataset, encode
from fashiongen.data.loading import Loader
from fashiongen.evaluation.provenance import device_name, versions
from fashiongen.methods.igr import IGR
from fashiongen.nn import noise
from fashiongen.nn.attention import KeyValue, Memory, attention_layers, join
from fashiongen.nn.guidance import guide
from fashiongen.nn.parts import ddim

IMAGES = {"tiny": (64, 48), "full": (1024, 768)}
FULL = {
    "pretrained": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "image_encoder": "h94/IP-Adapter",
    "ip_adapter": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
}


@dataclass
class Row:
    """What a dataset must know about a sample."""

    id: str


class Noise(Dataset[TryOffBatch]):
    """Random people and garments, each with a box as mask."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        """Draw `count` samples of (height, width)."""
        self.rows = [Row(f"noise-{index}") for index in range(count)]
        self.size = size

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> TryOffBatch:
        """Return one sample."""
        height, width = self.size
        generator = torch.Generator().manual_seed(index)
        person, garment = (torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8) for _ in range(2))
        mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
        mask[..., height // 4 : height // 2, width // 4 : 3 * width // 4] = True
        return TryOffBatch(ids=[self.rows[index].id], person=person, mask=mask, category=["upper"], garment=garment)


def build(size: str, steps: int, scratch: Path, device: str) -> IGR:
    """Return IGR with the shipped weights, or at full size with random ones, written to `scratch`."""
    torch.manual_seed(0)
    if size == "tiny":
        return IGR(steps=steps)
    full = stand_ins.replaced(FULL, scratch, "full", device)
    return IGR(**full, image_encoder_subfolder="models/image_encoder", steps=steps, gradient_checkpointing=True)


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


def half(memory: dict[str, Memory], which: int) -> dict[str, Memory]:
    """Return one half of the batch of a joined memory."""

    def of(pair: KeyValue | None) -> KeyValue | None:
        return None if pair is None else KeyValue(pair.key.chunk(2)[which], pair.value.chunk(2)[which])

    return {name: Memory(of(first), of(second)) for name, (first, second) in memory.items()}


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


def compare(
    short: Callable[[], Tensor],
    long: Callable[[], Tensor],
    repeats: int,
    clock: Callable[[], float],
    precision: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """Time both ways alternately; return the medians, their ratio, and the results' difference relative to their root mean square."""

    def timed(way: Callable[[], Tensor]) -> tuple[float, Tensor]:
        started = clock()
        with precision():
            result = way()
        return clock() - started, result

    seconds: dict[str, list[float]] = {"short": [], "long": []}
    for repeat in range(1 + repeats):
        (short_seconds, found), (long_seconds, expected) = timed(short), timed(long)
        if repeat:
            seconds["short"].append(short_seconds)
            seconds["long"].append(long_seconds)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    scale = expected.float().square().mean().sqrt()
    difference = float((found.float() - expected.float()).abs().max() / scale)
    return {**medians, "ratio": medians["long"] / medians["short"], "difference": difference}


def image(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def main(args: list[str] | None = None) -> None:
    """Run all comparisons and write the table; fail at the end if two ways differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(IMAGES), default="tiny")
    parser.add_argument("--image", type=image, metavar="HxW", help="default: 64x48 for tiny, 1024x768 for full")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25, help="of DDIM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, as the recipes train; otherwise float32")
    parser.add_argument("--weights", type=Path, help="folder to keep the random weights of the full size in (default: temporary)")
    parser.add_argument("--note", default="", help="stored with the conditions, such as what else the machine was doing")
    options = parser.parse_args(args)
    device = torch.device(options.device)
    # Autocast leaves three digits, and 25 steps of guidance amplify the error; float32 must agree to a thousandth.
    tolerance = 0.25 if options.bf16 else 1e-3

    def clock() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    load_before = os.getloadavg()[0]
    # Entered anew for each measurement, as Lightning does for each step: within one context autocast casts the weights only once.
    precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=options.bf16)
    with tempfile.TemporaryDirectory() as scratch:
        igr = build(options.size, options.steps, options.weights or Path(scratch) / "weights", options.device).to(device)
        samples = Noise(options.batch, options.image or IMAGES[options.size])
        plain = TryOffBatch.collate([samples[index] for index in range(options.batch)])
        on_device = replace(plain, person=plain.person.to(device), mask=plain.mask.to(device), garment=plain.garment.to(device))
        encode(Loader(samples, batch_size=options.batch), igr.encodings(), Path(scratch) / "cache", device=device)
        cached = EncodedDataset(samples, Path(scratch) / "cache", igr.encodings())

        def from_cache() -> TryOffBatch:
            """Read, check and move a batch; in training, a worker reads and checks."""
            batch = TryOffBatch.collate([cached[index] for index in range(options.batch)])
            encoded = {kind: value.to(device) for kind, value in batch.encoded.items()}
            return replace(batch, mask=batch.mask.to(device), garment=on_device.garment, encoded=encoded)

        ready = from_cache()
        with torch.no_grad(), precision():
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
                lambda: train(igr, on_device),
            ),
        }
        igr.eval()
        with precision():
            taken = igr.take_off(on_device.without_target())
            own = igr.codec.decode(sample(igr, ready))
        assert (taken - own).abs().max() < (0.25 if options.bf16 else 1e-3), "the loop of this file is not that of IGR.take_off"
        rows = {}
        for name, (short, long) in comparisons.items():
            print(name, file=sys.stderr, flush=True)
            igr.train(name.startswith("training"))
            rows[name] = compare(short, long, options.repeats, clock, precision)
        if device.type == "cuda":
            rows["peak memory in GB"] = {"short": torch.cuda.max_memory_allocated(device) / 1e9}

    conditions = {
        "device": device_name(device, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "load": [load_before, os.getloadavg()[0]],
        "seconds": "of the processor" if device.type == "cpu" else "on the wall",
        "precision": "bf16 autocast" if options.bf16 else "float32",
        **{name: getattr(options, name) for name in ("size", "batch", "steps", "repeats", "note")},
        "image": list(samples.size),
        **versions(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=2) + "\n")
    print(f"{', '.join(f'{key}: {value}' for key, value in conditions.items())}\n")
    print("| | optimised, s | plain, s | plain / optimised | difference / rms |\n| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{row[key]:.3g}" if key in row else "" for key in ("short", "long", "ratio", "difference")) + " |"
        )
    unequal = {name: row["difference"] for name, row in rows.items() if not row.get("difference", 0.0) < tolerance}
    assert not unequal, f"results differ by more than {tolerance} of their root mean square: {unequal}"


if __name__ == "__main__":
    main()
