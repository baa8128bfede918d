"""Boxes and pixels: against PIL and open_clip's own transforms, on real photos."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import PHOTOS
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing, ViewRecipe, cut_views
from crossalign.images.decoding import read_image

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


@pytest.mark.parametrize("bad", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_bad_crop_scales_say_so(bad):
    with pytest.raises(InputError, match="crop_scale"):
        ViewRecipe(3, bad, 0)
