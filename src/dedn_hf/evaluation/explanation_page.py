"""What a model sees in many images, on one HTML page that needs nothing beside it: no network and no other file."""

import base64
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from ..files import printable, replacing

TEMPLATE = Path(__file__).with_name("explanation_page.html")
# 500 of them make a page of less than 20 MB, whatever they show.
THUMBNAIL_SIDE, THUMBNAIL_BYTES = 300, 24_000
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def write_explanation_page(
    path: str | os.PathLike,
    answers: Iterable[tuple[str, dict | str]],
    describe: Callable[[dict], str],
    title: str,
    model: str,
    top_classes: int = 5,
):
    """
    Writes the page as answers come, and holds none of them: each image a card with its thumbnail, labels and
    attributes. Where an attribute was seen is drawn by the page's script, from the numbers of the grid.

    Args:
        path (`str` or `os.PathLike`):
            HTML file to write; its folder is made. It is there whole or not at all.
        answers (`Iterable[tuple[str, dict | str]]`):
            Path of an image, and why it cannot be read or an [`ImageResult`] with `attention="grid"` and at least two
            labels, if there are as many candidates. A result also has the `size` of the upright image, width and
            height in pixels, and its [`thumbnail`].
        describe (`Callable[[dict], str]`):
            See [`~ZeroShotAttributeClassificationPipeline.in_words`].
        title (`str`):
            Heading of the page.
        model (`str`):
            What the page calls the model.
        top_classes (`int`, *optional*, defaults to 5):
            How many labels a card has.

    Raises:
        OSError: If the file cannot be written. What was there is as it was.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["sha256"] = _sha256
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    cards = (_card(image, answer, describe, top_classes) for image, answer in answers)
    with replacing(path) as file:
        # File names and class tables may hold what no UTF-8 can.
        file.writelines(map(printable, template.generate(cards=cards, title=title, model=model)))


def thumbnail(image: Image.Image) -> bytes:
    """
    An image as a small JPEG file of 24 kB at most, without what the photo's file says besides: place, time, camera.

    Args:
        image (`PIL.Image.Image`):
            An image in RGB.

    Returns:
        `bytes`.
    """
    scale = min(1, THUMBNAIL_SIDE / max(image.size))
    size = tuple(max(1, round(scale * side)) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    for quality in (85, 70, 50, 30, 10):
        content = io.BytesIO()
        small.save(content, "JPEG", quality=quality, optimize=True, comment=b"", exif=b"", icc_profile=None)
        if content.tell() <= THUMBNAIL_BYTES:
            break
    return content.getvalue()


def _card(image: str, answer: dict | str, describe: Callable[[dict], str], top_classes: int) -> dict:
    folder, name = os.path.split(image)
    card = {"folder": os.path.join(folder, ""), "name": name}
    if isinstance(answer, str):
        return card | {"error": answer}
    labels, (width, height), (left, top, right, bottom) = answer["labels"], answer["size"], answer["crop"]
    return card | {
        "thumbnail": base64.b64encode(answer["thumbnail"]).decode(),
        "size": (width, height),
        "crop": f"{left / width:.4f} {top / height:.4f} {right / width:.4f} {bottom / height:.4f}",
        "labels": labels[:top_classes],
        # What is sure where the first label is not.
        "rank": next((rank for rank in answer.get("ranks", [])[:1] if rank["label"] != labels[0]["label"]), None),
        "runner_up": labels[1]["label"] if len(labels) > 1 else None,
        "attributes": [
            {
                "words": describe(attribute),
                "contribution": attribute["contribution"],
                "grid": _grid_text(attribute["attention"]),
            }
            for attribute in answer["attributes"]
        ],
        "fit": answer.get("fit"),
    }


def _grid_text(attention: Sequence[Sequence[float]]) -> str:
    """A digit from 0 to z for each region, z for the strongest, and / between rows."""
    strongest = max(map(max, attention))
    return "/".join(
        "".join(DIGITS[round((len(DIGITS) - 1) * share / strongest)] for share in row) for row in attention
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
