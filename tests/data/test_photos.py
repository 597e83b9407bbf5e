"""The user's own photos: boxes and masks, framing, and five real ones through `predict`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen.cli import main
from fashiongen.data import Photos
from fashiongen.data.photos import Box, framed
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[2]
SIZE = (64, 48)


def photo(path, width=48, height=64, garment=None, exif=None):
    """A grey photo with the garment in red."""
    image = Image.new("RGB", (width, height), (100, 100, 100))
    if garment:
        image.paste((255, 0, 0), garment)
    image.save(path, **({"exif": exif} if exif else {}))


def boxes(root, *lines, header="name,left,top,right,bottom,category"):
    (root / "boxes.csv").write_text("\n".join([header, *lines]) + "\n")


def samples(root, **options):
    data = Photos(str(root), **{"size": SIZE, **options})
    data.setup("predict")
    return [sample for batch in data.predict_dataloader() for sample in (batch.select([index]) for index in range(len(batch)))]


def red(sample):
    return (sample.person[0, 0].int() - sample.person[0, 1].int()) > 100


def test_a_box_is_the_mask_and_its_line_gives_the_category(tmp_path):
    photo(tmp_path / "a.png", garment=(10, 20, 30, 50))
    photo(tmp_path / "b.jpg")
    (tmp_path / ".hidden.jpg").write_text("")
    (tmp_path / "notes.txt").write_text("passed over")
    boxes(tmp_path, "b.jpg, 0, 0, 48, 64, full", "a.png,10,20,30,50,")
    a, b = samples(tmp_path, category="lower")
    assert (a.ids, b.ids) == (["a"], ["b"])
    assert (a.category, b.category) == (["lower"], ["full"])
    assert a.person.shape == (1, 3, *SIZE) and a.person.dtype == torch.uint8
    assert a.mask.shape == (1, 1, *SIZE) and a.mask.dtype == torch.bool
    assert torch.equal(a.mask[0, 0], red(a)) and int(a.mask.sum()) == 20 * 30
    assert b.mask.all()
    assert a.garment is None and a.parse is None


def test_a_mask_next_to_the_photo_works_as_well(tmp_path):
    photo(tmp_path / "a.png", garment=(12, 20, 30, 50))
    mask = Image.new("L", (48, 64))
    mask.paste(255, (12, 20, 30, 50))
    mask.resize((24, 32), Image.Resampling.NEAREST).save(tmp_path / "a_mask.png")
    (sample,) = samples(tmp_path)
    assert torch.equal(sample.mask[0, 0], red(sample)) and sample.category == ["upper"]
    boxes(tmp_path, "a.png,,,,,full")
    (sample,) = samples(tmp_path)
    assert torch.equal(sample.mask[0, 0], red(sample)) and sample.category == ["full"]
    boxes(tmp_path, "a.png,0,0,5,5,full")  # a drawn box wins
    assert int(samples(tmp_path)[0].mask.sum()) == 25


def test_a_masks_name_may_end_in_capitals(tmp_path):
    photo(tmp_path / "A.PNG", garment=(12, 20, 30, 50))
    mask = Image.new("L", (48, 64))
    mask.paste(255, (12, 20, 30, 50))
    mask.save(tmp_path / "A_MASK.PNG")
    (sample,) = samples(tmp_path)
    assert sample.ids == ["A"] and torch.equal(sample.mask[0, 0], red(sample))
    mask.save(tmp_path / "A_mask.png")
    with pytest.raises(UserError, match=r"A_MASK\.PNG and A_mask\.png are masks of the same photo"):
        samples(tmp_path)


def test_a_mask_is_turned_upright_as_its_photo_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, mask = Image.new("RGB", (48, 64), (100, 100, 100)), Image.new("L", (48, 64))
    upright.paste((255, 0, 0), (10, 20, 30, 50))
    mask.paste(255, (10, 20, 30, 50))
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    mask.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a_mask.png", exif=exif)
    (sample,) = samples(tmp_path)
    assert torch.equal(sample.mask[0, 0], red(sample)) and red(sample).any()


def test_a_mask_without_its_photo_is_not_passed_over(tmp_path):
    photo(tmp_path / "a.png")
    boxes(tmp_path, "a.png,1,2,30,40,")
    for name in ("b", "c"):
        Image.new("L", (48, 64), 255).save(tmp_path / f"{name}_mask.png")
    with pytest.raises(UserError, match=r"b_mask\.png and 1 more: there is no photo b for this mask"):
        samples(tmp_path)


def test_a_box_is_of_the_upright_photo(tmp_path):
    upright = Image.new("RGB", (48, 64), (100, 100, 100))
    upright.paste((255, 0, 0), (10, 20, 30, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    boxes(tmp_path, "a.png,10,20,30,50,upper")
    (sample,) = samples(tmp_path)
    assert torch.equal(sample.mask[0, 0], red(sample)) and red(sample).any()


@pytest.mark.parametrize(("width", "height"), [(400, 100), (100, 400), (333, 333), (96, 128)])
def test_any_proportion_is_padded_with_white_never_squeezed(tmp_path, width, height):
    garment = (width // 2 - 20, height // 2 - 20, width // 2 + 20, height // 2 + 20)
    photo(tmp_path / "a.png", width, height, garment)
    boxes(tmp_path, f"a.png,{','.join(map(str, garment))},")
    (sample,) = samples(tmp_path, size=(256, 192))
    rows, columns = red(sample).nonzero().T
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 2
    assert (sample.mask[0, 0] ^ red(sample)).sum() <= 4 * len(rows) ** 0.5 * 2
    scale = min(256 / height, 192 / width)
    padded = (sample.person[0] == 255).all(dim=0)
    assert (~padded).sum().item() == pytest.approx(height * width * scale**2, rel=0.05)
    assert padded.any() == ((width, height) != (96, 128))


def test_a_frame_about_the_garment(tmp_path):
    photo(tmp_path / "a.png", 300, 400, (100, 40, 160, 120))
    boxes(tmp_path, "a.png,100,40,160,120,")
    (sample,) = samples(tmp_path, size=(128, 96), garment_share=0.5)
    rows, columns = sample.mask[0, 0].nonzero().T
    assert rows.max() - rows.min() + 1 == 64 and columns.max() - columns.min() + 1 == 48
    assert (sample.mask[0, 0] ^ red(sample)).sum() <= 64
    assert not (sample.person[0] == 255).all(dim=0).any(), "the photo goes on there: no need to pad"


def test_frames():
    assert framed(Box(10, 10, 20, 20), (64, 48), (64, 48), None) == (0, 0, 48, 64)
    assert framed(Box(10, 10, 20, 20), (64, 96), (64, 48), None) == (0, -32, 96, 96)
    assert framed(Box(0, 0, 20, 20), (64, 48), (64, 48), 0.5) == (0, 0, 30, 40)
    assert framed(Box(0, 0, 48, 20), (64, 48), (64, 48), 0.5) == (0, 0, 48, 64), "wide garments fit too"
    for share in (0.1, 0.5, 1.0):
        frame = framed(Box(3, 50, 40, 60), (64, 48), (64, 48), share)
        assert frame.left <= 3 and frame.top <= 50 and frame.right >= 40 and frame.bottom >= 60


def test_a_box_that_reaches_out_is_clipped(tmp_path):
    photo(tmp_path / "a.png")
    boxes(tmp_path, "a.png,-5,-5.5,1000,10,")
    assert samples(tmp_path)[0].mask[0, 0].nonzero().amax(dim=0).tolist() == [9, 47]


def test_a_too_small_box_is_an_error(tmp_path):
    photo(tmp_path / "a.png", 960, 1280)
    boxes(tmp_path, "a.png,9,9,10,10,")
    with pytest.raises(UserError, match=r"the box of \S*a\.png marks less than a pixel at 64x48: enlarge it"):
        samples(tmp_path)
    assert samples(tmp_path, garment_share=0.5)[0].mask.any()


MISTAKES = {
    "no box": ([], r"1 of 1 photos of .* have neither a box nor a mask, first a\.png: add a line such as `a\.png,LEFT"),
    "blank box": (["a.png,,,,,upper"], "neither a box nor a mask"),
    "another photo": (["b.png,1,2,3,4,"], r"boxes\.csv, line 2: no photo 'b\.png'"),
    "outside": (["../a.png,1,2,3,4,"], r"line 2: no photo '\.\./a\.png'"),
    "twice": (["a.png,1,2,3,4,", "a.png,1,2,3,4,"], r"line 3: a second line for a\.png"),
    "category": (["a.png,1,2,3,4,hat"], r"line 2: category 'hat': unknown; choose among upper, lower, full"),
    "words": (["a.png,one,2,3,4,"], r"line 2: left, top, right, bottom must be numbers of pixels, not one, 2, 3, 4"),
    "three": (["a.png,1,2,3"], "must be numbers"),
    "nan": (["a.png,1,2,nan,4,"], "must be numbers"),
    "infinite": (["a.png,1,2,inf,4,"], "must be numbers"),
    "reversed": (["a.png,30,2,3,4,"], r"boxes\.csv: the box of a\.png is empty \(30, 2, 3, 4\): left must be less than right"),
    "off": (["a.png,50,2,60,4,"], r"lies outside of the photo, which is 48 wide and 64 high"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_boxes_are_errors_with_their_line(mistake, tmp_path):
    lines, words = MISTAKES[mistake]
    photo(tmp_path / "a.png")
    boxes(tmp_path, *lines)
    with pytest.raises(UserError, match=words) as error:
        samples(tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_a_table_of_boxes(tmp_path):
    photo(tmp_path / "a.png")
    boxes(tmp_path, "a.png;1;2;3;4", header="name;left;top;right;bottom")
    with pytest.raises(UserError, match=r"boxes\.csv: has no column name, left"):
        samples(tmp_path)
    (tmp_path / "boxes.csv").write_bytes(b"name,left,top,right,bottom\n\xff.png,1,2,3,4\n")
    with pytest.raises(UserError, match=r"boxes\.csv: not a comma-separated table in UTF-8"):
        samples(tmp_path)
    (tmp_path / "boxes.csv").write_bytes(b"\xef\xbb\xbfname,left,top,right,bottom\r\na.png,1,2,3,4\r\n")
    assert samples(tmp_path)[0].mask.sum() == 4


def test_impossible_folders_and_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        samples(tmp_path / "absent")
    with pytest.raises(UserError, match="contains no photo"):
        samples(tmp_path)
    photo(tmp_path / "a.png")
    Image.new("L", (64, 48)).save(tmp_path / "a_mask.png")
    with pytest.raises(UserError, match=r"a_mask\.png is 64x48, with another aspect ratio than a\.png \(48x64\)"):
        samples(tmp_path)
    Image.new("L", (48, 64)).save(tmp_path / "a_mask.png")
    with pytest.raises(UserError, match=r"a_mask\.png is completely black"):
        samples(tmp_path)
    photo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg, a\.png would share a name in the output"):
        samples(tmp_path)
    for options in ({"garment_share": 0}, {"garment_share": 1.5}, {"category": "hat"}, {"batch_size": 0}):
        with pytest.raises(UserError):
            Photos(str(tmp_path), **options)
    with pytest.raises(UserError, match="fashiongen predict"):
        Photos(str(tmp_path)).setup("fit")


def predict(root, out, *options):
    recipe = ROOT / "recipes" / "tiny" / "igr.yaml"
    main(["predict", "--config", str(recipe), "--data", "fashiongen.data.Photos", "--data.root", str(root), "--out", str(out), *options])


def test_real_photos_go_through_predict(shared_data, tmp_path):
    """Untrained except for the shipped tiny weights: each photo gives one image, named after it."""
    root = tmp_path / "photos"
    shutil.copytree(shared_data / "viton_hd_sample" / "test" / "image", root)
    names = sorted(path.stem for path in root.iterdir())
    assert len(names) == 5
    boxes(root, *(f"{name}.jpg,150,250,620,900,upper" for name in names))
    predict(root, tmp_path / "out", "--data.size", "[128,96]", "--model.init_args.steps", "2")
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    images = [np.asarray(Image.open(path)) for path in written]
    assert {image.shape for image in images} == {(128, 96, 3)}
    assert min(image.std() for image in images) > 5
    assert len({image.tobytes() for image in images}) == 5


def test_photos_of_any_kind_and_without_truth_go_through_the_command_line(tmp_path, capsys):
    root = tmp_path / "photos"
    root.mkdir()
    photo(root / "wide.webp", 90, 40)
    photo(root / "tall.gif", 30, 90)
    boxes(root, "wide.webp,10,5,60,35,upper", "tall.gif,1,1,20,60,full")
    predict(root, tmp_path / "out", "--model.init_args.steps", "1", "--data.garment_share", "0.6")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tall.png", "wide.png"]
    recipe = ["--config", str(ROOT / "recipes" / "tiny" / "igr.yaml"), "--data", "fashiongen.data.Photos", "--data.root", str(root)]
    capsys.readouterr()
    for command in ("fit", "test"):
        with pytest.raises(SystemExit) as stop:
            main([command, *recipe])
        assert stop.value.code == 2
        assert f"photos: {root} has no ground truth to train on or to test against" in capsys.readouterr().err
