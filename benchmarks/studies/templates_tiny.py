"""Generate templates for held-out tops with a trained tiny CIGM: a grid, their variation with the noise, and their palette distances.

    python benchmarks/studies/templates_tiny.py GRID.png CKPT [CKPT ...] [--split test] [--set NAME=VALUE ...]

Writes the figures next to the grid, as GRID.json, and prints them as a Markdown table.

A palette is the mean colour (Lab) of everything but the white background. Distances are CIEDE2000; for templates, the mean over 16 noises
per top. A permutation test shows whether images match their own tops: it compares the mean distance of the pairs with that of 10,000 random
pairings. The distance to the top is small if both have the same colour. The distance by the wardrobe's rule is the distance to the nearest
colour that, by the rule, goes with the top (without black, white and grey tops, which go with every colour). A grey image is close to some
colour that goes with any top, and a mean colour is greyer than the named one: only the difference from the shuffled pairs is meaningful.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from study import TINY, row
from torch import Tensor
from torchvision.utils import make_grid

from fashiongen.batches import to_float, to_uint8
from fashiongen.checkpoints import read_state
from fashiongen.data import FashionVC
from fashiongen.data.pairs import TRUTH, read_truth
from fashiongen.evaluation.images import write_png
from fashiongen.methods.geco import CIGM
from fashiongen.metrics.colour import ciede2000, srgb_to_lab
from fashiongen.wardrobe.outfits import NEUTRALS, harmonious
from fashiongen.wardrobe.world import COLORS

PAPER = 0.95  # in [0, 1]: a pixel whose three channels reach it is background
DRAWS, DRAWN, SHOWN = 16, 4, 5  # noises per top: measured, and in the grid; tops in the grid
FIGURES = ("own", "shuffled", "low", "high", "p")
SHOWN_BY = ("its top", "its top, by the rule")


def palette(images: Tensor) -> Tensor:
    """Return the mean colour (N, 3, 1, 1) in Lab of the foreground of images (N, 3, H, W) in [0, 1]; of the whole image if it is empty."""
    drawn = (images.amin(dim=1, keepdim=True) < PAPER).float()
    drawn = torch.where(drawn.sum(dim=(2, 3), keepdim=True) > 0, drawn, torch.ones_like(drawn))
    return (srgb_to_lab(images) * drawn).sum(dim=(2, 3), keepdim=True) / drawn.sum(dim=(2, 3), keepdim=True)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Return the colour distances between palettes (N, 3, 1, 1) and others (M, 3, 1, 1), as (N, M)."""
    pairs = one.repeat_interleave(len(other), dim=0), other.repeat(len(one), 1, 1, 1)
    return ciede2000(*pairs).view(len(one), len(other))


def matched(every: NDArray[np.float32], permutations: int = 10_000) -> dict[str, float]:
    """Compare the mean of the diagonal of distances (N, N) of images to tops or bottoms, `own`, with that of random pairings."""
    generator, rows = np.random.default_rng(0), np.arange(len(every))
    chance = np.array([every[rows, generator.permutation(len(every))].mean() for _ in range(permutations)])
    own = every.diagonal().mean()
    low, high = np.quantile(chance, [0.025, 0.975])
    tail = (1 + (chance <= own).sum()) / (1 + permutations)
    return {name: float(value) for name, value in zip(FIGURES, (own, chance.mean(), low, high, tail), strict=True)}


def table(figures: Path) -> str:
    """Return the Markdown table of the figures that `main` wrote."""
    found = json.loads(figures.read_text())
    lines = [
        row(
            [
                "seed",
                *(text for name in SHOWN_BY for text in (f"template to {name}, shuffled", "p")),
                "two noises of a top",
                "deviation over noises, grey levels",
            ]
        ),
        row(["---", *["---:"] * 6]),
    ]
    for name, measured in found.items():
        cells = []
        for distance in SHOWN_BY:
            own, chance, low, high, tail = (measured[distance][figure] for figure in FIGURES)
            cells += [f"{own:.2f}, {chance:.2f} ({low:.2f} to {high:.2f})", f"{tail:.4f}"]
        lines.append(row([name, *cells, *(f"{measured[other]:.1f}" if other in measured else "" for other in ("two noises", "deviation"))]))
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "grid", type=Path, help="image of the first checkpoint: tops; four templates each, for four noises; the true bottoms"
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints of one recipe, trained with the seeds 0, 1, ...")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="split of the tops; settings are chosen on val")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="differences from recipes/tiny/geco-cigm.yaml")
    options = parser.parse_args()

    recipe = yaml.safe_load((TINY / "geco-cigm.yaml").read_text())
    data = FashionVC(**recipe["data"]["init_args"] | {"eval_batch_size": 1000})
    data.setup("fit" if options.split == "val" else "test")
    pairs = next(iter(data.val_dataloader() if options.split == "val" else data.test_dataloader()))
    if options.split == "val":
        bottoms = to_float(pairs.bottom)
    else:
        catalogue = list(data.catalogue_dataloader("test"))
        places = {id_: index for index, id_ in enumerate(id_ for batch in catalogue for id_ in batch.ids)}
        bottoms = to_float(torch.cat([batch.bottom for batch in catalogue]))[[places[id_] for id_ in pairs.positive]]
    tops, top_ids = to_float(pairs.top), pairs.top_ids

    of_tops, of_bottoms = palette((tops + 1) / 2), palette((bottoms + 1) / 2)
    truth = read_truth(data.root / TRUTH)
    colours = [truth[top_id]["Color"] for top_id in top_ids]
    bright = [row for row, colour in enumerate(colours) if colour not in NEUTRALS]
    allowed = torch.tensor([[harmonious(colours[row], other) for other in COLORS] for row in bright])
    named = srgb_to_lab(torch.tensor(list(COLORS.values())).div(255.0)[:, :, None, None])

    def to_every(palettes: Tensor) -> dict[str, NDArray[np.float32]]:
        """Return the distances of palettes (N, 3, 1, 1) to each top, to each bottom, and to the colours that go with each bright top."""
        to_named = distances(palettes[bright], named)
        by_rule = torch.stack([to_named[:, goes].amin(dim=1) for goes in allowed], dim=1)
        every = {"its top": distances(palettes, of_tops), "its bottom": distances(palettes, of_bottoms), "its top, by the rule": by_rule}
        return {name: values.numpy() for name, values in every.items()}

    print(f"{len(tops)} tops, {len(bright)} of them bright")
    of_true = to_every(of_bottoms)
    figures: dict[str, dict[str, Any]] = {}
    settings = {key: value for key, value in recipe["model"]["init_args"].items() if key not in ("optimizer", "lr_scheduler")}
    settings |= {key: yaml.safe_load(value) for key, _, value in (argument.partition("=") for argument in options.set)}
    method = CIGM(**settings).eval()
    of_all: list[dict[str, NDArray[np.float32]]] = []
    for seed, checkpoint in enumerate(options.checkpoints):
        method.load_state_dict(read_state(checkpoint))
        drawn = torch.stack([method.template(tops, top_ids, draw) for draw in range(DRAWS)])  # (16, N, 3, S, S) in [-1, 1]
        palettes = [palette((images + 1) / 2) for images in drawn]
        measured = [to_every(each) for each in palettes]
        of_all.append({name: np.mean([each[name] for each in measured], axis=0) for name in measured[0]})
        figures[str(seed)] = {name: matched(every) for name, every in of_all[-1].items()} | {
            "two noises": float(ciede2000(*palettes[:2]).mean()),
            "deviation": float((drawn / 2).std(dim=0).mean() * 255),
        }
        if seed == 0:
            shown = to_uint8(torch.cat([tops[:SHOWN], *drawn[:DRAWN, :SHOWN], bottoms[:SHOWN]]))
            write_png(options.grid, make_grid(shown, nrow=SHOWN, padding=2, pad_value=255))
    mean = {name: matched(np.mean([each[name] for each in of_all], axis=0)) for name in of_all[0]}
    spread = {name: float(np.mean([each[name] for each in figures.values()])) for name in ("two noises", "deviation")}
    figures[f"mean of {len(of_all)}"] = mean | spread
    # Two true bottoms of two tops stand in for two noises of one.
    other = float(ciede2000(of_bottoms, of_bottoms.roll(1, dims=0)).mean())
    figures["the true bottoms"] = {name: matched(every) for name, every in of_true.items()} | {"two noises": other}
    options.grid.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table(options.grid.with_suffix(".json")))


if __name__ == "__main__":
    main()
