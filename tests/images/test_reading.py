import numpy as np
import pytest
from PIL import Image

from conftest import PHOTOS
from crossalign.errors import InputError
from crossalign.images.decoding import read_image


def array(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def photo():
    with Image.open(PHOTOS / "chelsea.png") as file:
        return file.convert("RGB")


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path, photo, orientation):
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Transpose that a viewer undoes, by EXIF orientation
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = photo.transpose(Image.Transpose(inverse[turned[orientation]])) if orientation > 1 else photo
    seen = read_image(saved(tmp_path, stored, "a.png", exif=exif))
    assert (seen.permute(1, 2, 0).numpy() == np.asarray(photo)).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "YCbCr", "LA"])
def test_modes_come_out_as_pil_shows_them(tmp_path, photo, mode):
    image = photo.convert("L").convert(mode) if mode in ("L", "1", "LA") else photo.convert(mode)
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    path = saved(tmp_path, image, f"a.{suffix}")
    with Image.open(path) as file:
        expected = array(file.convert("RGB"))
    assert np.abs(read_image(path).permute(1, 2, 0).numpy() - expected).max() == 0


def test_sixteen_bits_are_scaled_not_clipped(tmp_path, photo):
    grey = array(photo.convert("L"))
    deep = Image.fromarray((grey * 257).astype(np.uint16))
    seen = read_image(saved(tmp_path, deep, "deep.png"))
    assert np.abs(seen[0].numpy().astype(int) - grey).max() <= 1
    assert np.abs(read_image((grey * 257).astype(np.uint16))[2].numpy().astype(int) - grey).max() <= 1


def test_floats_are_scaled(photo):
    grey = np.asarray(photo.convert("L")).astype(np.float32) / 255
    assert (read_image(Image.fromarray(grey))[1].numpy() == np.asarray(photo.convert("L"))).all()
    assert (read_image(np.asarray(photo) / 255.0).permute(1, 2, 0).numpy() == np.asarray(photo)).all()


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_is_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 4, 8))
    if mode == "P":
        image = image.quantize(4)
    seen = read_image(saved(tmp_path, image, "a.png"))
    assert seen[:, 4, 1].tolist() == [255, 255, 255]
    assert seen[:, 4, 6].tolist() == [200, 0, 0]


def test_broken_pictures_say_why(tmp_path, photo):
    whole = saved(tmp_path, photo, "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<html></html>")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "empty.jpg", "page.jpg"):
        with pytest.raises(InputError, match=f"{name}.*cannot be read.*replace it"):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "folder.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, photo):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(saved(tmp_path, photo, "bomb.png"))


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 5), np.uint8), np.zeros(3, np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_pictures_say_so(bad):
    with pytest.raises(InputError, match="is no image"):
        read_image(bad)
