"""What trained tiny CatVTON (on) and TryOffAnyone (off) have in common, as in TWGTM's Figure 1; the tables of `results/two-way-tiny`.

    python benchmarks/studies/two_way_tiny.py OUT --checkpoints DIR [--other NAME=CKPT ...] [--pairs 64] [--table-only]

Both start from the same tiny inpainting UNet without cross-attention and train all of it. Checkpoints are `DIR/NAME/last.ckpt`; `--other`
is another training of one of them, such as with another seed. Writes OUT/two-way.json after each part, which is not repeated with the same
checkpoints, and the heatmap OUT/two-way.png.

(a) Parameters. The share of weights w, v at the same place of two networks that are alike: |w - v| <= t (absolute), or
|w - v| <= t max(|w|, |v|) (relative; the paper says only "relative errors"). Networks that start from the same weights are alike without
having learnt anything in common. So each is also compared with the start, and with the other's weights in random order within their
tensors, which keeps nothing but their distributions. The cosine of the two updates (trained less start) says whether the tasks moved the
same weights the same way: 0 for updates without relation.

(b) Features. The outputs of all residual blocks and transformers of the UNet on the same held-out pairs, at one timestep each. The input of
both is [noisy latents 4 | mask 1 | known latents 4] of two images, one below the other; the upper one is generated: the person for CatVTON,
the garment for TryOffAnyone. Person and garment are noised alike for both. A number is the mean over pairs and places of the cosine of two
features, vectors over channels: of the two networks with the halves exchanged, so that person meets person (`matched`); without the
exchange (`in place`); with the next pair's features (`other pair`); and of the start, which has learnt neither task, on both inputs, halves
exchanged (`start`). Features have a large common part, so all is also given less each channel's mean over pairs and places (`centred`).
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from PIL import Image, ImageDraw
from study import TINY, row
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from fashiongen.batches import Batch
from fashiongen.cli import load
from fashiongen.errors import UserError
from fashiongen.intervals import interval_of_one_run
from fashiongen.methods.concatenation import ConcatenationMethod
from fashiongen.nn import noise
from fashiongen.nn.concatenation import join_conditions
from fashiongen.records import file_sha256, write_atomically

ON, OFF = "catvton", "tryoffanyone"
GROUPS = {"self-attention": (".attn1.",), "feed-forward": (".ff.",), "both, as in the paper": (".attn1.", ".ff."), "all": ("",)}
THRESHOLDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1)
TIMESTEPS = (30, 200, 400, 600, 800, 980)
BATCH = 16
KINDS = ("matched", "in place", "other pair", "start")
RESULT, PLOT = "two-way.json", "two-way.png"

Weights = dict[str, Tensor]


def weights(method: ConcatenationMethod) -> Weights:
    """Return the UNet's parameters by name."""
    return {name: parameter.detach() for name, parameter in method.network.unet.named_parameters()}


def group(all_: Weights, parts: tuple[str, ...]) -> Weights:
    """Return the parameters whose names hold one of some parts."""
    return {name: tensor for name, tensor in all_.items() if any(part in name for part in parts)}


def flat(of: Weights) -> Tensor:
    """Return all weights as one vector, float64."""
    return torch.cat([tensor.flatten().double() for tensor in of.values()])


def shuffled(of: Weights, seed: int = 0) -> Weights:
    """Return the weights in random order within each tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {name: one.flatten()[torch.randperm(one.numel(), generator=generator)].view_as(one) for name, one in of.items()}


def shares(one: Weights, other: Weights) -> dict[str, list[float]]:
    """Return the share of weights that are alike, absolutely and relatively, by threshold.

    Raises:
        SystemExit: if the two networks do not have the same parameters.
    """
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in other.items()}:
        raise SystemExit("the two networks do not have the same parameters, so that no weight is at the same place")
    w, v = flat(one), flat({name: other[name] for name in one})
    difference, largest = (w - v).abs(), torch.maximum(w.abs(), v.abs())
    return {
        "absolute": [float((difference <= threshold).double().mean()) for threshold in THRESHOLDS],
        "relative": [float((difference <= threshold * largest).double().mean()) for threshold in THRESHOLDS],
    }


def compare_parameters(start: Weights, trained: dict[str, Weights]) -> dict[str, Any]:
    """Compare networks by group.

    Args:
        start: the common starting weights.
        trained: CatVTON's and TryOffAnyone's, and those of other trainings.
    """
    found: dict[str, Any] = {}
    for name, parts in GROUPS.items():
        own = {who: group(of, parts) for who, of in trained.items()}
        begun = group(start, parts)
        pairs = {"on, off": (own[ON], own[OFF]), "on, start": (own[ON], begun), "off, start": (own[OFF], begun)}
        pairs |= {"on, off in random order": (own[ON], shuffled(own[OFF]))}
        pairs |= {f"{who}, {other}": (own[who], of) for other, of in own.items() for who in (ON, OFF) if other not in (ON, OFF)}
        updates = {who: flat(of) - flat(begun) for who, of in own.items()}
        found[name] = {
            "weights": sum(tensor.numel() for tensor in begun.values()),
            "shares": {pair: shares(*both) for pair, both in pairs.items()},
            "updates": {
                "relative size": {who: float(update.norm() / flat(begun).norm()) for who, update in updates.items()},
                "cosine": {
                    f"{one}, {other}": float(cosine_similarity(updates[one], updates[other], dim=0))
                    for index, one in enumerate(updates)
                    for other in list(updates)[index + 1 :]
                },
            },
        }
    return found


@contextmanager
def recorded(unet: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that holds the last outputs (B, C, H, W) of all residual blocks and transformers, by name, in order."""
    found: dict[str, Tensor] = {}
    layers = {module: name for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D | Transformer2DModel)}

    def hook(module: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401  a tensor, a tuple or an output of diffusers
        found[layers[module]] = (output if isinstance(output, Tensor) else output[0]).float()

    handles = [module.register_forward_hook(hook) for module in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def exchange(features: Tensor) -> Tensor:
    """Exchange the upper and the lower half, (B, C, 2h, w)."""
    return torch.cat([*reversed(features.chunk(2, dim=-2))], dim=-2)


@torch.no_grad()
def features(method: ConcatenationMethod, unet_of: ConcatenationMethod, batch: Batch, timestep: int) -> dict[str, Tensor]:
    """Return a UNet's features of a batch, by layer.

    Args:
        method: whose input it gets.
        unet_of: whose UNet.
        batch: the pairs, of the method's task.
        timestep: of the forward process, in [0, 999].
    """
    conditions = method.conditions(batch)  # type: ignore[arg-type]  # of its own task
    halves = {method.generated: method.latents(method.generated, batch), method.reference: conditions.reference}  # type: ignore[arg-type]
    noises = {name: noise.normal(noise.keys(batch.ids, 0, "two ways", name, timestep), of.shape[1:]) for name, of in halves.items()}
    clean, epsilon = (torch.cat([of[method.generated], of[method.reference]], dim=method.axis) for of in (halves, noises))
    steps = torch.full((len(batch),), timestep)
    with recorded(unet_of.network.unet) as found:
        unet_of.network(method.schedule.add_noise(clean, epsilon, steps), steps, join_conditions(*conditions, method.axis))
    return found


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean over places of the cosine over channels, (B,), of features (B, C, H, W)."""
    return (normalize(one, dim=1) * normalize(other, dim=1)).sum(dim=1).mean(dim=(1, 2))


def compare_features(
    methods: dict[str, ConcatenationMethod], start: ConcatenationMethod, batches: dict[str, list[Batch]], timestep: int
) -> Any:  # noqa: ANN401
    """Compare the features of all layers at a timestep: per kind the mean by layer, and per pair the mean over layers.

    Args:
        methods: CatVTON and TryOffAnyone, trained.
        start: a method with the starting weights.
        batches: the same pairs in the same order, for each of the two.
        timestep: of the forward process.
    """
    parts = []
    for on, off in zip(batches[ON], batches[OFF], strict=True):
        part = {"on": features(methods[ON], methods[ON], on, timestep), "off": features(methods[OFF], methods[OFF], off, timestep)}
        part |= {"start on": features(methods[ON], start, on, timestep), "start off": features(methods[OFF], start, off, timestep)}
        parts.append(part)
    layers, found = list(parts[0]["on"]), {}
    by_pair: dict[str, list[Tensor]] = {}
    for layer in layers:
        every = {name: torch.cat([part[name].pop(layer) for part in parts]) for name in parts[0]}
        for way in ("plain", "centred"):
            if way == "centred":
                every = {name: of - of.mean(dim=(0, 2, 3), keepdim=True) for name, of in every.items()}
            off, start_off = exchange(every["off"]), exchange(every["start off"])
            compared = (every["on"], off), (every["on"], every["off"]), (every["on"], off.roll(1, dims=0)), (every["start on"], start_off)
            for kind, both in zip(KINDS, compared, strict=True):
                by_pair.setdefault(f"{way} {kind}", []).append(cosines(*both))
    for name, of_layers in by_pair.items():
        found[name] = {"layers": torch.stack(of_layers).mean(dim=1).tolist(), "pairs": torch.stack(of_layers).mean(dim=0).tolist()}
    return {"layers": layers, "cosines": found}


def pairs(data: Any, count: int) -> list[Batch]:  # noqa: ANN401  any DataModule
    """Return the first held-out pairs in batches."""
    data.prepare_data()
    data.setup("predict")
    samples = [data.datasets["test"][index] for index in range(min(count, len(data.datasets["test"])))]
    return [type(samples[0]).collate(samples[first : first + BATCH]) for first in range(0, len(samples), BATCH)]


def measure(out: Path, checkpoints: dict[str, Path], count: int, keys: dict[str, object]) -> None:
    """Measure what OUT/two-way.json lacks, and write it after each part.

    Raises:
        SystemExit: if the inputs of the two methods are not alike.
    """
    identity = {"pairs": count, "checkpoints": {name: file_sha256(path) for name, path in checkpoints.items()}}
    file, found = out / RESULT, {**identity}
    if file.is_file() and {name: (earlier := json.loads(file.read_text())).get(name) for name in identity} == identity:
        found = earlier
    out.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for name, path in checkpoints.items():
        recipe = TINY / f"{name if name in (ON, OFF) else name.partition(' ')[0]}.yaml"
        methods[name], data[name] = load(recipe, checkpoint=path, keys=keys)
    start, _ = load(TINY / f"{ON}.yaml", keys=keys)
    assert isinstance(start, ConcatenationMethod)
    on, off = methods[ON], methods[OFF]
    if (on.axis, on.masked, on.generated, on.reference) != (off.axis, off.masked, off.reference, off.generated):
        raise SystemExit("the two methods join other images, or in another way: their inputs' halves cannot be exchanged")
    began = time.process_time()
    if "parameters" not in found:
        other_start, _ = load(TINY / f"{OFF}.yaml", keys=keys)
        assert isinstance(other_start, ConcatenationMethod)
        if min(shares(weights(start), weights(other_start))["absolute"]) < 1.0:
            raise SystemExit("the two methods do not start from the same weights")
        found["parameters"] = compare_parameters(weights(start), {name: weights(method) for name, method in methods.items()})
        write_atomically(file, json.dumps(found, indent=1) + "\n")
    of_methods = {name: methods[name] for name in (ON, OFF)}
    batches: dict[str, list[Batch]] = {}
    for timestep in TIMESTEPS:
        if str(timestep) in found.setdefault("features", {}):
            continue
        batches = batches or {name: pairs(data[name], count) for name in of_methods}
        ids = {name: [id_ for batch in of for id_ in batch.ids] for name, of in batches.items()}
        if ids[ON] != ids[OFF]:
            raise SystemExit("the recipes of the two methods do not read the same pairs")
        found["features"][str(timestep)] = compare_features(of_methods, start, batches, timestep)
        print(f"timestep {timestep}: {time.process_time() - began:.0f} s of CPU time", flush=True)
        write_atomically(file, json.dumps(found, indent=1) + "\n")


def parameters_table(file: Path) -> str:
    """Return the tables of shares and updates."""
    found, lines = json.loads(file.read_text())["parameters"], []
    for way in ("relative", "absolute"):
        lines += ["", row(["weights", f"alike, {way} difference up to", *(f"{threshold:g}" for threshold in THRESHOLDS)])]
        lines += [row(["---", "---", *["---:"] * len(THRESHOLDS)])]
        for name, of in found.items():
            for pair, alike in of["shares"].items():
                lines += [row([f"{name} ({of['weights']:,})", pair, *(f"{100 * share:.1f} %" for share in alike[way])])]
    cosine = next(iter(found.values()))["updates"]["cosine"]
    sizes = next(iter(found.values()))["updates"]["relative size"]
    lines += [
        "",
        row(
            [
                "update (trained less start)",
                *(f"size of {who}, share of the start's" for who in sizes),
                *(f"cosine of {pair}" for pair in cosine),
            ]
        ),
    ]
    lines += [row(["---", *["---:"] * (len(sizes) + len(cosine))])]
    for name, of in found.items():
        cells = [f"{of['updates']['relative size'][who]:.3f}" for who in sizes] + [
            f"{of['updates']['cosine'][pair]:+.3f}" for pair in cosine
        ]
        lines += [row([name, *cells])]
    return "\n".join(lines[1:])


def features_table(file: Path) -> str:
    """Return the table of cosines by timestep, the mean over layers, with the 95 % interval over pairs."""
    found = json.loads(file.read_text())
    steps = [step for step in map(str, TIMESTEPS) if step in found["features"]]
    lines = [row(["cosine, mean over layers", *(f"t = {step}" for step in steps)]), row(["---", *["---:"] * len(steps)])]
    for name in found["features"][steps[0]]["cosines"]:
        cells = []
        for step in steps:
            values = np.array(found["features"][step]["cosines"][name]["pairs"])
            ends = interval_of_one_run(values, range(len(values)))
            cells.append(f"{values.mean():.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"))
        lines += [row([name, *cells])]
    return "\n".join([*lines, "", f"In brackets: the 95 % interval over {found['pairs']} pairs, for these two checkpoints."])


def draw(file: Path, to: Path) -> None:
    """Draw the centred cosines, matched and of the start, of each layer at each timestep: 0 is white, 1 is dark."""
    found = json.loads(file.read_text())["features"]
    layers, steps, width, height, left, top = next(iter(found.values()))["layers"], list(found), 46, 16, 190, 34
    shown = ("centred matched", "centred start")
    image = Image.new("RGB", (left + len(shown) * (len(steps) * width + 20), top + len(layers) * height + 4), "white")
    pen = ImageDraw.Draw(image)
    for index, layer in enumerate(layers):
        pen.text((4, top + index * height + 2), layer, fill="black")
    for panel, name in enumerate(shown):
        begins = left + panel * (len(steps) * width + 20)
        pen.text((begins, 2), f"cosine, {name}", fill="black")
        for column, step in enumerate(steps):
            pen.text((begins + column * width + 4, 18), f"t={step}", fill="black")
            for index, value in enumerate(found[step]["cosines"][name]["layers"]):
                corner = (begins + column * width, top + index * height)
                light = round(255 * (1 - min(max(value, 0.0), 1.0)))
                pen.rectangle(
                    (*corner, corner[0] + width - 2, corner[1] + height - 2),
                    fill=(light, light, 255 if light > 128 else 255 - (128 - light)),
                )
                pen.text((corner[0] + 6, corner[1] + 2), f"{value:.2f}", fill="black" if light > 110 else "white")
    image.save(to, optimize=True)


def main() -> None:
    """Measure what is missing, draw, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoints", type=Path, metavar="DIR", help="folder of trained checkpoints, NAME/last.ckpt")
    parser.add_argument("--other", nargs="*", default=[], metavar="NAME=CKPT", help="another training of catvton or tryoffanyone")
    parser.add_argument("--pairs", type=int, default=64, help="number of held-out pairs (default: %(default)s)")
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    if not given.table_only:
        if given.checkpoints is None:
            raise SystemExit("--checkpoints DIR: give the folder of the trained checkpoints, catvton/last.ckpt and tryoffanyone/last.ckpt")
        checkpoints = {name: given.checkpoints / name / "last.ckpt" for name in (ON, OFF)}
        for other in given.other:
            name, _, path = other.partition("=")
            if name not in (ON, OFF) or not path:
                raise SystemExit(f"--other {other}: give {ON}=CKPT or {OFF}=CKPT")
            checkpoints[f"{name} (another training)"] = Path(path)
        try:
            measure(given.out, checkpoints, given.pairs, {})
        except (OSError, UserError) as error:
            raise SystemExit(str(error)) from error
    draw(given.out / RESULT, given.out / PLOT)
    print(parameters_table(given.out / RESULT), features_table(given.out / RESULT), sep="\n\n")


if __name__ == "__main__":
    main()
