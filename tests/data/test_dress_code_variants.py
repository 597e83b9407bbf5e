"""The variants of Dress Code found in practice, and damaged copies of it."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tryon_folders import HELD_OUT, SIZE, TEST, TRAIN, data, into_archive, rewrite, samples, worn

from fashiongen.batches import TryOffBatch
from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_person
from fashiongen.wardrobe.dress_code import CATEGORIES as DRESS_CODE_CATEGORIES


def only_root_lists(root):
    for path in root.glob("*/*_pairs*.txt"):
        path.unlink()


def only_folder_lists(root):
    for path in root.glob("*_pairs*.txt"):
        path.unlink()


def two_columns(root):
    only_root_lists(root)
    rewrite(root, "*_pairs*.txt", lambda text: "".join("\t".join(line.split()[:2]) + "\n" for line in text.splitlines()))


def three_columns(root):
    only_folder_lists(root)
    for number, folder in enumerate(DRESS_CODE_CATEGORIES):
        rewrite(root / folder, "*_pairs*.txt", lambda text, number=number: text.replace("\n", f"\t{number}\n"))


def blanks(root):
    rewrite(root, "**/*_pairs*.txt", lambda text: text.replace("\t", " "))


def no_paired_list(root):
    """The own garment is then the image of the person's number."""
    for path in root.glob("**/test_pairs_paired.txt"):
        path.unlink()


def no_unpaired_list(root):
    for path in root.glob("**/test_pairs_unpaired.txt"):
        path.unlink()


def catvton_masks(root):
    """CatVTON's script creates masks only for the test people."""
    for line in (root / "test_pairs_paired.txt").read_text().splitlines():
        name, _, number = line.split()
        folder = root / list(DRESS_CODE_CATEGORIES)[int(number)]
        (folder / "agnostic_masks").mkdir(exist_ok=True)
        mask = np.zeros(SIZE, np.uint8)
        mask[10:-10, 10:-10] = 255
        Image.fromarray(mask).save(folder / "agnostic_masks" / name.replace(".jpg", ".png"))


def palette_labels(root):
    for path in root.glob("*/label_maps/*.png"):
        labels = Image.open(path).convert("L")
        labels.putpalette([7, 0, 0] * 256)
        labels.save(path)


def no_garment_masks(root):
    """Those are LaDI-VTON's addition."""
    for folder in DRESS_CODE_CATEGORIES:
        shutil.rmtree(root / folder / "masks")


def some_garment_masks(root):
    shutil.rmtree(root / "dresses" / "masks")


DRESS_CODE = {
    "as published": lambda root: None,
    "archive": into_archive,
    "root lists": only_root_lists,
    "folder lists": only_folder_lists,
    "root lists of two columns": two_columns,
    "folder lists of three columns": three_columns,
    "blanks": blanks,
    "no paired list": no_paired_list,
    "no unpaired list": no_unpaired_list,
    "agnostic_masks": catvton_masks,
    "palette labels": palette_labels,
    "no garment masks": no_garment_masks,
    "garment masks of two folders": some_garment_masks,
}


@pytest.mark.parametrize("variant", DRESS_CODE)
def test_dress_code(variant, rendered, copied):
    plain = samples(data("dress_code", rendered("dress_code")))
    root = copied("dress_code")
    module = data("dress_code", DRESS_CODE[variant](root) or root, None)
    described = module.describe()
    assert described["samples"] == described["paired"] == {"train": TRAIN - HELD_OUT, "val": HELD_OUT, "test": TEST}
    assert described["unpaired"] == {"train": 0, "val": 0, "test": 0 if variant == "no unpaired list" else TEST}
    made = ["parse and key points"]
    assert described["masks"] == {"train": made, "val": made, "test": ["file"] if variant == "agnostic_masks" else made}
    optional = set() if "garment masks" in variant else {"garment_mask"}
    assert module.offers == {"mask", "garment", "parse", "pose"} | optional
    assert set(samples(module)) == set(plain)
    for id_, sample in samples(module).items():
        for part in {"person", "garment", "parse", "pose"} | optional:
            assert torch.equal(getattr(sample, part), getattr(plain[id_], part)), part
        category = {"upper_body": "upper", "lower_body": "lower", "dresses": "full"}[id_.rpartition("_")[0].rpartition("_")[0]]
        assert sample.category == [category] and type(sample) is TryOffBatch
        if variant == "agnostic_masks":
            assert sample.mask[0, 0, 10:-10, 10:-10].all() and sample.mask.sum() == 108 * 76
        else:
            assert sample.mask[0, 0][worn("dress_code", id_)].float().mean() > 0.97 and sample.mask.float().mean() < 0.8
    for row in module.datasets["test"].rows:
        assert row.garment.name == row.person.name.replace("_0.jpg", "_1.jpg")
        assert (row.other is None) == (variant == "no unpaired list") and (
            row.other is None or (row.other != row.garment and row.other.is_file())
        )


def test_dress_code_is_as_the_world_drew_it(rendered):
    module = data("dress_code", rendered("dress_code"))
    for id_, sample in samples(module).items():
        folder, _, number = id_.rpartition("_")[0].rpartition("_")
        images = render_person(make_person(0, "test", int(number), DRESS_CODE_CATEGORIES[folder]), *SIZE)
        assert torch.equal(sample.parse[0], torch.from_numpy(images.parse_atr))
        assert (sample.person[0].permute(1, 2, 0).numpy().astype(int) - images.image).__abs__().mean() < 4
        # Neck, shoulders and wrists stand at the same places in both of OpenPose's orders, the right hip at 8 and 9.
        truth = images.keypoints[[0, 1, 2, 3, 4, 5, 6, 7, 9]]
        inside = (truth[:, 0] * 384 / SIZE[1] > 1) & (truth[:, 1] * 512 / SIZE[0] > 1)
        assert np.allclose(sample.pose[0, :9].numpy()[inside], truth[inside], atol=0.01) and sample.pose.shape == (1, 18, 3)
        # The foreground is where the shop image is not white.
        coloured = (sample.garment[0].float().mean(dim=0) < 200) & ~sample.garment_mask[0, 0]
        assert coloured.float().mean() < 0.02 and 0.05 < sample.garment_mask.float().mean() < 0.9


def test_each_category_makes_its_masks_from_what_it_has(rendered, copied):
    """Dresses with masks and no key points, the others with key points and no masks: a batch has no key points, every sample its mask."""
    plain = data("dress_code", rendered("dress_code"))
    root = copied("dress_code")
    catvton_masks(root)
    for folder in ("upper_body", "lower_body"):
        shutil.rmtree(root / folder / "agnostic_masks")
    shutil.rmtree(root / "dresses" / "keypoints")
    module = data("dress_code", root)
    assert plain.offers - module.offers == {"pose"} and module.describe()["masks"] == {"test": ["file", "parse and key points"]}
    (batch,) = data("dress_code", root, eval_batch_size=TEST).test_dataloader()
    assert batch.pose is None and batch.parse is not None and len(batch) == TEST
    for id_, sample in samples(module).items():
        assert sample.pose is None
        made = torch.equal(sample.mask, samples(plain)[id_].mask)
        assert made != id_.startswith("dresses"), id_
    # Training dresses have neither masks nor key points now.
    with pytest.raises(UserError, match="dresses has neither agnostic_masks nor both label_maps and keypoints"):
        data("dress_code", root, "fit")


def test_dress_code_reads_the_requested_folders(rendered, copied):
    root = copied("dress_code")
    shutil.rmtree(root / "dresses")
    module = data("dress_code", root, categories=("lower_body", "upper_body"))
    assert module.name == "dress_code-upper_body-lower_body" and len(module.datasets["test"]) == 4
    assert {row.category for row in module.datasets["test"].rows} == {"upper", "lower"}
    with pytest.raises(UserError, match=r"dresses/images is missing"):
        data("dress_code", root)
    with pytest.raises(UserError, match="unknown shoes; choose from upper_body"):
        data("dress_code", root, categories=("shoes",))


@pytest.mark.parametrize(
    ("entry", "seen"), [([-1, -1, 0, -1], False), ([0, 0, 0, 0], False), ([200.0, 100.0, 0.5, 3], True), ([200.0, 100.0, 0, 3], True)]
)
def test_dress_codes_key_points_have_their_own_frame(entry, seen, copied):
    root = copied("dress_code")
    module = data("dress_code", root)
    row = module.datasets["test"].rows[0]
    content = json.loads(row.pose.read_text())
    content["keypoints"][3] = entry
    row.pose.write_text(json.dumps(content))
    point = module.datasets["test"][0].pose[0, 3].tolist()
    assert point == (pytest.approx([50.0, 25.0, entry[2] or 1.0]) if seen else [0, 0, 0])


def spoil_points(root):
    next(root.glob("*/keypoints/000014_2.json")).write_text('{"keypoints": [[1, 2, 3]]}')


def spoil_category(root):
    rewrite(root, "test_pairs_paired.txt", lambda text: text.replace("\t2\n", "\t3\n"))


def spoil_line(root):
    rewrite(root, "test_pairs_paired.txt", lambda text: text.replace("\t2\n", "\n"))


def spoil_masks(root):
    for folder in DRESS_CODE_CATEGORIES:
        shutil.rmtree(root / folder / "keypoints")


def spoil_file(root):
    next(root.glob("*/label_maps/000015_4.png")).unlink()


def spoil_lists(root):
    only_root_lists(root)
    only_folder_lists(root)


def spoil_repeat(root):
    rewrite(root, "test_pairs_unpaired.txt", lambda text: text + text)


def spoil_third_column(root):
    three_columns(root)
    rewrite(root / "dresses", "test_pairs_paired.txt", lambda text: text.replace("\t2\n", "\t0\n"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_points, r"000014_2\.json: not a Dress Code file with 18 keypoints"),
        (spoil_category, r"category '3' of 0000\d\d_0\.jpg must be 0 \(upper_body\), 1"),
        (spoil_line, r"test_pairs_paired\.txt, line \d: has 2 columns instead of 3"),
        (spoil_masks, "has neither agnostic_masks nor both label_maps and keypoints"),
        (spoil_file, r"1 of 6 samples of .* lack their parse, first .*000015_4\.png; restore"),
        (spoil_lists, r"has no test_pairs_paired\.txt and test_pairs_unpaired\.txt: data\.root must be"),
        (spoil_repeat, "is listed more than once"),
        (spoil_third_column, "has the category 0 instead of 2 \\(dresses\\)"),
    ],
)
def test_a_damaged_dress_code_is_a_one_line_error(spoil, words, copied):
    root = copied("dress_code")
    spoil(root)
    with pytest.raises(UserError, match=words) as error:
        samples(data("dress_code", root))
    assert "\n" not in str(error.value)
