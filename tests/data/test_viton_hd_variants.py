"""The variants of VITON-HD found in practice, made from a rendered folder by renaming, rewriting and removing files."""

import json
import shutil

import pytest
import torch
from tryon_folders import HELD_OUT, TEST, TRAIN, data, into_archive, no_masks, rename, rewrite, samples, worn

from fashiongen.errors import UserError


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


def test_a_clean_split_does_not_need_the_files_that_tryoffdiffs_script_deletes(copied, tmp_path):
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
        ("[]", "not a list of duplicates"),
        ('{"test": ["a.jpg"]}', "not a list of duplicates"),
        ('{"test": {"duplicates": "a.jpg"}}', "not a list of duplicates"),
        ('{"test": {"duplicates": [1]}}', "not a list of duplicates"),
        ("[" * 9999, "not a list of duplicates"),
        ('{"test": {"duplicates": ["a.jpg"]}}', "none of its test names is in"),
    ],
)
def test_a_list_of_duplicates_of_another_form_is_refused(content, words, rendered, tmp_path):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UserError, match=words):
        data("viton_hd", rendered("viton_hd"), duplicates=str(tmp_path / "d.json"))
