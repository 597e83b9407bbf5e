"""The gallery: the same samples for every row, next to the records' inputs and ground truth."""

import base64
import io
import json

from bench_folder import write_test
from PIL import Image

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.webpage import page


def shown(folder):
    """The gallery of a folder's only board, as the page shows it."""
    text = page(read(folder), folder / "board.html")
    content = json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    return content["boards"][0]["gallery"]


def colour(address):
    """The colour in the centre of an image of the size drawn by `bench_folder.image`."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (48, 64)
        return image.convert("RGB").getpixel((24, 32))


def change(folder, **fields):
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | fields))


def test_lost_images_neither_empty_the_gallery_nor_shift_its_truth(tmp_path):
    """The first sample's image of one method is gone, and all of another's."""
    for recipe in ("a.yaml", "b.yaml", "c.yaml"):
        folder = write_test(tmp_path, recipe, {"ssim": 0.5}, images=3) / "record.images"
        for file in sorted(folder.glob("*.png"))[: {"a.yaml": 1, "b.yaml": 0, "c.yaml": 3}[recipe]]:
            file.unlink()
    gallery = shown(tmp_path)
    assert (gallery["columns"], gallery["without"]) == (["input", "truth", "a", "b"], ["c"])
    assert [line["id"] for line in gallery["lines"]] == ["00001_00", "00002_00"]
    for row, line in enumerate(gallery["lines"], start=1):
        assert [colour(address) for address in line["images"][:2]] == [(shade, 20 * row, 255 - shade) for shade in (10, 160)]


def test_the_first_record_that_has_headings_names_the_columns(tmp_path):
    """Any headings of any task, in the record's order; a file that one record has lost is taken from the next."""
    first, second, third = (write_test(tmp_path, f"{name}.yaml", {"ssim": 0.5}, images=3) for name in "abc")
    change(first, gallery={})
    change(second, gallery={"given items": "record.gallery/truth", "nothing": "record.gallery/absent", "astray": "../../../secret"})
    change(third, gallery={"given items": "record.gallery/truth", "other": "record.gallery/input"})
    (tmp_path / "secret").mkdir()
    for file in (second / "record.gallery" / "truth").glob("*.png"):
        (tmp_path / "secret" / file.name).write_bytes(file.read_bytes())  # lies outside the record's folder, and is not shown
    (second / "record.gallery" / "truth" / "00001_00.png").unlink()
    gallery = shown(tmp_path)
    assert gallery["columns"] == ["given items", "a", "b", "c"] and gallery["seeds"] == [None, 0, 0, 0]
    assert [colour(line["images"][0]) for line in gallery["lines"]] == [(160, 20 * row, 95) for row in range(3)]


def test_older_records_show_only_their_images(tmp_path):
    for name in "ab":
        change(write_test(tmp_path, f"{name}.yaml", {"ssim": 0.5}, images=2), gallery={})
    gallery = shown(tmp_path)
    assert gallery["columns"] == ["a", "b"] and len(gallery["lines"]) == 2
