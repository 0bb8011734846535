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


@pytest.mark.parametrize(
    "head, kind, message",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF", "it is HEIC; `pip install pillow-heif`, or save it as JPEG"),
        (b"\xff\x0a", "JXL", "it is JPEG XL; `pip install pillow-jxl-plugin`, or save it as JPEG"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "none", "it is AVIF, but damaged"),
        (b"", "none", r"it is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html>", "none", "it is a web page, as a download that failed leaves it"),
        (b"words", "none", "it is no image of a kind that Pillow knows"),
    ],
)
def test_what_cannot_be_read_says_the_way_out(head, kind, message, tmp_path, monkeypatch):
    Image.init()  # what it adds would be gone with the patches
    monkeypatch.delitem(Image.OPEN, kind, raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != kind])
    content = head + bytes(40) * bool(head)
    (tmp_path / "photo.jpg").write_bytes(content)
    with open(tmp_path / "photo.jpg", "rb") as opened:
        for image in (content, tmp_path / "photo.jpg", str(tmp_path / "photo.jpg"), opened):
            with pytest.raises(ValueError, match=message):
                load_any_image(image)


@pytest.mark.parametrize("package, suffix", [("pillow_heif", "heic"), ("pillow_jxl", "jxl")])
def test_formats_of_other_packages(package, suffix, tmp_path):
    pytest.importorskip(package)
    Image.new("RGB", (64, 48), (200, 40, 80)).save(tmp_path / f"photo.{suffix}", quality=95)
    assert np.abs(read(tmp_path / f"photo.{suffix}").astype(int) - [200, 40, 80]).max() < 5
    content = (tmp_path / f"photo.{suffix}").read_bytes()
    with pytest.raises(ValueError, match="damaged"):
        load_any_image(content[: 30 if suffix == "heic" else 10])


def test_too_many_pixels_are_a_sentence(tmp_path, monkeypatch):
    Image.new("L", (100, 50)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="it has 5,000 pixels, and Pillow reads no more than 2,000; scale it down"):
        load_any_image(tmp_path / "huge.png")


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
