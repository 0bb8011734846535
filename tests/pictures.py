"""Looking at figures that were written."""

import itertools

import numpy as np
from PIL import Image

SEEN_BLUE, UNSEEN_ORANGE = (0x1F, 0x5A, 0x94), (0xE0, 0x82, 0x14)


def read(path):
    """The figure as an array, checked to be a whole PNG, and alone in its folder."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert pixels.shape[1] == 1200
    return pixels


def count(pixels, color):
    """Pixels of nearly this colour."""
    return int((np.abs(pixels - np.array(color)).max(axis=2) < 12).sum())


def assert_texts_are_apart(figure, texts):
    """Each of them within the picture, and none on another."""
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    width, _ = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
