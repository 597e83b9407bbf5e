"""Every variant of the public layouts that is met in the wild, made of a rendered folder by renaming, rewriting and removing files."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen.batches import TryOffBatch
from fashiongen.data import VITONHD, DressCode, StreetTryOn
from fashiongen.data.embedded import embedded_folder
from fashiongen.data.streettryon import read_csv_pairs
from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_person
from fashiongen.wardrobe.dress_code import CATEGORIES as DRESS_CODE_CATEGORIES
from fashiongen.wardrobe.street_tryon import CATEGORIES as STREET_CATEGORIES
from fashiongen.wardrobe.street_tryon import FIRST_PERSON

SIZE = (128, 96)
TRAIN, TEST, HELD_OUT = 14, 6, 2
READERS = {"viton_hd": VITONHD, "dress_code": DressCode, "street_tryon": StreetTryOn}


def data(layout, root, stage="test", **options):
    module = READERS[layout](str(root), **{"size": SIZE, "batch_size": 4, "num_workers": 0, "validation": HELD_OUT, **options})
    module.setup(stage)
    return module


def samples(module, split="test"):
    dataset = module.datasets[split]
    return {row.id: dataset[index] for index, row in enumerate(dataset.rows)}


def worn(layout, sample_id, namespace="test"):
    """The world's truth: where the worn garment is seen, (H, W) bool."""
    if layout == "viton_hd":
        person = make_person(0, namespace, int(sample_id.split("_")[0]))
    elif layout == "dress_code":
        folder, _, rest = sample_id.rpartition("_")[0].rpartition("_")
        person = make_person(0, namespace, int(rest), DRESS_CODE_CATEGORIES[folder])
    else:
        number = int(sample_id.split("_")[0])
        person = make_person(0, namespace, FIRST_PERSON + number, STREET_CATEGORIES["dress" if number % 3 == 2 else "top"])
    return torch.from_numpy(render_person(person, *SIZE).garment_mask)


def rename(root, pattern, change):
    for path in sorted(root.glob(pattern), reverse=True):
        path.rename(path.with_name(change(path.name)))


def rewrite(root, pattern, change):
    paths = list(root.glob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(change(path.read_text(encoding="utf-8")).encode())


def into_archive(root):
    """As it comes out of an archive with a top folder of some name."""
    inner = root.parent / "unpacked" / "some name (1)"
    inner.parent.mkdir()
    root.rename(inner)
    return inner.parent


# --- VITON-HD ---------------------------------------------------------------------------------------------------------------------------


def hyphens(root):
    rename(root, "*/openpose_json", lambda name: "openpose-json")
    rename(root, "*/openpose_img", lambda name: "openpose-img")


def underscores(root):
    rename(root, "*/cloth-mask", lambda name: "cloth_mask")
    rename(root, "*/agnostic-mask", lambda name: "agnostic_mask")


def old_parse(root):
    rename(root, "*/image-parse-v3", lambda name: "image-parse")


def plain_masks(root):
    rename(root, "*/agnostic-mask/*.png", lambda name: name.replace("_mask", ""))


def plural_masks(root):
    plain_masks(root)
    rename(root, "*/agnostic-mask", lambda name: "agnostic_masks")


def catvton_pairs(root):
    rename(root, "test_pairs.txt", lambda name: "test_pairs_unpaired.txt")


def tabs_and_windows(root):
    rewrite(root, "*_pairs.txt", lambda text: "\ufeff" + text.replace(" ", "\t").replace("\n", "\r\n\r\n"))


def six_digits(root):
    """The READMEs print stems with a digit more."""
    rewrite(root, "*_pairs.txt", lambda text: "".join(f"0{person} 0{cloth}\n" for person, cloth in map(str.split, text.splitlines())))
    rename(root, "*/*/*_00*", lambda name: f"0{name}")


def no_masks(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "agnostic-mask")


def painted_elsewhere(root):
    """StableVITON's README calls it `agnostic`."""
    no_masks(root)
    rename(root, "*/agnostic-v3.2", lambda name: "agnostic")


def nothing_painted(root):
    no_masks(root)
    for split in ("train", "test"):
        shutil.rmtree(root / split / "agnostic-v3.2")


def person_of(id_):
    return id_[-8:]


VITON_HD = {
    "as published": (lambda root: None, "file"),
    "archive": (into_archive, "file"),
    "hyphens": (hyphens, "file"),
    "underscores": (underscores, "file"),
    "image-parse": (old_parse, "file"),
    "masks without _mask": (plain_masks, "file"),
    "agnostic_masks": (plural_masks, "file"),
    "test_pairs_unpaired": (catvton_pairs, "file"),
    "tabs, BOM, Windows": (tabs_and_windows, "file"),
    "six digits": (six_digits, "file"),
    "agnostic-v3.2": (no_masks, "painted image"),
    "agnostic": (painted_elsewhere, "painted image"),
    "parse and key points": (nothing_painted, "parse and key points"),
}


@pytest.mark.parametrize("variant", VITON_HD)
def test_viton_hd(variant, rendered, copied):
    change, origin = VITON_HD[variant]
    plain = samples(data("viton_hd", rendered("viton_hd")))
    root = copied("viton_hd")
    module = data("viton_hd", change(root) or root, None)
    described = module.describe()
    assert described["samples"] == {"train": TRAIN - HELD_OUT, "val": HELD_OUT, "test": TEST}
    assert described["paired"] == described["unpaired"] == described["samples"]
    assert set(map(tuple, described["masks"].values())) == {(origin,)}
    assert module.offers == {"mask", "garment", "garment_mask", "parse", "pose"} and module.name == "viton_hd"
    for id_, sample in samples(module).items():
        same = plain[person_of(id_)]
        for part in ("person", "garment", "garment_mask", "parse", "pose"):
            assert torch.equal(getattr(sample, part), getattr(same, part)), part
        assert torch.equal(sample.mask, same.mask) == (origin == "file") or origin == "painted image"
        if origin == "painted image":
            assert (sample.mask == same.mask).float().mean() > 0.99
        garment = worn("viton_hd", person_of(id_))
        assert sample.mask[0, 0][garment].float().mean() > 0.97 and sample.mask.float().mean() < 0.75
    for row in module.datasets["test"].rows:
        assert row.other.is_file() and row.other != row.garment == row.garment.with_name(row.person.name)


def test_a_matched_pair_has_no_other_garment(copied):
    root = copied("viton_hd")
    rewrite(root, "test_pairs.txt", lambda text: "".join(f"{line.split()[0]} {line.split()[0]}\n" for line in text.splitlines()))
    assert data("viton_hd", root).describe()["unpaired"] == {"test": 0}


def test_two_copies_in_one_folder_are_not_guessed_from(rendered, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(rendered("viton_hd"))
    with pytest.raises(UserError, match="several copies of the dataset \\(one, two\\)"):
        data("viton_hd", tmp_path)


def duplicates(path, **halves):
    path.write_text(json.dumps(halves))
    return str(path)


def test_the_clean_split_leaves_out_what_the_file_names_and_says_so(rendered, tmp_path):
    root = rendered("viton_hd")
    names = [f"{number:05d}_00.jpg" for number in range(TRAIN + TEST)]
    listed = duplicates(
        tmp_path / "d.json", test={"duplicates": names[-2:-1], "leaked": names[-1:]}, train={"duplicates": [*names[:3], "99999_00.jpg"]}
    )
    module = data("viton_hd", root, None, duplicates=listed)
    whole = data("viton_hd", root, None)
    assert module.name == "viton_hd-clean" and whole.name == "viton_hd"
    assert module.describe()["samples"] == {"train": TRAIN - 3 - HELD_OUT, "val": HELD_OUT, "test": TEST - 2}
    assert module.describe()["left_out"] == {"train": 3, "test": 2} and "left_out" not in whole.describe()
    left = {row.id for dataset in module.datasets.values() for row in dataset.rows}
    assert left == {name[:-4] for name in names[3:-2]}
    assert data("viton_hd", root, duplicates=listed).fingerprint() != data("viton_hd", root).fingerprint()


def test_a_clean_split_needs_not_the_files_that_tryoffdiffs_script_deletes(copied, tmp_path):
    root = copied("viton_hd")
    for folder in ("cloth", "image"):
        (root / "test" / folder / "00015_00.jpg").unlink()
    listed = duplicates(tmp_path / "d.json", test={"duplicates": ["00015_00.jpg"]})
    assert len(data("viton_hd", root, duplicates=listed).datasets["test"]) == TEST - 1
    with pytest.raises(UserError, match="lack their person"):
        data("viton_hd", root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no list of duplicates"),
        ('{"test": ["a.jpg"]}', "no list of duplicates"),
        ('{"test": {"duplicates": "a.jpg"}}', "no list of duplicates"),
        ('{"test": {"duplicates": [1]}}', "no list of duplicates"),
        ("[" * 9999, "no list of duplicates"),
        ('{"test": {"duplicates": ["a.jpg"]}}', "none of its test names is in"),
    ],
)
def test_a_list_of_duplicates_of_another_form_is_refused(content, words, rendered, tmp_path):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UserError, match=words):
        data("viton_hd", rendered("viton_hd"), duplicates=str(tmp_path / "d.json"))


# --- Dress Code -------------------------------------------------------------------------------------------------------------------------


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
    """CatVTON's script makes masks for the test people alone."""
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


def test_dress_code_serves_the_folders_that_are_asked_for(rendered, copied):
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
def test_dress_codes_key_points_live_in_their_own_frame(entry, seen, copied):
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
        (spoil_points, r"000014_2\.json: no Dress Code file with 18 keypoints"),
        (spoil_category, r"category '3' of 0000\d\d_0\.jpg must be 0 \(upper_body\), 1"),
        (spoil_line, r"test_pairs_paired\.txt, line \d: has 2 columns where 3 are wanted"),
        (spoil_masks, "has neither agnostic_masks nor both label_maps and keypoints"),
        (spoil_file, r"1 of 6 samples of .* lack their parse, first .*000015_4\.png; restore"),
        (spoil_lists, r"has no test_pairs_paired\.txt and test_pairs_unpaired\.txt: data\.root must be"),
        (spoil_repeat, "is listed more than once"),
        (spoil_third_column, "has the category 0 where 2 \\(dresses\\) is wanted"),
    ],
)
def test_a_damaged_dress_code_is_told_in_one_line(spoil, words, copied):
    root = copied("dress_code")
    spoil(root)
    with pytest.raises(UserError, match=words) as error:
        samples(data("dress_code", root))
    assert "\n" not in str(error.value)


# --- StreetTryOn ------------------------------------------------------------------------------------------------------------------------


def uncut(root, raw):
    """The photos as DeepFashion2 has them: what the box cuts out lies somewhere in a larger image."""
    for folder in ("train", "validation"):
        (raw / folder / "image").mkdir(parents=True)
        for path in (root / folder / "image").iterdir():
            top, bottom, left, right = json.loads((root / folder / "raw_bbox" / f"{path.name}.json").read_text())["human_bbox"]
            photo = Image.new("RGB", (right + 9, bottom + 17), (0, 255, 0))
            photo.paste(Image.open(path), (left, top))
            photo.save(raw / folder / "image" / path.name, format="PNG")
        shutil.rmtree(root / folder / "image")


def uncut_beside(root):
    uncut(root, root.parent / "deepfashion2")


def uncut_inside(root):
    uncut(root, root / "deepfashion2")


def paths_in_lists(root):
    rewrite(root, "annotations/*_image_list.txt", lambda text: text.replace("0", "some/folder/0", 1))


def parts_alone(root):
    for path in root.glob("*/densepose/*.png"):
        Image.open(path).getchannel("B").save(path)


STREET = {
    "as published": lambda root: None,
    "data folder": into_archive,
    "uncut photos beside": uncut_beside,
    "uncut photos inside": uncut_inside,
    "paths in lists": paths_in_lists,
    "parts alone": parts_alone,
}


@pytest.mark.parametrize("variant", STREET)
def test_street_tryon(variant, rendered, copied):
    plain = samples(data("street_tryon", rendered("street_tryon")))
    root = copied("street_tryon")
    module = data("street_tryon", STREET[variant](root) or root)
    assert module.offers == {"mask", "parse"} and module.name == "street_tryon"
    described = module.describe()
    assert (described["samples"], described["paired"], described["unpaired"]) == ({"test": TEST}, {"test": 0}, {"test": 0})
    assert described["masks"] == {"test": ["parse and DensePose"]}
    assert set(samples(module)) == set(plain) == {f"{number:06d}" for number in range(TRAIN, TRAIN + TEST)}
    for id_, sample in samples(module).items():
        assert torch.equal(sample.person, plain[id_].person) and torch.equal(sample.mask, plain[id_].mask)
        assert sample.category == ["full" if int(id_) % 3 == 2 else "upper"] and sample.garment is sample.pose is None
        assert sample.mask[0, 0][worn("street_tryon", id_)].float().mean() > 0.97 and sample.mask.float().mean() < 0.8
    assert len(module.fingerprint()) == 64


def test_the_pair_files_tell_nothing_of_training_people_of_the_same_number(copied):
    """DeepFashion2 numbers the photos of each half from 1; the pair files are of the test half."""
    root = copied("street_tryon")
    trained = (root / "annotations" / "train_image_list.txt").read_text().split()[0]
    rewrite(root, "annotations/street2street_test_pairs_dress.csv", lambda text: f"{text}9,{trained},{trained}\n")
    module = data("street_tryon", root)
    assert {row.category for row in module.listing("train").rows} == {None}
    assert {row.category for row in module.listing("test").rows} == {"upper", "full"}


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_list_is_told_as_that(layout, content, copied):
    root = copied(layout)
    lists = {
        "viton_hd": "test_pairs.txt",
        "dress_code": "**/test_pairs_*paired.txt",
        "street_tryon": "annotations/validation_image_list.txt",
    }
    rewrite(root, lists[layout], lambda text: content)
    with pytest.raises(
        UserError, match=r"(test_pairs|test_pairs_unpaired|validation_image_list)\.txt: no sample .*is listed there"
    ) as error:
        data(layout, root)
    assert "missing" not in str(error.value)


def test_a_pair_file_of_nobody_is_told_as_that(copied):
    root = copied("street_tryon")
    rewrite(root, "annotations/street2street_test_pairs_top.csv", lambda text: text.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"street2street_test_pairs_top\.csv: no sample is listed there"):
        data("street_tryon", root, pairs="street2street_test_pairs_top.csv")


@pytest.mark.parametrize(("category", "expected"), [("top", "upper"), ("dress", "full")])
def test_street_pairs_have_the_garment_before_the_person(category, expected, rendered):
    root = rendered("street_tryon")
    module = data("street_tryon", root, pairs=f"street2street_test_pairs_{category}.csv")
    lines = (root / "annotations" / f"street2street_test_pairs_{category}.csv").read_text().splitlines()
    rows = module.datasets["test"].rows
    assert module.name == f"street_tryon-street2street_{category}" and len(rows) == len(lines) - 1 == {"top": 4, "dress": 2}[category]
    assert module.describe()["unpaired"] == {"test": len(rows)}
    for row, line in zip(rows, lines[1:], strict=True):
        _, garment, person = line.split(",")
        assert (row.person.name, row.other.name) == (person, garment) and row.other.is_file() and row.category == expected
        assert row.id == f"{person[:-4]}_{garment[:-4]}"


def test_shop_pairs_have_viton_hds_garments(rendered, tmp_path):
    (tmp_path / "street_tryon").symlink_to(rendered("street_tryon"))
    (tmp_path / "zalando").symlink_to(rendered("viton_hd"))
    module = data("street_tryon", tmp_path / "street_tryon", pairs="shop2street_test_pairs_top.csv")
    assert all(row.other.is_file() and row.other.parts[-4:-1] == ("zalando", "test", "cloth") for row in module.datasets["test"].rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "idx,garment,person\n0,g.jpg,p.jpg\n1,h.jpg,q.jpg\n"),
        ("a.csv", "0,g.jpg,p.jpg\n1,h.jpg,q.jpg\n"),
        ("a.csv", "\ufeff,from,to\r\n0,some/g.jpg,p.jpg\r\n\r\n1,h.jpg, q.jpg\r\n"),
        ("a.txt", "g.jpg p.jpg\nh.jpg\tq.jpg\n"),
    ],
)
def test_pair_files_with_and_without_header(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_csv_pairs(tmp_path / name) == [("g.jpg", "p.jpg"), ("h.jpg", "q.jpg")]


def test_boxes_count_rows_first(copied):
    root = copied("street_tryon")
    uncut_inside(root)
    box = root / "validation" / "raw_bbox" / "000015.jpg.json"
    top, bottom, left, right = json.loads(box.read_text())["human_bbox"]
    assert (bottom - top, right - left) == SIZE
    # What reaches beyond the photo is cut off, as an array's slice is; a box that holds nothing of it is refused.
    dataset = data("street_tryon", root).datasets["test"]
    row = next(row for row in dataset.rows if row.id == "000015")
    whole = dataset.open_person(row)
    box.write_text(json.dumps({"human_bbox": [top, bottom + 400, left, right + 400]}))
    assert dataset.open_person(row).size == (whole.width + 9, whole.height + 17)
    box.write_text(json.dumps({"human_bbox": [-7, bottom, -5, right]}))
    assert dataset.open_person(row).size == (right, bottom)
    for nothing in ([bottom, top, left, right], [top + 400, bottom + 400, left, right], [top, bottom, -right, -left]):
        box.write_text(json.dumps({"human_bbox": nothing}))
        with pytest.raises(UserError, match=r"000015\.jpg\.json: rows -?\d+ to -?\d+ and columns .* hold nothing of the photo"):
            dataset.open_person(row)


def drop_images(root):
    for folder in ("train", "validation"):
        shutil.rmtree(root / folder / "image")


def drop_boxes(root):
    uncut_inside(root)
    shutil.rmtree(root / "validation" / "raw_bbox")


def drop_densepose(root):
    shutil.rmtree(root / "validation" / "densepose")


def draw_densepose(root):
    for path in root.glob("validation/densepose/*.png"):
        Image.new("RGB", SIZE[::-1], (0, 0, 200)).save(path)


def spoil_box(root):
    uncut_inside(root)
    (root / "validation" / "raw_bbox" / "000015.jpg.json").write_text('{"human_bbox": [1, 2]}')


def climb(root):
    rewrite(root, "annotations/validation_image_list.txt", lambda text: text + "../../x.jpg\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_images, r"validation/image is missing .* make it with the dataset's script from DeepFashion2"),
        (drop_boxes, "raw_bbox is missing: the photos of .* are uncut"),
        (drop_densepose, "lacks segm_atr_labels or densepose, which masks are made from"),
        (draw_densepose, "holds 200 where DensePose's part numbers end at 24"),
        (spoil_box, r"000015\.jpg\.json: no file with human_bbox of four numbers"),
        (climb, "line 7: '../../x.jpg' leads out"),
        (shutil.rmtree, r"validation_image_list\.txt is missing: data\.root must be"),
    ],
)
def test_a_damaged_street_tryon_is_told_in_one_line(spoil, words, copied):
    root = copied("street_tryon")
    spoil(root)
    with pytest.raises(UserError, match=words) as error:
        samples(data("street_tryon", root))
    assert "\n" not in str(error.value)


def test_street_tryon_trains_nothing_and_names_its_pair_files(rendered):
    with pytest.raises(UserError, match="has no shop images; it serves `test`"):
        data("street_tryon", rendered("street_tryon"), "fit")
    with pytest.raises(
        UserError, match=r"data\.pairs can be: shop2street_test_pairs_top\.csv, street2street_test_pairs_dress\.csv, street"
    ):
        data("street_tryon", rendered("street_tryon"), pairs="none.csv")


# --- all --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dress_code", "street_tryon"])
def test_the_embedded_wardrobe_comes_in_every_layout(layout, cache):
    module = READERS[layout]("wardrobe", people=40, size=(64, 48), batch_size=2, num_workers=0, validation=2)
    module.setup("test")
    assert module.root == embedded_folder(layout, 40, (64, 48), 0) and cache in module.root.parents
    batches = list(module.test_dataloader())
    assert sum(len(batch) for batch in batches) == len(module.datasets["test"]) == 6
    assert all(batch.person.shape[1:] == (3, 64, 48) and batch.mask.dtype == torch.bool for batch in batches)


def blank_mask(root):
    Image.new("L", SIZE[::-1]).save(root / "test" / "agnostic-mask" / "00015_00_mask.png")


def blank_paint(root):
    no_masks(root)
    shutil.copy(root / "test" / "image" / "00015_00.jpg", root / "test" / "agnostic-v3.2" / "00015_00.jpg")


def blank_labels(root):
    number = "000015"
    Image.new("L", SIZE[::-1]).save(root / "validation" / "segm_atr_labels" / f"{number}.png")
    Image.new("RGB", SIZE[::-1]).save(root / "validation" / "densepose" / f"{number}_densepose.png")


@pytest.mark.parametrize(
    ("layout", "spoil", "words"),
    [
        ("viton_hd", blank_mask, r"sample 00015_00: \S+00015_00_mask\.png marks nothing at 128x96"),
        ("viton_hd", blank_paint, r"sample 00015_00: the mask that is made from its painted image \(\S+00015_00\.jpg\) marks nothing"),
        (
            "street_tryon",
            blank_labels,
            r"sample 000015: the mask that is made from its parse and DensePose .* marks nothing",
        ),
    ],
)
def test_a_mask_that_marks_nothing_is_refused_not_taken_for_the_whole_image(layout, spoil, words, copied):
    root = copied(layout)
    spoil(root)
    dataset = data(layout, root).datasets["test"]
    with pytest.raises(UserError, match=words) as error:
        list(dataset)
    assert "\n" not in str(error.value)
    assert dataset[0].mask.any()
