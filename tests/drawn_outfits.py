"""Small batches of outfits of the wardrobe, drawn in memory."""

from functools import cache

import torch

from fashiongen.batches import Ragged
from fashiongen.outfit_batches import ComposeBatch, FillBlankBatch
from fashiongen.wardrobe.draw import render_item
from fashiongen.wardrobe.outfits import make_outfit
from fashiongen.wardrobe.world import make_item

SIZE = (64, 48)


@cache
def image_of(item, size=SIZE):
    return torch.from_numpy(render_item(item, *size).copy()).permute(2, 0, 1)[None]


def outfit_batch(count=3, task="pfitb", history=(2, 0, 1, 3), training=False, size=SIZE):
    """Draw `count` outfits of four items; `history` is the number of items that each slot's category has in the user's history."""
    samples = []
    for number in range(count):
        outfit = make_outfit(0, "train", number)
        items = list(outfit.items.values())
        blank = torch.zeros(4, dtype=torch.bool)
        if not training:
            blank[number % 4] = True
            if task == "gor":
                blank[:] = True
        images = torch.cat([image_of(item, size) for item in items])
        shown = images.clone()
        shown[blank] = 255
        past = [
            [make_item(0, "train", 100 * number + 10 * slot + k, (item.category,)) for k in range(history[slot])]
            for slot, item in enumerate(items)
        ]
        empty = torch.zeros(0, 3, *size, dtype=torch.uint8)
        attributes = [{"category": item.category, **item.attributes} for item in items]
        ids = [item.id for item in items]
        cls = ComposeBatch if task == "gor" else FillBlankBatch
        samples.append(
            cls(
                ids=[f"user{number % 2}_outfit{number}"],
                user=[f"user{number % 2}"],
                outfit=[f"outfit{number}"],
                category=Ragged.of([[item.category for item in items]]),
                items=Ragged.of([["" if hidden else id_ for id_, hidden in zip(ids, blank.tolist(), strict=True)]]),
                images=Ragged.of([shown]),
                given=Ragged.of([~blank]),
                blank=Ragged.of([blank]),
                history_items=Ragged.of([Ragged.of([[item.id for item in row] for row in past])]),
                history=Ragged.of([Ragged.of([torch.cat([image_of(item, size) for item in row]) if row else empty for row in past])]),
                true_items=Ragged.of([ids]),
                true_images=Ragged.of([images]),
                attributes=Ragged.of([attributes]),
                given_attributes=Ragged.of([[{} if hidden else known for known, hidden in zip(attributes, blank.tolist(), strict=True)]]),
                likes=[{"Color": ("red", "blue"), "Design features": ("dots", "solid"), "Clothing Fashion Style": ("casual", "formal")}],
            )
        )
    return FillBlankBatch.collate(samples) if task == "pfitb" else ComposeBatch.collate(samples)


def of_lengths(lengths):
    """Draw fill-in-the-blank outfits of these lengths: their slots are those of outfits of four, once, in part or repeated."""
    outfits = outfit_batch(len(lengths))
    samples = []
    for number, length in enumerate(lengths):
        one = outfits.select([number])
        places = [place % 4 for place in range(length)]
        blank = torch.tensor([place == 0 for place in range(length)])
        fields = {}
        for name, field in vars(one).items():
            fields[name] = Ragged.of([_at(field[0], places)]) if isinstance(field, Ragged) else field
        truth = fields["true_images"].values
        ids = fields["true_items"].values
        fields |= {
            "images": Ragged.of([torch.where(blank[:, None, None, None], torch.full_like(truth, 255), truth)]),
            "items": Ragged.of([["" if hidden else id_ for id_, hidden in zip(ids, blank.tolist(), strict=True)]]),
            "given": Ragged.of([~blank]),
            "blank": Ragged.of([blank]),
        }
        samples.append(FillBlankBatch(**fields))
    return FillBlankBatch.collate(samples)


def _at(row, places):
    if isinstance(row, list):
        return [row[place] for place in places]
    return row.select(places) if isinstance(row, Ragged) else row[places]
