"""The speed of try-on and try-off, ours against the plain way, in one run on the same samples; asserts equal images, losses and gradients.

    python benchmarks/speed/tryon.py OUT.json [--methods NAME ...] [--device cpu|cuda] [--size tiny|full] [--image HxW] [--batch B]
                                              [--steps N] [--repeats R] [--resume | --table]

`tiny` takes the tiny recipes' settings and the shipped weights at 64x48; `full` the full recipes' settings with random weights in the
published shapes at 1024x768. No method is trained. Our way is the method's own `try_on` or `take_off`, from pixels to pixels; the plain
one repeats parts of it at each step of the sampler. Times are as in `igr.py`.
"""

import argparse
import gc
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import stand_ins  # the scripts next to this one
import torch
import yaml
from comparing import Comparison, Samples, half, parser_of, show_table
from torch import Tensor, nn

from fashiongen.batches import TryOffBatch, TryOnBatch
from fashiongen.methods.base import Method
from fashiongen.nn import noise
from fashiongen.nn.attention import join
from fashiongen.nn.concatenation import join_conditions
from fashiongen.nn.denoising import Noised
from fashiongen.nn.sampling import sample

RECIPES = Path(__file__).parents[2] / "recipes"
NOT_NEEDED = ("optimizer", "lr_scheduler", "cache_encodings")
DIFFERENCE = "difference"
DROPOUT = 0.1
SMALL: dict[str, dict[str, Any]] = {
    "tryoffdiff": {"image_size": 64},
    "twgtm": {"swin": {"width": 16, "depths": [1, 1, 1], "heads": [2, 2, 4], "window": 4}, "qformer_layers": 2, "spatial_width": 64},
}
"""Settings of a full recipe that a rehearsal replaces, besides the published weights."""


def module_of(method: object) -> Any:  # noqa: ANN401  a module
    """Return the module of a method's class; by its name, so that measuring one method uses no file of another."""
    return import_module(type(method).__module__)


class Subject:
    """A method in one direction on a batch: our way of sampling, and plain ones.

    Attributes:
        names: parts of the keys of the noise that a stochastic sampler adds.
        projects: whether `project` has weights of its own, so that repeating it alone is a row.
        anew: what the row of `encode` repeats at each step.
    """

    names: ClassVar[tuple[str | int, ...]] = ("sample", 0, 0)
    projects: ClassVar[bool] = False
    anew: ClassVar[str]

    def __init__(self, method: Any, batch: TryOnBatch | TryOffBatch) -> None:  # noqa: ANN401  each subject's own class
        """Sample `batch` with `method`."""
        self.method, self.batch = method, batch
        self.interface = method.try_on if isinstance(batch, TryOnBatch) else method.take_off
        low, high = method.sampling.interval
        assert method.sampling.scale != 1.0 and low == 0.0 and high == 1.0, "each step is guided in both ways"

    def ours(self) -> Tensor:
        """Return the method's own images, (B, 3, H, W) in [-1, 1]."""
        images: Tensor = self.interface(self.batch)
        return images

    def encode(self) -> Any:  # noqa: ANN401  what `project` takes
        """Return what the method computes of its images once per sample, whatever the step."""
        raise NotImplementedError

    def project(self, encoded: Any) -> tuple[Any, ...]:  # noqa: ANN401  what `encode` returns
        """Return what the denoiser is given at each step, for both halves of guidance, the unconditional one first."""
        raise NotImplementedError

    def predict(self, latents: Tensor, timestep: Tensor, conditions: tuple[Any, ...]) -> Tensor:
        """Run the denoiser."""
        return self.method.network(latents, timestep, *conditions)  # type: ignore[no-any-return]

    def shape(self) -> tuple[int, int]:
        """Return height and width of the latents that are denoised."""
        raise NotImplementedError

    def images(self, latents: Tensor) -> Tensor:
        """Decode the result."""
        raise NotImplementedError

    @torch.no_grad()
    def plain(self, *, encode: bool = False, project: bool = False, two_passes: bool = False) -> Tensor:
        """Return the same images, computed without one of the optimisations.

        Args:
            encode: encode and project anew at each step.
            project: only project anew at each step.
            two_passes: run the halves of guidance one after the other.
        """
        encoded, conditions = None, None

        def predict(latents: Tensor, timestep: Tensor, guided: bool) -> Tensor:
            nonlocal encoded, conditions
            assert guided
            if encoded is None or encode:
                encoded = self.encode()
            if conditions is None or encode or project:
                conditions = self.project(encoded)
            if not two_passes:
                return self.predict(latents, timestep, conditions)
            return torch.cat([self.predict(half(latents, which), timestep, half(conditions, which)) for which in (0, 1)])

        method, ids = self.method, self.batch.ids
        start = noise.normal(noise.keys(ids, method.seed, "sample", 0, 0), (method.codec.channels, *self.shape()), method.device)
        return self.images(sample(method.sampling, method.schedule, predict, start, ids, method.seed, *self.names))

    @classmethod
    def loss(cls, method: Any, batch: TryOnBatch | TryOffBatch) -> Tensor:  # noqa: ANN401  each subject's own class
        """Return a training step's loss."""
        loss: Tensor = method.denoising_loss(batch, ("train", 0), DROPOUT)
        return loss


class Concatenation(Subject):
    """CatVTON and TryOffAnyone: two images joined in latent space."""

    anew = "both images' latents"

    def encode(self) -> Any:  # noqa: ANN401, D102
        return self.method.conditions(self.batch)

    def project(self, encoded: Any) -> tuple[Any, ...]:  # noqa: ANN401, D102
        null = encoded._replace(reference=torch.zeros_like(encoded.reference))
        return (torch.cat([join_conditions(*which, self.method.axis) for which in (null, encoded)]),)

    def shape(self) -> tuple[int, int]:  # noqa: D102
        sides = [side // self.method.codec.factor for side in self.batch.mask.shape[-2:]]
        sides[self.method.axis] *= 2
        return sides[0], sides[1]

    def images(self, latents: Tensor) -> Tensor:  # noqa: D102
        return self.method.codec.decode(latents.chunk(2, dim=self.method.axis)[0])  # type: ignore[no-any-return]


class TryOffDiff(Subject):
    """TryOffDiff: the person enters as the denoiser's context; squares are generated, whatever the size of the images."""

    anew = "SigLIP and the adapter"

    def encode(self) -> Any:  # noqa: ANN401, D102
        tokens = self.method.encoded("tokens", self.batch)
        return self.method.network.context(torch.zeros_like(tokens[:1])), self.method.network.context(tokens)

    def project(self, encoded: Any) -> tuple[Any, ...]:  # noqa: ANN401, D102
        null, context = encoded
        labels = self.method.labels(self.batch)
        return torch.cat([null.expand_as(context), context]), None if labels is None else labels.repeat(2)

    def shape(self) -> tuple[int, int]:  # noqa: D102
        return (self.method.image_size // self.method.codec.factor,) * 2

    def images(self, latents: Tensor) -> Tensor:  # noqa: D102
        height, width = self.batch.person.shape[-2:]
        return module_of(self.method).from_square(self.method.codec.decode(latents), (height, width))  # type: ignore[no-any-return]

    @classmethod
    def loss(cls, method: Any, batch: TryOnBatch | TryOffBatch) -> Tensor:  # noqa: ANN401, D102
        loss: Tensor = method.denoising_loss(batch, ("train", 0), training=True)
        return loss


class TWGTM(Subject):
    """TWGTM: two images side by side, and the reference's semantic and spatial features."""

    names = ("sampler",)
    projects = True
    anew = "both images' latents, CLIP, F_SAM, F_SRM, keys and values"

    def encode(self) -> Any:  # noqa: ANN401, D102
        # All that the method does before it paints; then it returns what it would paint.
        with patch.object(self.method, "paint", lambda painting, ids, reference: (painting, reference)):
            return self.ours()

    def project(self, encoded: Any) -> tuple[Any, ...]:  # noqa: ANN401, D102
        painting, reference = encoded
        method, condition = self.method, self.method.condition(painting)
        nobody = torch.zeros(len(self.batch), dtype=torch.bool, device=condition.device)
        none, bare = method.drop(reference, condition, painting, nobody)
        memory = join(method.network.memory(none), method.network.memory(reference))
        return torch.cat([bare, condition]), memory, torch.cat([none.semantic, reference.semantic])

    def predict(self, latents: Tensor, timestep: Tensor, conditions: tuple[Any, ...]) -> Tensor:  # noqa: D102
        condition, memory, semantic = conditions
        return self.method.network(latents, condition, timestep, memory, semantic)  # type: ignore[no-any-return]

    def shape(self) -> tuple[int, int]:  # noqa: D102
        height, width = (side // self.method.codec.factor for side in self.batch.mask.shape[-2:])
        return height, 2 * width

    def images(self, latents: Tensor) -> Tensor:  # noqa: D102
        return self.method.codec.decode(latents.chunk(2, dim=-1)[0])  # type: ignore[no-any-return]

    @classmethod
    def loss(cls, method: Any, batch: TryOnBatch | TryOffBatch) -> Tensor:  # noqa: ANN401, D102
        loss: Tensor = method.losses(batch, ("train", 0), DROPOUT)["loss"]
        return loss


SUBJECTS: dict[str, tuple[type[Subject], tuple[type[TryOnBatch | TryOffBatch], ...]]] = {
    "catvton": (Concatenation, (TryOnBatch,)),
    "tryoffanyone": (Concatenation, (TryOffBatch,)),
    "tryoffdiff": (TryOffDiff, (TryOffBatch,)),
    "twgtm": (TWGTM, (TryOnBatch, TryOffBatch)),
}
"""By the name of their recipe; the first kind of batch is the one of the training rows."""

DIRECTIONS = {TryOnBatch: "try-on", TryOffBatch: "try-off"}


def build(name: str, size: str, steps: int, scratch: Path, device: str) -> Method:
    """Return an untrained method with its recipe's settings; at full size with random weights, written to `scratch`."""
    recipe = RECIPES / ("tiny" if size == "tiny" else "") / f"{name}.yaml"
    model = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]
    settings = {key: value for key, value in model["init_args"].items() if key not in NOT_NEEDED} | {"steps": steps}
    if size != "tiny":
        settings |= stand_ins.replaced(settings, scratch, size, device) | {"gradient_checkpointing": True}
    if size == "small":
        settings |= SMALL.get(name, {})
    module, _, cls = model["class_path"].rpartition(".")
    torch.manual_seed(0)
    method: Method = getattr(import_module(module), cls)(**settings)
    for path, part in method.named_modules():
        if path.endswith("zero_linear"):  # it starts as zero: what passes through it would change no image
            nn.init.normal_(part.weight, std=0.02)  # type: ignore[arg-type]
    return method.to(device)


def train(subject: type[Subject], method: Method, batch: TryOnBatch | TryOffBatch) -> Tensor:
    """Run one forward and backward pass without an optimizer step; return the loss and each trained parameter's gradient norm."""
    method.zero_grad()
    loss = subject.loss(method, batch)
    loss.backward()
    norms = [parameter.grad.norm() for parameter in method.parameters() if parameter.grad is not None]
    return torch.stack([loss.detach(), *norms])


@contextmanager
def noises(method: Any, count: int) -> Iterator[None]:  # noqa: ANN401  TWGTM
    """Let TWGTM draw `count` noises for each sample and direction."""
    before, method.noises_per_sample = method.noises_per_sample, count
    try:
        yield
    finally:
        method.noises_per_sample = before


def read_once(method: Method, batch: TryOnBatch, count: int) -> Tensor:
    """Train TWGTM on several noises a sample, whose reference is read once."""
    with noises(method, count):
        return train(TWGTM, method, batch)


def read_each_time(method: Method, batch: TryOnBatch, count: int) -> Tensor:
    """Train TWGTM on the same noises, each with a reference of its own: the batch is repeated."""
    module = module_of(method)
    add_noise: Callable[..., Noised] = module.add_noise

    def add_the_same(schedule: object, latents: Tensor, ids: Sequence[str], *names: str | int) -> Noised:
        seen: Counter[str] = Counter()
        numbered = []
        for id_ in ids:  # as TWGTM names the noises of a sample
            numbered.append(f"{id_}/{seen[id_]}" if seen[id_] else id_)
            seen[id_] += 1
        return add_noise(schedule, latents, numbered, *names)

    repeated = batch.select([*range(len(batch))] * count)
    with noises(method, 1), patch.object(module, "add_noise", add_the_same):
        return train(TWGTM, method, repeated)


def measure(name: str, compare: Comparison, options: argparse.Namespace, scratch: Path) -> None:
    """Measure all rows of a method."""
    subject, kinds = SUBJECTS[name]
    method = build(name, options.size, options.steps, options.weights or scratch / "weights", options.device)
    samples = {kind: Samples(kind, options.batch, compare.size, compare.device) for kind in kinds}
    method.eval()
    for kind in kinds:
        one = subject(method, samples[kind].batch.without_target())
        title = f"{name}, {DIRECTIONS[kind]}"
        compare(f"{title}: {one.anew} once, against at each step", one.ours, partial(one.plain, encode=True), relative=False)
        if one.projects:
            keys = "keys and values once, against at each step, the rest being given"
            compare(f"{title}: {keys}", one.ours, partial(one.plain, project=True), relative=False)
        compare(f"{title}: guidance in one pass, against two", one.ours, partial(one.plain, two_passes=True), relative=False)
    own = samples[kinds[0]]
    from_cache = own.cache(method.encodings(), scratch / "cache" / name)
    method.train()
    compare(
        f"{name}, training step: encodings from the cache (read and checked in the step), against frozen encoders",
        lambda: train(subject, method, from_cache()),
        lambda: train(subject, method, own.batch),
    )
    if subject is TWGTM:
        ready, count = from_cache(), options.noises
        compare(
            f"{name}, training step: the reference read once for {count} noises, against {count} times, encodings being given",
            lambda: read_once(method, ready, count),
            lambda: read_each_time(method, ready, count),
        )


def main(args: list[str] | None = None, written: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Run all comparisons and write the table; fail at the end if two ways differ. `written` is told the content after each row."""
    parser = parser_of(__doc__, steps="of the recipe's sampler")
    parser.add_argument("--methods", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="default: all")
    parser.add_argument("--noises", type=int, default=4, help="a sample in the row of TWGTM's noises_per_sample")
    options = parser.parse_args(args)
    if options.table:
        show_table(parser, options.out, DIFFERENCE)
        return
    # Images in [-1, 1], and losses and gradients by their root mean square. Autocast leaves three digits, amplified by many steps.
    compare = Comparison(parser, options, 0.25 if options.bf16 else 1e-4, written)
    for name in options.methods:
        print(f"{name}:", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            measure(name, compare, options, Path(scratch))
        gc.collect()  # before the next one is built
        if compare.device.type == "cuda":
            torch.cuda.empty_cache()
    compare.end(DIFFERENCE)


if __name__ == "__main__":
    main()
