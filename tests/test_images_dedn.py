"""What is read of files as people have them: the same picture, whatever its numbers are stored in."""

import numpy as np
import pytest
import transformers
from PIL import Image

from dedn_hf.images_dedn import load_any_image

GREYS = np.linspace(0, 255, 12 * 16).reshape(12, 16).round().astype(np.uint8)
COLORS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def read(path) -> np.ndarray:
    image = load_any_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    "name, values",
    [
        ("16.png", GREYS.astype(np.uint16) * 257),
        ("16.tif", GREYS.astype(np.uint16) * 257),
        ("float.tif", GREYS.astype(np.float32) / 255),
        ("8.png", GREYS),
    ],
)
def test_greys(name, values, tmp_path):
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), np.repeat(GREYS[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "values, message",
    [
        (GREYS.astype(np.int32) * 1000, "32-bit integers, here from 0 to 255000, is not known; save it with 8 or 16"),
        (GREYS.astype(np.float32), "floats beyond 0 to 1, here from 0 to 255, is not known"),
        (GREYS.astype(np.float32) / 255 - 0.5, "floats beyond 0 to 1, here from -0.5 to 0.5"),
    ],
)
def test_greys_of_no_certain_meaning(values, message, tmp_path):
    Image.fromarray(values).save(tmp_path / "grey.tif")
    with pytest.raises(ValueError, match=message):
        load_any_image(tmp_path / "grey.tif")


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.full((12, 16), 255, dtype=np.uint8)
    alpha[:, :8] = 0
    expected = COLORS.copy()
    expected[:, :8] = 255
    image = Image.fromarray(np.dstack([COLORS, alpha]))
    image.save(tmp_path / "rgba.png")
    assert np.array_equal(read(tmp_path / "rgba.png"), expected)
    image.convert("LA").save(tmp_path / "la.png")
    assert (read(tmp_path / "la.png")[:, :8] == 255).all() and (read(tmp_path / "la.png")[:, 8:] < 255).any()
    # A palette whose first colour, black, is transparent.
    palette = Image.new("P", (16, 12), 0)
    palette.putpalette([0, 0, 0, 200, 10, 20])
    palette.paste(1, (8, 0, 16, 12))
    palette.save(tmp_path / "palette.png", transparency=0)
    pixels = read(tmp_path / "palette.png")
    assert (pixels[:, :8] == 255).all() and (pixels[:, 8:] == [200, 10, 20]).all()


def test_cmyk_and_orientation(tmp_path):
    Image.fromarray(COLORS).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.abs(read(tmp_path / "cmyk.tif").astype(int) - COLORS).max() < 3
    exif = Image.Exif()
    exif[274] = 6  # turned to the right to be upright
    for name, values in (("turned.png", GREYS), ("turned16.png", GREYS.astype(np.uint16) * 257)):
        Image.fromarray(values).save(tmp_path / name, exif=exif)
        assert np.array_equal(read(tmp_path / name)[..., 0], np.rot90(GREYS, -1)), name
    Image.fromarray(np.dstack([COLORS, GREYS])).save(tmp_path / "transparent.png", exif=exif)
    assert read(tmp_path / "transparent.png").shape == (16, 12, 3)


def test_the_first_of_several_frames_is_taken_and_said(tmp_path, caplog):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    transformers.logging.enable_propagation()
    try:
        for name in ("moving.gif", "pages.tif", "moving.webp", "moving.png"):
            frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
            caplog.clear()
            pixels = read(tmp_path / name)
            assert (np.abs(pixels.astype(int) - [255, 0, 0]) < 10).all(), name
            assert f"{name} has 3 frames: the first is taken" in caplog.text
            caplog.clear()
            load_any_image({"path": str(tmp_path / name), "bytes": (tmp_path / name).read_bytes()})
            assert f"{name} has 3 frames: the first is taken" in caplog.text
        frames[0].save(tmp_path / "telephone.mpo", save_all=True, append_images=frames[1:])
        caplog.clear()
        read(tmp_path / "telephone.mpo")
        assert not caplog.text
    finally:
        transformers.logging.disable_propagation()
