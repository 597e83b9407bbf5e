"""Reading images, masks and labels, including hostile ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen.data.images import image_size, read_image, read_labels, read_mask
from fashiongen.errors import UserError


def gradient(height, width):
    """An image whose red grows to the right and whose green grows downwards."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


def test_an_image_is_read_whole_and_in_rgb(tmp_path):
    Image.fromarray(gradient(12, 8)).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", (12, 8))
    assert read.dtype == torch.uint8 and read.is_contiguous()
    assert np.array_equal(read.permute(1, 2, 0).numpy(), gradient(12, 8))
    assert read_image(tmp_path / "a.png", (6, 4)).shape == (3, 6, 4)


def test_reducing_averages_instead_of_dropping_pixels(tmp_path):
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)).save(tmp_path / "board.png")
    read = read_image(tmp_path / "board.png", (8, 8)).int()
    assert (read - 127).abs().max() <= 4


@pytest.mark.parametrize("filter", ["bilinear", "lanczos"])
def test_the_filter_of_reading_is_pillows(tmp_path, filter):
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    expected = Image.fromarray(noise).resize((18, 24), {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}[filter])
    assert np.array_equal(read_image(tmp_path / "noise.png", (24, 18), filter).permute(1, 2, 0).numpy(), np.asarray(expected))
    if filter == "bilinear":
        assert torch.equal(read_image(tmp_path / "noise.png", (24, 18)), read_image(tmp_path / "noise.png", (24, 18), filter))


def test_a_photo_that_lies_on_its_side_is_turned(tmp_path):
    image = Image.fromarray(gradient(12, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert image_size(tmp_path / "side.png") == (12, 8)
    assert np.array_equal(read_image(tmp_path / "side.png", (12, 8)).permute(1, 2, 0).numpy(), gradient(12, 8))


def test_masks_and_labels_that_lie_on_their_side_are_turned_as_the_photo_is(tmp_path):
    values = np.zeros((12, 8), np.uint8)
    values[:3, :5] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "side.png", (12, 8))[0].numpy(), values > 0)
    assert np.array_equal(read_labels(tmp_path / "side.png", (12, 8)).numpy(), values)
    assert image_size(tmp_path / "side.png") == (12, 8)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_any_colour_mode_is_read(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(gradient(12, 8)).convert(mode).save(path)
    assert read_image(path, (6, 4)).shape == (3, 6, 4)


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (4, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", (6, 4)) == 255).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_file_that_is_cut_off_is_named_in_one_line(tmp_path, ending, share):
    path = tmp_path / f"cut.{ending}"
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for read in (read_image, read_mask, read_labels):
        with pytest.raises(UserError, match=r"cut\.") as error:
            read(path, (8, 8))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n garbage", b"\xff\xd8\xff\xe0 garbage"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.png is truncated, damaged or not an image"):
        read_image(tmp_path / "text.png", (8, 8))
    with pytest.raises(UserError, match=r"none\.png is missing"):
        read_image(tmp_path / "none.png", (8, 8))


def test_flipped_bytes_raise_only_a_user_error(tmp_path):
    generator = np.random.default_rng(0)
    for ending in ("png", "jpg"):
        path = tmp_path / f"noise.{ending}"
        Image.fromarray(generator.integers(0, 256, (20, 15, 3), np.uint8)).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            broken = content.copy()
            broken[generator.integers(0, len(broken), 3)] = generator.integers(0, 256, 3)
            path.write_bytes(broken.tobytes())
            try:
                read_image(path, (8, 8))
            except UserError as error:
                assert path.name in str(error)


def test_masks_are_cut_at_128_without_grey_borders(tmp_path):
    grey = np.array([[0, 127, 128, 255]], np.uint8).repeat(4, axis=0)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (4, 4))[0, 0].tolist() == [False, False, True, True]
    noise = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    large = read_mask(tmp_path / "noise.png", (27, 21))
    assert large.dtype == torch.bool and large.shape == (1, 27, 21)
    assert np.array_equal(large[0].numpy(), (noise >= 128).repeat(3, axis=0).repeat(3, axis=1))


def test_labels_keep_the_palettes_indices(tmp_path):
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([255, 0, 7] * 256)
    image.putdata(labels.flatten().tolist())
    image.save(tmp_path / "parse.png")
    assert read_labels(tmp_path / "parse.png", (4, 5)).tolist() == labels.tolist()
    assert set(read_labels(tmp_path / "parse.png", (37, 23)).unique().tolist()) <= set(range(20))
    Image.fromarray(gradient(4, 5)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png: label maps hold one index per pixel"):
        read_labels(tmp_path / "rgb.png", (4, 5))


def test_real_photos_are_read(shared_data):
    photos = sorted((shared_data / "viton_hd_sample").rglob("*.jpg"))
    assert len(photos) == 10
    for photo in photos:
        assert image_size(photo) == (1024, 768)
        assert read_image(photo, (64, 48)).float().std() > 5
