import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dedn_hf.data import image_check
from dedn_hf.data.image_check import ImageState, examine_images
from dedn_hf.files import content_mark

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def known(tmp_path, monkeypatch):
    """The file of what is known."""
    file = tmp_path / "known" / "images.json"
    file.parent.mkdir()
    monkeypatch.setattr(image_check, "_known_file", lambda: file)
    return file


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded, each time."""
    counts, decode = [], image_check._decode_all
    monkeypatch.setattr(image_check, "_decode_all", lambda files: counts.append(len(files)) or decode(files))
    return counts


def encode(kind, image=PICTURE, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def picture_of(pixels):
    return encode("PNG", Image.new("L", (pixels // 50, 50)))


def examine(tmp_path, **contents):
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return examine_images([tmp_path / name for name in contents])


@pytest.mark.parametrize(
    "kind", ["JPEG", "GIF", "BMP", "TIFF", "JPEG2000", "PNG", "WEBP", "AVIF", "PPM", "TGA", "QOI", "MPO"]
)
def test_whole_and_cut_images(tmp_path, kind):
    content = encode(kind)
    whole, cut, empty = examine(tmp_path, whole=content, cut=content[: len(content) // 2], empty=b"")
    assert whole == ImageState(content_mark(content))
    assert cut.problem and cut.mark == content_mark(content[: len(content) // 2])
    assert empty.problem == "it is empty (0 bytes)"


def test_what_extraction_reads_is_sound(tmp_path):
    """A PNG without its last chunk has all its pixels."""
    assert examine(tmp_path, picture=encode("PNG")[:-12])[0].problem == ""


def test_what_is_no_image(tmp_path):
    (page,) = examine(tmp_path, page=b"<html>not found</html>")
    assert page.problem == "it is a web page, as a download that failed leaves it"
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    states = examine_images([tmp_path / "none", tmp_path / "link", tmp_path / "folder"])
    assert [state.mark for state in states] == [None] * 3
    assert [state.problem for state in states] == [
        "it does not exist",
        "it is a link to nowhere, which does not exist",
        "Is a directory",
    ]


def test_frames_and_sizes(tmp_path, monkeypatch, recwarn, caplog):
    moving = encode(
        "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2500)
    moving, large, huge = examine(tmp_path, moving=moving, large=picture_of(3000), huge=picture_of(6000))
    assert moving.remarks[0] == "3 frames" and not moving.problem
    assert large.remarks == ("it has 3,000 pixels, which take much memory; scale it down",) and not large.problem
    assert huge.problem == "it has 6,000 pixels, and Pillow reads no more than 5,000; scale it down"
    assert not recwarn.list and not caplog.records


def test_the_second_time_nothing_is_decoded(tmp_path, decoded):
    contents = {"a": encode("PNG"), "b": encode("PNG"), "c": encode("JPEG")[:500], "d": encode("BMP")}
    first = examine(tmp_path, **contents)
    assert decoded == [3] and first[0] == first[1]
    assert examine(tmp_path, **contents) == first and decoded == [3]
    # Times prove nothing: what is in a file does.
    os.utime(tmp_path / "a", (0, 0))
    assert examine(tmp_path, **contents | {"d": encode("BMP")[:-50]})[3].problem and decoded == [3, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: json.dumps({"reader": json.loads(text)["reader"], "images": {"x": 3}}),
        lambda text: json.dumps({"reader": json.loads(text)["reader"], "images": ["x"]}),
        lambda text: json.dumps(json.loads(text) | {"reader": "pillow 1.0"}),
    ],
)
def test_what_is_known_may_be_damaged(tmp_path, known, decoded, damage):
    contents = {"a": encode("PNG"), "b": encode("PNG")[:500]}
    first = examine(tmp_path, **contents)
    known.write_text(damage(known.read_text()))
    assert examine(tmp_path, **contents) == first and decoded == [2, 2]
    assert examine(tmp_path, **contents) == first and decoded == [2, 2]
    assert [file.name for file in known.parent.iterdir()] == [known.name]


def test_nothing_can_be_kept(tmp_path, monkeypatch, decoded):
    (tmp_path / "file").touch()
    monkeypatch.setattr(image_check, "_known_file", lambda: tmp_path / "file" / "images.json")
    for _ in range(2):
        assert examine(tmp_path, a=encode("PNG"))[0].problem == ""
    assert decoded == [1, 1]


def test_in_other_processes(tmp_path, monkeypatch):
    contents = {f"{i}": encode("PNG", Image.new("L", (8, 8), i)) for i in range(6)} | {"cut": encode("PNG")[:500]}
    contents["moving"] = encode("GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    here = examine(tmp_path, **contents)
    monkeypatch.setattr(image_check, "MIN_IMAGES_FOR_PROCESSES", 1)
    monkeypatch.setattr(image_check, "_read_known", dict)
    assert examine(tmp_path, **contents) == here and here[-1].remarks == ("2 frames",)


def test_interrupted(tmp_path, monkeypatch, decoded):
    """What was decoded until then is known."""
    contents = {f"{i}": encode("PNG", Image.new("L", (8, 8), i)) for i in range(4)}
    decode = image_check._Decoded.__getitem__

    def stop(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return decode(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(image_check._Decoded, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            examine(tmp_path, **contents)
    assert all(not state.problem for state in examine(tmp_path, **contents)) and decoded == [4, 2]


def test_a_killed_process_is_said(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")

    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda *args, **options: map(fail, [0]))
    with pytest.raises(OSError, match=r"was killed, perhaps for want of memory .*run the check again"):
        examine(tmp_path, a=encode("PNG"))
