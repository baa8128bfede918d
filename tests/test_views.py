"""Boxes and pixels: against PIL and open_clip's own transforms, on real photos."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import PHOTOS
from crossalign.errors import InputError
from crossalign.views import Preprocessing, ViewRecipe, cut_views, read_image

CLIP = Preprocessing((224, 224), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
RECIPE = ViewRecipe(60, (0.1, 0.9), seed=3)


def array(image):
    return np.asarray(image).astype(int)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 99), st.sampled_from([(0.1, 0.9), (0.5, 0.9), (1.0, 1.0)]))
@settings(deadline=None)
def test_boxes_are_squares_inside_the_picture(height, width, index, crop_scale):
    boxes = ViewRecipe(40, crop_scale, 0).boxes(height, width, index)
    left, top, right, bottom = boxes.T
    side = right - left
    assert (side == bottom - top).all()
    assert (side >= 1).all()
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    short = min(height, width)
    assert (side >= np.floor(crop_scale[0] * short)).all()
    assert (side <= max(1, crop_scale[1] * short)).all()


def test_boxes_are_uniform_in_side_and_place():
    boxes = ViewRecipe(40_000, (0.1, 0.9), 0).boxes(1000, 3000)
    side = boxes[:, 2] - boxes[:, 0]
    assert np.quantile(side, [0.01, 0.25, 0.5, 0.75, 0.99]) == pytest.approx([108, 300, 500, 700, 892], abs=12)
    for start, free in ((boxes[:, 0], 3000 - side), (boxes[:, 1], 1000 - side)):
        assert np.quantile(start / free, [0.05, 0.5, 0.95]) == pytest.approx([0.05, 0.5, 0.95], abs=0.012)


def test_boxes_depend_on_seed_and_index_alone():
    first = RECIPE.boxes(300, 400, index=7)
    RECIPE.boxes(300, 400, index=8)
    assert (RECIPE.boxes(300, 400, index=7) == first).all()
    assert (RECIPE.boxes(300, 400, index=8) != first).any()
    assert (ViewRecipe(60, (0.1, 0.9), seed=4).boxes(300, 400, index=7) != first).any()
    assert (ViewRecipe(90, (0.1, 0.9), seed=3).boxes(300, 400, index=7)[:60] == first).all()
    assert len(first) == 60


@pytest.mark.parametrize("name", ["chelsea.png", "rocket.jpg", "coffee.png"])
def test_views_equal_pil_crop_and_resize(name):
    with Image.open(PHOTOS / name) as file:
        image = file.convert("RGB")
    views = cut_views(read_image(PHOTOS / name), RECIPE, CLIP)
    assert views.shape == (61, 3, 224, 224)
    assert views.dtype == torch.uint8
    worst = []
    for box, view in zip(RECIPE.boxes(image.height, image.width), views[1:], strict=True):
        expected = array(image.crop(tuple(box.tolist())).resize((224, 224), Image.Resampling.BICUBIC))
        difference = np.abs(expected - view.permute(1, 2, 0).numpy().astype(int))
        assert difference.mean() <= 1
        worst.append(difference.max())
    assert max(worst) <= 3


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("name", ["chelsea.png", "rocket.jpg"])
def test_the_whole_image_equals_open_clips_own_transform(mode, name):
    from open_clip.transform import image_transform

    theirs = image_transform(
        (224, 224), is_train=False, mean=CLIP.mean, std=CLIP.std, resize_mode=mode, interpolation="bicubic"
    )
    ours = Preprocessing((224, 224), CLIP.mean, CLIP.std, resize=mode)
    with Image.open(PHOTOS / name) as file:
        expected = theirs(file.convert("RGB"))
    pixels = ours.normalise(ours.fit(read_image(PHOTOS / name))[None])[0]
    difference = (pixels - expected).abs() * torch.tensor(CLIP.std).view(3, 1, 1) * 255
    assert difference.mean() <= 1
    assert difference.max() <= 3.01


def test_normalise_takes_bytes_and_floats_alike():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(CLIP.normalise(pixels), CLIP.normalise(pixels / 255))
    expected = (pixels[1, 2, 3, 0] / 255 - CLIP.mean[2]) / CLIP.std[2]
    assert CLIP.normalise(pixels)[1, 2, 3, 0].item() == pytest.approx(expected.item(), abs=1e-6)


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


def test_a_picture_of_one_pixel_has_views():
    views = cut_views(read_image(np.full((1, 1, 3), 77, np.uint8)), RECIPE, CLIP)
    assert views.shape == (61, 3, 224, 224)
    assert (views == 77).all()


def test_a_very_long_picture_has_views():
    views = cut_views(read_image(np.full((3, 2000, 3), 9, np.uint8)), RECIPE, CLIP)
    assert (views == 9).all()


def test_a_thin_strip_is_not_blown_up():
    views = cut_views(read_image(np.full((1, 40_000, 3), 9, np.uint8)), ViewRecipe(1, (0.1, 0.9), 0), CLIP)
    assert views.shape == (2, 3, 224, 224)
    assert (views == 9).all()


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
    with pytest.raises(InputError, match="is no picture"):
        read_image(bad)


@pytest.mark.parametrize("bad", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_bad_crop_scales_say_so(bad):
    with pytest.raises(InputError, match="crop_scale"):
        ViewRecipe(3, bad, 0)
