"""Completed outfits of random images, and small networks, for the tests of the metrics of outfits."""

import hashlib
import json
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from fashiongen.batches import Ragged
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.compatibility import FashionEvaluator
from fashiongen.outfit_batches import Completed
from fashiongen.wardrobe import ATTRIBUTES, CATEGORIES

SIZE, DRAWS = (16, 12), 3
# Of each outfit: how many items are given, and the slots of its blanks.
OUTFITS = ((3, (1,)), (2, (2,)), (0, (0, 1, 2)), (2, (0, 2)))
HISTORY = (2, 0, 3, 1, 0, 1, 2)  # items of each blank's category
CANDIDATES = (5, 3, 0, 0)

OF_BLANKS = ("slot", "category", "truth", "history", "preference", "attributes")
OF_OUTFITS = ("given", "candidates", "given_captions", "given_attributes", "likes")


class Space(nn.Module):
    """Features of images and texts in one space: a stand-in for CLIP with its interface."""

    def __init__(self, width=8):
        super().__init__()
        self.width = width
        self.layer = nn.Linear(3 * 4 * 4, width)
        nn.init.normal_(self.layer.weight)

    def features(self, images):
        return self.layer(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)).exp()

    def text_features(self, texts):
        rows = [[byte / 255 + 0.1 for byte in hashlib.sha256(text.encode()).digest()[: self.width]] for text in texts]
        return torch.tensor(rows, dtype=self.layer.weight.dtype)


@cache
def space():
    torch.manual_seed(0)
    return Space().eval()


@cache
def judge():
    """A classifier with the wardrobe's attributes that reads several values of each."""
    torch.manual_seed(1)
    network = AttributeClassifier({"category": CATEGORIES, **ATTRIBUTES}, channels=(4, 6)).eval()
    with torch.no_grad():
        logits = network.head(network.features(completed().images.flatten(0, 1)))
        network.head.bias.sub_(logits.mean(dim=0))
        network.head.weight.div_(logits.std(dim=0)[:, None])
    return network


@cache
def evaluator():
    torch.manual_seed(2)
    return FashionEvaluator(width=8, hidden=6).eval()


def caption(draw, keys=tuple(ATTRIBUTES)):
    return json.dumps({key: ATTRIBUTES[key][int(torch.randint(3, (), generator=draw))] for key in keys})


def item(draw):
    values = {key: of[int(torch.randint(len(of), (), generator=draw))] for key, of in ATTRIBUTES.items()}
    return {"category": CATEGORIES[int(torch.randint(len(CATEGORIES), (), generator=draw))], **values}


def completed(seed=0):
    """Four outfits with seven blanks in all, one of them without a history, one without anything given."""
    draw = torch.Generator().manual_seed(seed)

    def images(*shape):
        coarse = torch.rand(*shape, 3, 4, 3, generator=draw)
        fine = nn.functional.interpolate(coarse.flatten(0, -4), size=SIZE).unflatten(0, shape)
        return (fine * 255).round() / 255

    sample = [outfit for outfit, (_, places) in enumerate(OUTFITS) for _ in places]
    attributes = [item(draw) for _ in sample]
    given = [[item(draw) for _ in range(count)] for count, _ in OUTFITS]
    candidates = [images(count) if count else torch.zeros(0, 3, *SIZE) for count in CANDIDATES]
    captions = [[caption(draw, tuple(ATTRIBUTES)[: 1 + (index + number) % 4]) for index in range(len(sample))] for number in range(DRAWS)]
    captions[0][1] = "no JSON at all"
    captions[1][3] = captions[2][3] = ""
    preference = [caption(draw, tuple(ATTRIBUTES)[1:]) for _ in sample]
    preference[4] = "{}"
    generated = images(DRAWS, len(sample))
    candidates[0][0], candidates[1][0] = generated[0, 0], generated[1, 1]  # some generated images are found among the candidates
    return Completed(
        images=generated,
        sample=torch.tensor(sample),
        n_samples=len(OUTFITS),
        slot=torch.tensor([place for _, places in OUTFITS for place in places]),
        category=[entry["category"] for entry in attributes],
        truth=images(len(sample)),
        given=Ragged.of([images(count) if count else torch.zeros(0, 3, *SIZE) for count, _ in OUTFITS]),
        history=Ragged.of([images(count) if count else torch.zeros(0, 3, *SIZE) for count in HISTORY]),
        candidates=Ragged.of(candidates),
        captions=captions,
        given_captions=Ragged.of([[caption(draw) for _ in row] for row in given]),
        preference=preference,
        attributes=attributes,
        given_attributes=Ragged.of(given),
        likes=[{key: of[:2] for key, of in ATTRIBUTES.items() if key != "Material"} for _ in OUTFITS],
    )


def part(whole, outfits):
    """Return some of the outfits."""
    blanks = [index for outfit in outfits for index in (whole.sample == outfit).nonzero().flatten().tolist()]

    def rows(values, chosen):
        if values is None:
            return None
        if isinstance(values, list):
            return [values[index] for index in chosen]
        return values.select(chosen) if isinstance(values, Ragged) else values[chosen]

    return replace(
        whole,
        images=whole.images[:, blanks],
        sample=torch.tensor([list(outfits).index(int(whole.sample[index])) for index in blanks]),
        n_samples=len(outfits),
        captions=None if whole.captions is None else [rows(row, blanks) for row in whole.captions],
        **{name: rows(getattr(whole, name), blanks) for name in OF_BLANKS},
        **{name: rows(getattr(whole, name), list(outfits)) for name in OF_OUTFITS},
    )


def blanks_of(whole, outfit):
    return (whole.sample == outfit).nonzero().flatten().tolist()


def mean(values):
    """The mean of those that are not None; None without any."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def cosine(first, second):
    first, second = first.double(), second.double()
    return float((first * second).sum() / (first.norm() * second.norm()))


def one(network, image):
    """The features of a single image, in float64."""
    with torch.no_grad():
        return network.features(image[None])[0].double()


def assert_values(metric, expected, tolerance=1e-6):
    """The metric's values, undefined outfits and mean are those of the plain implementation, None for undefined."""
    found = metric.values()
    assert metric.defined_samples().tolist() == [value is not None for value in expected]
    for value, wanted in zip(found.tolist(), expected, strict=True):
        assert value != value if wanted is None else abs(value - wanted) <= tolerance * max(abs(wanted), 1e-3), (found, expected)
    total = mean(expected)
    assert abs(metric.compute().item() - total) <= 2 * tolerance * max(abs(total), 1e-3)
    assert metric.n_undefined == sum(value is None for value in expected)
