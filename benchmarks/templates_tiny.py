"""Draw templates of a trained tiny CIGM for held-out tops: a grid, how much they vary with the noise, and whose palette they take.

    python benchmarks/templates_tiny.py CKPT GRID.png [noise_channels=N ...]

Palette distance: CIEDE2000 between the mean colours (Lab) of what is not paper, of a top and of a template or bottom. Whether pictures
go with their own tops is told by a permutation test: the mean distance of the pairs beside that of 10,000 random pairings.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from study import TINY
from torch import Tensor
from torchvision.utils import make_grid

from fashiongen.batches import to_float, to_uint8
from fashiongen.checkpoints import read_state
from fashiongen.data import FashionVC
from fashiongen.evaluation.pictures import write_png
from fashiongen.methods.geco import CIGM
from fashiongen.metrics.colour import ciede2000, srgb_to_lab
from fashiongen.nn import noise

PAPER = 0.95  # in [0, 1]: a pixel whose three channels reach it is background
DRAWS, SHOWN = 4, 8


def palette(pictures: Tensor) -> Tensor:
    """Return the mean colour (N, 3, 1, 1) in Lab of what is not paper in pictures (N, 3, H, W) in [0, 1]; of all of it where nothing is."""
    drawn = (pictures.amin(dim=1, keepdim=True) < PAPER).float()
    drawn = torch.where(drawn.sum(dim=(2, 3), keepdim=True) > 0, drawn, torch.ones_like(drawn))
    return (srgb_to_lab(pictures) * drawn).sum(dim=(2, 3), keepdim=True) / drawn.sum(dim=(2, 3), keepdim=True)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the colour distances (N,) of two sets of palettes."""
    return ciede2000(one, other).flatten()


def matched(name: str, one: Tensor, other: Tensor, permutations: int = 10_000) -> None:
    """Print how far palettes (N, 3, 1, 1) are from those of the same row, beside random pairings."""
    count = len(one)
    every = distance(one.repeat_interleave(count, dim=0), other.repeat(count, 1, 1, 1)).view(count, count).numpy()
    generator, rows = np.random.default_rng(0), np.arange(count)
    chance = np.array([every[rows, generator.permutation(count)].mean() for _ in range(permutations)])
    own = every.diagonal().mean()
    low, high = np.quantile(chance, [0.025, 0.975])
    tail = (1 + (chance <= own).sum()) / (1 + permutations)
    print(f"{name}: {own:.2f}, shuffled {chance.mean():.2f} ({low:.2f} to {high:.2f}), p = {tail:.4f}")


@torch.no_grad()
def main(checkpoint: str, grid: str, *further: str) -> None:
    """Draw, measure and print."""
    settings = yaml.safe_load((TINY / "geco-cigm.yaml").read_text())["model"]["init_args"]
    settings.pop("optimizer")
    settings |= {key: int(value) for key, _, value in (argument.partition("=") for argument in further)}
    method = CIGM(**settings)
    method.load_state_dict(read_state(checkpoint))
    method.eval()
    data = FashionVC(root="wardrobe", people=2000, size=(64, 64), eval_batch_size=300, num_workers=0)
    data.setup("test")
    queries, catalogue = next(iter(data.test_dataloader())), list(data.catalogue_dataloader("test"))
    tops = to_float(queries.top)
    channels = method.generator.noise_channels
    draws = torch.stack(
        [method.generator(tops, noise.normal(noise.keys(queries.top_ids, 0, "template", draw), (channels,))) for draw in range(DRAWS)]
    )
    bottoms = to_float(torch.cat([batch.bottom for batch in catalogue]))
    places = {id_: index for index, id_ in enumerate(id_ for batch in catalogue for id_ in batch.ids)}
    own = bottoms[[places[id_] for id_ in queries.positive]]

    of_tops, of_bottoms, of_templates = (palette((pictures + 1) / 2) for pictures in (tops, own, draws[0]))
    print(f"{len(tops)} tops, palette distances:")
    matched("template to its top", of_templates, of_tops)
    matched("template to its bottom", of_templates, of_bottoms)
    matched("bottom to its top", of_bottoms, of_tops)
    print(f"deviation over {DRAWS} noises, mean over pixels: {(draws / 2).std(dim=0).mean() * 255:.2f} grey levels")
    between = palette((draws.flatten(0, 1) + 1) / 2).unflatten(0, (DRAWS, len(tops)))
    print(f"palette distance between two noises of a top: {distance(between[0], between[1]).mean():.2f}")
    shown = torch.cat([tops[:SHOWN], *draws[:, :SHOWN], own[:SHOWN]])
    write_png(Path(grid), make_grid(to_uint8(shown), nrow=SHOWN, padding=2, pad_value=255))


if __name__ == "__main__":
    main(*sys.argv[1:])
