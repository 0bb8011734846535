"""Whatever people hold an image in, the pipeline takes it for the same image or says why it does not."""

import base64
import io
import re
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_pipeline import check_same, make_classifier, make_image
from transformers.pipelines.pt_utils import KeyDataset

IMAGE = make_image()
PIXELS = np.asarray(IMAGE)
TENSOR = torch.tensor(PIXELS).permute(2, 0, 1)
GREY = np.asarray(IMAGE.convert("L"))


def file_bytes(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


BYTES = file_bytes(IMAGE)
BASE64 = base64.b64encode(BYTES).decode()


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "bird.png"
    path.write_bytes(BYTES)
    return path


@pytest.fixture(scope="module")
def expected(classifier):
    return classifier(IMAGE)


@pytest.fixture(scope="module")
def data_set():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int32")})
    return datasets.Dataset.from_dict({"image": [IMAGE, make_image(1)], "label": [0, 1]}, features=features)


@contextmanager
def served(content):
    """The URL of a server that answers with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/bird.png"
        server.shutdown()


# One image


@pytest.mark.parametrize("name", ["inputs", "images", "image"])
def test_names_of_the_argument(classifier, expected, name):
    assert classifier(**{name: IMAGE}) == expected
    assert classifier(**{name: [IMAGE]}) == [expected]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: str(path),
        lambda path: path,
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: BASE64,
        lambda path: f"data:image/png;base64,{BASE64}",
        lambda path: base64.encodebytes(BYTES).decode(),
        lambda path: np.array([str(path)])[0],
        lambda path: PIXELS,
        lambda path: PIXELS / 255,
        lambda path: (PIXELS / 255).astype(np.float32),
        lambda path: PIXELS.transpose(2, 0, 1),
        lambda path: PIXELS[:, ::-1][:, ::-1],
        lambda path: np.dstack([PIXELS, np.full_like(PIXELS[..., 0], 255)]),
        lambda path: TENSOR,
        lambda path: TENSOR.permute(1, 2, 0),
        lambda path: TENSOR / 255,
        lambda path: (TENSOR / 255).requires_grad_(),
        lambda path: {"image": path, "label": 3},
        lambda path: {"bytes": BYTES, "path": None},
        lambda path: {"bytes": None, "path": str(path)},
    ],
)
def test_one_image(classifier, expected, path, make):
    assert classifier(make(path)) == expected
    assert classifier([IMAGE, make(path)]) == [expected] * 2


@pytest.mark.parametrize("image", [GREY, GREY[..., None], GREY / 255, torch.tensor(GREY), torch.tensor(GREY)[None]])
def test_grey_array(classifier, image):
    assert classifier(image) == classifier(IMAGE.convert("L"))


def test_half_precision_tensor(classifier, expected):
    result = classifier((TENSOR / 255).bfloat16())
    assert result["labels"][0]["score"] == pytest.approx(expected["labels"][0]["score"], abs=0.02)


def test_which_axis_is_the_channels(classifier):
    # Both could be: they come last in an array, first in a tensor.
    image = make_image(width=3, height=4)
    pixels = np.asarray(image)
    assert classifier(pixels) == classifier(image)
    assert classifier(torch.tensor(pixels).permute(2, 0, 1)) == classifier(image)


def test_url(classifier, expected, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served(BYTES) as url:
        assert classifier(url) == expected
        assert classifier([url, url], timeout=5) == [expected] * 2
    with served(b"<html>") as url, pytest.raises(ValueError, match=f"The image, '{url}', cannot be read: it is no im"):
        classifier(url)


def test_sixteen_bits(classifier):
    grey = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert grey.mode == "I;16"
    expected = classifier(Image.fromarray(GREY))
    for image in (grey, file_bytes(grey), base64.b64encode(file_bytes(grey)).decode()):
        assert classifier(image) == expected


def test_image_is_upright(classifier, expected):
    turned = IMAGE.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    assert classifier(file_bytes(turned, exif=exif)) == expected
    grey = Image.fromarray(np.rot90(GREY).astype(np.uint16) * 257)
    assert classifier(file_bytes(grey, exif=exif)) == classifier(IMAGE.convert("L"))


# Several images


@pytest.mark.parametrize(
    "make",
    [
        lambda images, data: images,
        lambda images, data: tuple(images),
        lambda images, data: deque(images),
        lambda images, data: dict(enumerate(images)).values(),
        lambda images, data: np.stack([np.asarray(image) for image in images]),
        lambda images, data: torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in images]),
        lambda images, data: np.array([*images, None], dtype=object)[:2],
        lambda images, data: pd.Series([file_bytes(image) for image in images], index=[7, 9]),
        lambda images, data: [np.asarray(images[0]), file_bytes(images[1])],
        lambda images, data: [data[0], data[1]],
        lambda images, data: data[:2],
        lambda images, data: data["image"],
        lambda images, data: data.with_format("numpy")["image"],
        lambda images, data: data.with_format("torch")["image"],
        lambda images, data: data.cast_column("image", datasets.Image(decode=False))["image"],
    ],
)
def test_several_images_are_a_list(classifier, data_set, make):
    images = [IMAGE, make_image(1)]
    assert classifier(make(images, data_set)) == [classifier(image) for image in images]


@pytest.mark.parametrize(
    "make",
    [
        lambda images, data: (image for image in images),
        lambda images, data: iter(images),
        lambda images, data: map(np.asarray, images),
        lambda images, data: KeyDataset(data, "image"),
        lambda images, data: data,
        lambda images, data: data.to_iterable_dataset(),
        lambda images, data: data.to_iterable_dataset()["image"],
        lambda images, data: torch.utils.data.TensorDataset,
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_data_sets_and_iterators_are_iterators(classifier, data_set, make, batch_size):
    images = [IMAGE, make_image(1)]
    made = make(images, data_set)
    if made is torch.utils.data.TensorDataset:
        made = [torch.utils.data.Dataset, torch.utils.data.IterableDataset][batch_size > 1]
        methods = {"__iter__": lambda _: iter(images)} if batch_size > 1 else {"__getitem__": lambda _, i: images[i]}
        made = type("Images", (made,), methods)()
    results = classifier(made, batch_size=batch_size)
    assert iter(results) is results
    if hasattr(results, "__len__"):
        assert len(results) == 2
    first = next(results)
    for result, image in zip([first, *results], images, strict=True):
        check_same(result, classifier(image))


def test_a_generator_is_read_as_results_are_asked_for(classifier):
    read = []

    def images():
        for seed in range(3):
            read.append(seed)
            yield make_image(seed)

    results = classifier(images())
    assert read == []
    next(results)
    assert read == [0]
    assert len(list(results)) == 2 and read == [0, 1, 2]


@pytest.mark.parametrize("none", [[], (), np.zeros((0, 30, 40, 3), dtype=np.uint8), deque()])
def test_no_images_at_all(classifier, none):
    assert classifier(none) == []
    assert list(classifier(iter(none))) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_that_read_images(classifier, expected, num_workers):
    assert (
        classifier([IMAGE] * 3, num_workers=num_workers, batch_size=2)[2]["labels"][0]["label"]
        == (expected["labels"][0]["label"])
    )


# What is no image


@pytest.mark.parametrize(
    "image, message",
    [
        (PIXELS.astype(int), "values are int64, from 0 to 255; give uint8, or floats from 0 to 1"),
        (PIXELS.astype(float), "values are float64, from 0 to 255; give uint8"),
        (PIXELS.astype(np.uint16), "values are uint16, from 0 to 255; give uint8"),
        (PIXELS > 100, "values are bool; give uint8"),
        (TENSOR.long(), r"values are torch.int64, from 0 to 255; give uint8"),
        (np.full((30, 40), np.nan), "values are float64, from nan to nan"),
        (-(PIXELS / 255), "values are float64, from -1 to "),
        (np.array([["a"]]), "values are <U1; give uint8"),
        (np.zeros((30, 40, 2), np.uint8), r"an array of shape \(30, 40, 2\) is no image"),
        (np.zeros((0, 40, 3), np.uint8), r"an array of shape \(0, 40, 3\) is no image"),
        (np.zeros(5, np.uint8), r"an array of shape \(5,\) is no image"),
        (torch.zeros(1, 2, 3, 4, 5), r"an array of shape \(1, 2, 3, 4, 5\) is no image"),
        (np.uint8(3), "it is no image; give a path, URL, array or PIL image"),
        (3, "of type int, cannot be read: it is no image; give a path"),
        (object, "of type type, cannot be read: it is no image; give a path"),
        ({"a.png"}, "of type set, cannot be read: it is no image; give one flat list"),
        ({"img": IMAGE}, "has no 'image', but 'img'; give what holds the image"),
        ({"role": "user", "content": "hello"}, "has no 'image', but 'role', 'content'"),
        ({"image": None}, "it is no image"),
        (b"no image", "of type bytes, cannot be read: it is no image of a kind that Pillow knows"),
        (io.BytesIO(b""), r"it is empty \(0 bytes\)"),
        ("nowhere.png", "'nowhere.png', cannot be read: it is neither a file nor a URL nor an image in base64"),
        ("nowhere0", "'nowhere0', cannot be read: it is neither a file nor a URL"),
        ("", "it is neither a file nor a URL"),
        ("data:image/png", "it is neither a file nor a URL"),
        ("file:///nowhere.png", "it is neither a file nor a URL"),
        (".", "it is a folder; give the paths of its images"),
        (Image.fromarray(GREY.astype(np.float32)), "what is white among floats beyond 0 to 1, here from 5 to 242"),
        (Image.fromarray(GREY.astype(np.int32)), "what is white among 32-bit integers, here from 5 to 242"),
    ],
)
def test_no_image(classifier, image, message):
    with pytest.raises(ValueError, match=f"^The image, .*{message}"):
        classifier(image)
    with pytest.raises(ValueError, match=r"^Image 1 \(counted from 0\), .*cannot be read"):
        classifier([IMAGE, image])
    with pytest.raises(ValueError, match=r"^Image 1 \(counted from 0\), .*cannot be read"):
        list(classifier(iter([IMAGE, image]), batch_size=2))


@pytest.mark.parametrize("nested", [[[IMAGE], [IMAGE]], [(IMAGE, 3)], PIXELS.tolist(), [PIXELS[None]]])
def test_nested_lists(classifier, nested):
    with pytest.raises(ValueError, match=r"^Image 0 \(counted from 0\), .*is no image; (give )?one"):
        classifier(nested)


def test_images_that_are_not_said_or_said_twice(classifier):
    for arguments in ((), (None,)):
        with pytest.raises(ValueError, match=r"Say which image: `classifier\(image\)`"):
            classifier(*arguments)
    with pytest.raises(ValueError, match="Say the images only once"):
        classifier(IMAGE, images=[IMAGE])


def test_splits_of_a_data_set(classifier, data_set):
    with pytest.raises(ValueError, match="has no 'image', but 'train'"):
        classifier(datasets.DatasetDict(train=data_set))


def test_an_iterator_that_breaks_is_named(classifier):
    def images():
        yield IMAGE
        raise KeyError("no key")

    with pytest.raises(ValueError, match=re.escape("Image 1 (counted from 0) cannot be read: 'no key'")):
        list(classifier(images()))
