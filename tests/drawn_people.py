"""A drawn person whose label map is known, a tiny SegFormer that labels such drawings, and the command that masks them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from fashiongen.cli import main
from fashiongen.data.mask_sources import CLOTHES

HEIGHT, WIDTH = 128, 96
NAMES = ("anna", "bert", "cleo")
BOX = ("--box", "0.25,0.25,0.75,0.625")
# ATR label, colour, and left, top, right, bottom.
FIGURE = (
    (2, (60, 30, 10), (34, 8, 62, 26)),
    (11, (230, 180, 150), (38, 14, 58, 32)),
    (14, (240, 200, 170), (18, 36, 30, 76)),
    (15, (240, 200, 170), (66, 36, 78, 76)),
    (4, (200, 20, 30), (30, 34, 66, 78)),
    (6, (20, 30, 160), (32, 78, 64, 120)),
)


def draw_person(shift=0):
    """The photo, and its ATR labels (H, W)."""
    photo, parse = Image.new("RGB", (WIDTH, HEIGHT), (200, 210, 200)), np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, colour, (left, top, right, bottom) in FIGURE:
        photo.paste(colour, (left + shift, top, right + shift, bottom))
        parse[top:bottom, left + shift : right + shift] = label
    return photo, parse


def write_people(root, names=NAMES, ending=".png"):
    """Draw a photo per name."""
    root.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        draw_person(4 * index - 4)[0].save(root / f"{name}{ending}")
    return root


def masks(*args, source="photos", out="out"):
    """Run `data masks`."""
    main(["data", "masks", source, "--out", out, *map(str, args)])


def refused(capsys, *args, **places):
    """Return the one line of a run that ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        masks(*args, **places)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("fashiongen: ")]
    assert len(lines) == 1 and "Traceback" not in said
    return lines[0]


def config(labels=CLOTHES[::-1]):
    """A tiny SegFormer, by default with the clothes labels in another order than ATR's."""
    return SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[2, 2],
        decoder_hidden_size=64,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )


def write_segformer(folder):
    """Write a random network whose last layer is solved for, so that it labels drawn people."""
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(config()).eval()
    processor = SegformerImageProcessor(size={"height": HEIGHT, "width": WIDTH})
    drawn = [draw_person(shift) for shift in (-6, -4, -2, 0, 2, 4, 6)]
    seen = []
    hook = network.decode_head.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(**processor(images=[photo for photo, _ in drawn], return_tensors="pt"))
    hook.remove()
    features = seen[0].permute(0, 2, 3, 1).flatten(0, 2).double()
    labels = torch.from_numpy(np.stack([parse[2::4, 2::4] for _, parse in drawn])).flatten().long()
    own = torch.tensor([list(network.config.id2label.values()).index(label) for label in CLOTHES])[labels]
    wanted = torch.nn.functional.one_hot(own, len(CLOTHES)).double()
    inputs = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    solved = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.float()
    classifier = network.decode_head.classifier
    classifier.weight.data, classifier.bias.data = solved[:-1].T[:, :, None, None].contiguous(), solved[-1]
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def change_config(folder, **changes):
    """Change entries of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_parses(root, names=NAMES):
    """Write a label map and COCO keypoints per name into the folders `parse` and `pose`."""
    for folder in ("parse", "pose"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        shift = 4 * index - 4
        Image.fromarray(draw_person(shift)[1]).save(root / "parse" / f"{name}.png")
        points = np.zeros((18, 3))
        points[[1, 2, 3, 4, 5, 6, 7], 2] = 0.9
        points[[1, 2, 3, 4, 5, 6, 7], :2] = [(48, 36), (32, 40), (24, 56), (24, 70), (64, 40), (72, 56), (72, 70)]
        points[:, 0] += shift * (points[:, 2] > 0)
        people = {"people": [{"pose_keypoints_2d": points.flatten().tolist()}]}
        (root / "pose" / f"{name}_keypoints.json").write_text(json.dumps(people))
    return root / "parse", root / "pose"
