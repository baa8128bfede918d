"""Crops as matrix products, against torch's own antialiased kernel."""

import numpy as np
import pytest
import torch

from conftest import PHOTOS
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_boxes
from crossalign.images.decoding import read_image
from crossalign.images.resample import KERNELS, resample


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize("size", [32, 224])
def test_it_is_torchs_kernel_within_rounding(interpolation, size):
    image = read_image(PHOTOS / "coffee.png")[:, :150, :260]
    boxes = ViewRecipe(12, (0.1, 0.9), 0).boxes(*image.shape[1:])
    preprocessing = Preprocessing((size, size), (0.5,) * 3, (0.5,) * 3, interpolation)
    expected = crop_boxes(image, boxes, preprocessing).int()
    found = resample(image, boxes, size, interpolation)
    assert found.dtype == torch.uint8
    difference = (found.int() - expected).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.1


def test_edges_of_a_box_see_nothing_beyond_it():
    image = torch.zeros((3, 40, 40), dtype=torch.uint8)
    image[:, 10:20, 10:20] = 200
    found = resample(image, np.array([[10, 10, 20, 20]]), 8, "bicubic")
    assert (found == 200).all()


def test_one_pixel_fills_a_view():
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).expand(3, 3, 4)
    assert (resample(image, np.array([[2, 1, 3, 2]]), 5, "bilinear") == 6).all()
