"""Which file belongs to which sample, by the names that public code gives to its results."""

from pathlib import Path

import pytest
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.evaluation.folder import find_images, inspect, match
from fashiongen.evaluation.judge import fit

# As VITON-HD's: a person and its garment share a name, and an unpaired test gives the person the next one's garment.
PEOPLE = [f"0000{index}_00" for index in range(1, 6)]
VITON = {id_: {"input": id_, "own": id_, "other": PEOPLE[(index + 1) % 5]} for index, id_ in enumerate(PEOPLE)}
# As Dress Code's: ids carry the category, a garment has a name of its own.
DRESS = {f"upper_body_01{index}_0": {"input": f"01{index}_0", "own": f"01{index}_1", "other": f"01{9 - index}_1"} for index in range(3)}


def named(*stems, ending=".png"):
    return [Path(f"results/{stem}{ending}") for stem in stems]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPG", ".jpeg"])
@pytest.mark.parametrize(
    ("names", "stems", "naming"),
    [
        (VITON, PEOPLE, "id"),
        (DRESS, list(DRESS), "id"),
        (DRESS, [entry["input"] for entry in DRESS.values()], "id"),
        (DRESS, [entry["own"] for entry in DRESS.values()], "garment"),
        (VITON, [f"{id_}_{VITON[id_]['other']}" for id_ in PEOPLE], "person_garment"),
        (VITON, [f"{VITON[id_]['other']}_{id_}" for id_ in PEOPLE], "garment_person"),
        (VITON, [f"{id_}.jpg_{VITON[id_]['other']}.jpg" for id_ in PEOPLE], "person_garment"),
        (VITON, [f"{id_}___{VITON[id_]['other']}" for id_ in PEOPLE], "person_garment"),
        (VITON, [f"{id_}_{id_}" for id_ in PEOPLE], "person_garment"),
        (DRESS, [f"{entry['input']}-{entry['own']}" for entry in DRESS.values()], "person_garment"),
        (DRESS, [f"{entry['own']}__{entry['input']}" for entry in DRESS.values()], "garment_person"),
    ],
)
def test_names_of_public_code_are_understood(names, stems, naming, ending):
    found = match(named(*stems, ending=ending), names)
    assert (found.naming, found.missing, found.extra) == (naming, [], [])
    assert {id_: file.stem for id_, file in found.files.items()} == dict(zip(names, stems, strict=True))


def test_missing_and_extra_files_are_counted():
    found = match(named("00001_00", "grid", "00003_00"), VITON)
    assert found.missing == ["00002_00", "00004_00", "00005_00"] and found.extra == named("grid")


def test_the_garments_in_the_names_are_compared_with_those_of_the_data():
    stems = ["00001_00_00001_00", "00002_00_00003_00", "00003_00_77777_00"]
    assert match(named(*stems), VITON, "person_garment").garments == {"own": 1, "other": 1, "unknown": 1}
    assert not match(named(*PEOPLE), VITON).garments


@pytest.mark.parametrize(
    ("names", "stems", "says"),
    [
        (
            VITON,
            ["a", "b"],
            r"no file of results is named after a sample by their ids, .*: there is a\.png, the test's first sample is 00001_00",
        ),
        (VITON, ["00001_00_00003_00", "00003_00_00001_00"], r"as person_garment and as garment_person: say which by --names"),
        (
            DRESS | {"lower_body_010_0": DRESS["upper_body_010_0"]},
            ["010_0"],
            r"010_0\.png: the name fits several samples, such as upper_body_010_0 and lower",
        ),
    ],
)
def test_names_that_can_be_read_in_two_ways_are_refused(names, stems, says):
    with pytest.raises(UserError, match=says):
        match(named(*stems), names)


@pytest.mark.parametrize("second", [Path("results/00001_00.jpg"), Path("results/00001_00_00002_00.png")])
def test_two_files_of_one_sample_are_refused(second):
    files, names = [Path("results/00001_00.png"), second], {"00001_00": {"own": "00002_00"}}
    if second.suffix == ".png":
        files[0] = Path("results/00001_00-00002_00.png")
    with pytest.raises(UserError, match=r"results: 2 files belong to the sample 00001_00: 00001_00.*, .*; leave one"):
        match(files, names)


def test_a_stated_naming_settles_the_order():
    stems = ["00001_00_00003_00", "00003_00_00001_00"]
    found = match(named(*stems), VITON, "garment_person")
    assert {id_: file.stem for id_, file in found.files.items()} == {"00003_00": stems[0], "00001_00": stems[1]}


def test_files_are_inspected_by_their_content(tmp_path):
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.png", "JPEG"), ("d.jpg", "PNG")):
        Image.new("RGB", (6, 8), "red").save(tmp_path / name, format=kind)
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "notes.txt").write_text("")
    files = find_images(tmp_path)
    assert [file.name for file in files] == ["a.png", "b.JPG", "c.png", "d.jpg"]
    found = inspect(files)
    assert [one.lossy for one in found] == [False, True, True, False] and {one.size for one in found} == {(8, 6)}
    assert found[0].sha256 == found[3].sha256 != found[1].sha256


def test_an_image_covers_the_size_and_is_cropped_at_its_center():
    image = Image.new("RGB", (512, 512), "white")
    image.paste("red", (64, 0, 448, 512))  # what a center crop to 3:4 keeps
    covering = fit(image, (1024, 768), "cover")
    assert covering.size == (768, 1024) and covering.getpixel((20, 500)) == covering.getpixel((747, 500)) == (255, 0, 0)
    assert fit(image, (1024, 768), "stretch") is image and fit(image, (512, 512), "cover") is image
