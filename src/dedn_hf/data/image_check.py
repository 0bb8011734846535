"""Whether images can be read: each is, as extraction and training do it, and what is known is kept."""

import hashlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from PIL import Image
from tqdm.auto import tqdm

from .. import images_dedn
from ..files import content_marks
from ..images_dedn import load_any_image

# Below so many, other processes take longer to start than to work.
MIN_IMAGES_FOR_PROCESSES = 200
MAX_PROCESSES = 16


@dataclass(frozen=True)
class ImageState:
    """
    What is known of an image file.

    Args:
        mark (`str`, *optional*):
            Its [`content_mark`]; `None` if there is nothing to be read.
        problem (`str`, *optional*, defaults to `""`):
            Why it cannot be read.
        remarks (`tuple[str, ...]`, *optional*, defaults to `()`):
            What reading it warns of.
    """

    mark: str | None
    problem: str = ""
    remarks: tuple[str, ...] = ()


def examine_images(files: Sequence[str | os.PathLike]) -> list[ImageState]:
    """
    Reads and decodes images, in parallel, as [`load_any_image`] does for extraction and training. What was decoded
    once is known by its content, in `huggingface_hub`'s folder of assets, and only hashed again.

    Args:
        files (`Sequence[str` or `os.PathLike]`):
            The images.

    Returns:
        `list[ImageState]`: in their order.

    Raises:
        OSError: If a process that decodes is killed. What was decoded until then is known the next time.
    """
    marks = content_marks(files, "Reading images")
    known = _read_known()
    pending = {mark: file for file, mark in zip(files, marks) if mark is not None and mark not in known}
    if pending:
        decoded = {}
        try:
            for mark, said in zip(pending, _decode_all(list(pending.values()))):
                decoded[mark] = said
        finally:
            known |= decoded
            _write_known(decoded)
    return [
        ImageState(mark, known[mark][0], tuple(known[mark][1:])) if mark else ImageState(None, _why_not_there(file))
        for file, mark in zip(files, marks)
    ]


def _decode_all(files: list[str | os.PathLike]):
    processes = min(os.cpu_count() or 1, MAX_PROCESSES) if len(files) >= MIN_IMAGES_FOR_PROCESSES else 0
    options = {"num_workers": processes, "prefetch_factor": 16} if processes else {}
    loader = torch.utils.data.DataLoader(_Decoded(files), batch_size=None, **options)
    try:
        yield from tqdm(loader, total=len(files), desc="Decoding images", unit="image", disable=None)
    except RuntimeError as error:
        raise OSError(
            f"a process that decodes images was killed, perhaps for want of memory ({error}); run the check again: it "
            "goes on with what is not decoded yet"
        ) from error


class _Decoded(torch.utils.data.Dataset):
    """Of each image why it cannot be decoded, or nothing, and then what is remarked."""

    def __init__(self, files: list[str | os.PathLike]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[str]:
        problem = ""
        with _remarks() as remarks:
            try:
                load_any_image(Path(self.files[index]).read_bytes())
            except Exception as error:  # Pillow raises whatever a damaged byte leads to
                text = getattr(error, "strerror", None) or re.sub(r" at 0x[0-9a-f]+", "", str(error))
                problem = " ".join(text.split()) or type(error).__name__
        return [problem, *dict.fromkeys(remarks)]


@contextmanager
def _remarks():
    """What is warned of meanwhile, in a list and nowhere else."""
    remarks, logger = [], images_dedn.logger
    handler = logging.Handler()
    handler.emit = lambda record: remarks.append(_shorten(record.getMessage()))
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield remarks
        for warning in caught:
            if issubclass(warning.category, Image.DecompressionBombWarning):
                count = int(re.search(r"\d+", str(warning.message))[0])
                remarks.append(f"it has {count:,} pixels, which take much memory; scale it down")
            elif issubclass(warning.category, UserWarning):
                remarks.append(" ".join(str(warning.message).split()).rstrip("."))
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def _shorten(warning: str) -> str:
    """`An image has 3 frames: the first is taken.` as it is said of a file."""
    return warning.removeprefix("An image has ").partition(": the first")[0]


def _why_not_there(file: str | os.PathLike) -> str:
    if os.path.islink(file) and not os.path.exists(file):
        return f"it is a link to {os.readlink(file)}, which does not exist"
    try:
        with open(file, "rb"):
            return "it could not be read before, and now can: check again"
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return error.strerror or str(error)


def _known_file() -> Path:
    return cached_assets_path("dedn-hf", namespace="images", subfolder="decoded") / "known.json"


def _reader() -> str:
    """What reads images, and on what it rests: with another one, what is known is known no more."""
    versions = []
    for package in ("pillow", "pillow-heif", "pillow-jxl-plugin"):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    code = Path(images_dedn.__file__).read_bytes() + Path(__file__).read_bytes()
    limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
    return ", ".join([*versions, limit, hashlib.sha256(code).hexdigest()[:16]])


def _read_known() -> dict[str, list[str]]:
    try:
        content = json.loads(_known_file().read_text(encoding="utf-8"))
        images = content["images"] if content["reader"] == _reader() else {}
        sound = all(said and {*map(type, said)} == {str} for said in images.values())
        return images if sound else {}
    except Exception:  # one that is damaged or cannot be read costs time only
        return {}


def _write_known(decoded: dict[str, list[str]]):
    if not decoded:
        return
    temporary = None
    try:
        file = _known_file()
        content = {"reader": _reader(), "images": _read_known() | decoded}
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False) as opened:
            temporary = opened.name
            json.dump(content, opened)
        os.replace(temporary, file)
    except OSError:  # a folder where nothing can be written costs time only
        if temporary is not None:
            with suppress(OSError):
                os.remove(temporary)
