"""Images: how one is read, whatever it is given as, and what part of it a model sees."""

import base64
import binascii
import io
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from transformers.image_utils import load_image
from transformers.utils import logging

logger = logging.get_logger(__name__)


def _register_formats():
    """Has Pillow read HEIC and JPEG XL, whoever opens them, where there are packages that do."""
    for plugin in ("pillow_heif.HeifImagePlugin", "pillow_jxl"):
        with suppress(ImportError, OSError):
            import_module(plugin)


_register_formats()


def load_any_image(image, timeout: float | None = None) -> Image.Image:
    """
    An image from whatever the pipeline takes for one, in RGB and upright, as its EXIF tag says; on white, where it is
    transparent; the first frame, with a warning, where it has several.

    An image from the web is what transformers' `load_image` makes of it: that gives neither the bytes nor the numbers
    in them, so that greys of 16 bits are clipped, what is transparent is what lies below, and frames are not said.
    Download such an image and give its bytes or its path.

    Args:
        image:
            See [`~ZeroShotAttributeClassificationPipeline.__call__`].
        timeout (`float`, *optional*):
            Seconds to wait for an image from the web.

    Returns:
        `PIL.Image.Image`.

    Raises:
        ValueError: If it is no image, or one whose values have no certain meaning.
        OSError: If it cannot be read.
    """
    name = None
    if isinstance(image, Mapping):
        if "image" in image:
            return load_any_image(image["image"], timeout)
        if "bytes" not in image and "path" not in image:
            raise ValueError(f"it has no 'image', but {', '.join(map(repr, image))}; give what holds the image")
        name = image.get("path")
        image = name if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str) and not image.startswith(("http://", "https://")):
            image = Path(image)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        image = _image_of_array(image)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        image = io.BytesIO(image)
    no_image = "it is no image of a kind that Pillow knows"
    if isinstance(image, (str, os.PathLike)) and os.path.isdir(image):
        raise ValueError("it is a folder; give the paths of its images")
    is_url = isinstance(image, str) and image.startswith(("http://", "https://"))
    try:
        if isinstance(image, str) and not is_url and not os.path.isfile(image):
            no_image = "it is neither a file nor a URL nor an image in base64"
            content = base64.b64decode(re.sub(r"^data:image/[^,]*,|\s", "", image), validate=True)
            if not content:
                raise binascii.Error
            image = io.BytesIO(content)
        if is_url:
            image = load_image(image, timeout=timeout)
        elif isinstance(image, (str, os.PathLike)) or hasattr(image, "read"):
            image = Image.open(image)
    except (Image.UnidentifiedImageError, binascii.Error):  # whose text is where its bytes are in memory
        raise ValueError(_why_unknown(image) or no_image) from None
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))[0]
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"it has {int(count):,} pixels, and Pillow reads no more than {limit:,}; scale it down"
        ) from None
    except RuntimeError as error:  # as JPEG XL's package says that a file is damaged
        raise ValueError(f"it is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(image, Image.Image):
        kind = "one flat list of images" if isinstance(image, Iterable) else "a path, URL, array or PIL image"
        raise ValueError(f"it is no image; give {kind}")
    # The two pictures of an MPO file, as telephones make them, are one.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        name = name or getattr(image, "filename", "") or "An image"
        logger.warning(f"{name} has {image.n_frames} frames: the first is taken.")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would show all above 255 as white.
        image = _image_of_greys(ImageOps.exif_transpose(image))
    elif image.has_transparency_data:
        # What lies below is no part of the picture: mostly black, or what was cut away.
        image = ImageOps.exif_transpose(image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return load_image(image)


def _why_unknown(image) -> str | None:
    """What is to be said of a file that Pillow does not know, by its first bytes."""
    try:
        if hasattr(image, "read"):
            image.seek(0)
            head = image.read(16)
        else:
            with open(image, "rb") as file:
                head = file.read(16)
    except (OSError, TypeError, ValueError):  # of what cannot be read again
        return None
    if not head:
        return "it is empty (0 bytes)"
    if head.lstrip().lower().startswith((b"<html", b"<!doctype")):
        return "it is a web page, as a download that failed leaves it"
    kinds = {
        "HEIC": (is_heic(head), "HEIF", "pillow-heif"),
        "AVIF": (head[4:12] == b"ftypavif", "AVIF", "pillow"),
        "JPEG XL": (is_jpeg_xl(head), "JXL", "pillow-jxl-plugin"),
    }
    for kind, (is_kind, format_name, package) in kinds.items():
        if is_kind:
            known = format_name in Image.OPEN
            return f"it is {kind}" + (", but damaged" if known else f"; `pip install {package}`, or save it as JPEG")
    return None


def is_heic(head: bytes) -> bool:
    """Whether a file that begins so is HEIC, which Pillow does not know by itself."""
    return head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev")


def is_jpeg_xl(head: bytes) -> bool:
    """Whether a file that begins so is JPEG XL, which Pillow does not know by itself."""
    return head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))


def _image_of_greys(image: Image.Image) -> Image.Image:
    greys = np.asarray(image)
    if image.mode.startswith("I;16"):
        greys = greys / 257
    elif image.mode == "F" and greys.min() >= 0 and greys.max() <= 1:
        greys = greys * 255
    else:
        kind = "32-bit integers" if image.mode == "I" else "floats beyond 0 to 1"
        raise ValueError(
            f"what is white among {kind}, here from {greys.min():g} to {greys.max():g}, is not known; save it with 8 "
            "or 16 bits, or as floats from 0 to 1"
        )
    return Image.fromarray(greys.round().astype(np.uint8))


def _image_of_array(array: np.ndarray | torch.Tensor) -> Image.Image:
    is_tensor, dtype, shape = isinstance(array, torch.Tensor), array.dtype, tuple(array.shape)
    if is_tensor:
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    channels = [axis for axis in (0, -1) if array.ndim == 3 and array.shape[axis] in (1, 3, 4)]
    if array.size == 0 or not (array.ndim == 2 or channels):
        raise ValueError(
            f"an array of shape {shape} is no image; one has shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 "
            "channels"
        )
    if array.ndim == 3 and channels[0 if is_tensor else -1] == 0:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        span = f", from {array.min():g} to {array.max():g}" if array.dtype.kind in "fiu" else ""
        raise ValueError(f"its values are {dtype}{span}; give uint8, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def crop_in_image(image_processor, width: int, height: int) -> tuple[float, float, float, float]:
    """
    What part of an image an image processor shows to the model.

    Args:
        image_processor (`BaseImageProcessor`):
            See [`attention_in_image`].
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.

    Returns:
        `tuple[float, float, float, float]`: left, top, right and bottom of the crop in pixels of the image, beyond its
        edges where the image is padded.

    Raises:
        ValueError: If the image processor does something else than to resize and to crop the centre.
    """
    if hasattr(image_processor, "data_config"):  # a timm model's, which resizes the shorter side and crops the centre
        data = image_processor.data_config
        size = data["input_size"][-1]
        if data["crop_mode"] != "center" or data["input_size"][-2] != size:
            raise ValueError(
                f"`crop_in_image` cannot tell what part of an image a timm model's {data['crop_mode']!r} crop to "
                f"{data['input_size']} shows. Use an image processor such as CLIPImageProcessor."
            )
        shown = size / int(size / data["crop_pct"]) * min(width, height)
        left, top = (width - shown) / 2, (height - shown) / 2
        return left, top, left + shown, top + shown
    resized_width, resized_height = width, height
    # Not all image processors have these.
    do_center_crop = getattr(image_processor, "do_center_crop", False)
    if getattr(image_processor, "do_resize", True):
        size = dict(getattr(image_processor, "size", None) or {})
        if set(size) == {"shortest_edge"} and do_center_crop:
            resized_width, resized_height = (
                int(size["shortest_edge"] * side / min(width, height)) for side in (width, height)
            )
        elif set(size) == {"height", "width"}:
            resized_width, resized_height = size["width"], size["height"]
        else:
            raise ValueError(
                f"`crop_in_image` cannot tell what part of an image a {type(image_processor).__name__} with size "
                f"{size} shows. Use one that resizes the shorter side and crops the centre, as CLIPImageProcessor."
            )
    crop_width, crop_height = resized_width, resized_height
    if do_center_crop:
        crop_width, crop_height = image_processor.crop_size["width"], image_processor.crop_size["height"]
    left, top = (resized_width - crop_width) // 2, (resized_height - crop_height) // 2
    x_scale, y_scale = width / resized_width, height / resized_height
    return left * x_scale, top * y_scale, (left + crop_width) * x_scale, (top + crop_height) * y_scale


def attention_in_image(attention: torch.Tensor, image_processor, width: int, height: int) -> torch.Tensor:
    """
    Brings region attention from the grid of the model to the pixels of an image, with the image processor's resizing
    and centre crop undone; interpolated bilinearly between the centres of regions.

    Args:
        attention (`torch.Tensor` of shape `(N, H, W)`):
            Weights of the regions.
        image_processor (`BaseImageProcessor`):
            One that resizes the shorter side and crops the centre, as `CLIPImageProcessor`, or resizes to a fixed
            size, as `ViTImageProcessor`.
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.

    Returns:
        `torch.Tensor` of shape `(N, height, width)`: each pixel's share of the attention; each map sums to 1, and is 0
        outside of the crop.

    Raises:
        ValueError: see [`crop_in_image`].
    """
    left, top, right, bottom = crop_in_image(image_processor, width, height)
    # Pixel centres in the coordinates of the crop, from -1 to 1 as grid_sample counts.
    x = 2 * (torch.arange(width) + 0.5 - left) / (right - left) - 1
    y = 2 * (torch.arange(height) + 0.5 - top) / (bottom - top) - 1
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    maps = F.grid_sample(attention[None], points[None], padding_mode="border", align_corners=False)[0]
    maps = maps * ((x.abs() <= 1) & (y.abs() <= 1)[:, None])
    return maps / maps.sum(dim=(1, 2), keepdim=True)


__all__ = ["attention_in_image", "crop_in_image", "load_any_image"]
