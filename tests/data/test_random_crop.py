import numpy as np
import pytest
from PIL import Image

from dedn_hf.data.random_crop import RandomCrop


def gradient(width, height):
    """An image whose red is where a pixel is from left to right, and whose green from top to bottom."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=2).round().astype(np.uint8))


@pytest.mark.parametrize("width, height", [(80, 60), (60, 80), (50, 50), (300, 40), (41, 300), (1, 7)])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_random_crops_are_within_the_image_and_large_enough(width, height, scale):
    shares, shapes, mirrored, crop = [], [], [], RandomCrop(scale)
    image = gradient(width, height)
    for epoch in range(60):
        seen = np.asarray(crop(image, 32, 2, epoch, 7)).astype(float)
        assert seen.shape == (32, 32, 3)
        left, right = seen[:, 0, 0].mean() / 255, seen[:, -1, 0].mean() / 255
        mirrored.append(right < left)
        # Of the centres of the first and last pixels; there are 31 steps between them.
        spans = abs(right - left) * 32 / 31 * width, (seen[-1, 0, 1] - seen[0, 0, 1]) / 255 * 32 / 31 * height
        shares.append(spans[0] * spans[1] / (width * height))
        shapes.append(spans[0] / max(spans[1], 1e-9))
    if min(width, height) < 50:
        return
    slack = 0.12
    assert max(shares) <= 1 + slack and min(shapes) > 3 / 4 - slack and max(shapes) < 4 / 3 + slack
    if max(width, height) / min(width, height) <= 4 / 3:
        assert min(shares) > scale * 3 / 4 - slack
    assert 15 < sum(mirrored) < 45


def test_random_crops_are_those_of_seed_epoch_and_image():
    image = gradient(80, 60)

    def draw(seed=0, epoch=0, image_id=5):
        return np.asarray(RandomCrop(0.3, seed)(image, 16, 2, epoch, image_id))

    np.testing.assert_array_equal(draw(), draw())
    for change in ({"seed": 1}, {"epoch": 1}, {"image_id": 6}):
        assert not np.array_equal(draw(), draw(**change)), change
