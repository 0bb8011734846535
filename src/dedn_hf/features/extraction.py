"""From images to a feature-map store: a frozen backbone is run over all images of a data set once."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Image
from transformers import AutoImageProcessor, CLIPImageProcessorPil
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..backbone_dedn import backbone_feature_map, load_backbone
from ..data.random_crop import RandomCrop
from ..files import content_mark, read_json, source_name
from ..images_dedn import load_any_image
from ..precision import check_bf16, choose_bf16
from .store import FeatureMapStore, fingerprint_weights, mark_images
from .store_writer import StoreWriter, start_processes
from .torchvision_resnet import load_torchvision_resnet

# Smallest share of an image's area that a further view of it shows.
_VIEW_SCALE = 0.5


def extract_feature_maps(
    dataset: Dataset,
    backbone: str,
    image_size: int,
    output_dir: str | os.PathLike,
    dataset_name: str,
    batch_size: int = 8,
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    bf16: bool | str = False,
    on_error: str = "raise",
    views: int = 1,
) -> FeatureMapStore:
    """
    Runs a frozen backbone over all images of a data set once, into a [`FeatureMapStore`].

    Images are resized so that their shorter side is `image_size` (bilinear), centre-cropped to a square, and
    normalised with the mean and standard deviation of the backbone's own image processor. A run that was interrupted
    goes on where it was; a finished store is verified, and nothing computed but what has changed: images whose files
    have other contents than those that their maps were made from, or that were skipped and are there now. Under
    `accelerate launch` the processes divide the work, see [`StoreWriter`].

    Args:
        dataset (`datasets.Dataset`):
            All images: columns `image`, `label` (`ClassLabel`) and `image_id` (int64, unique).
        backbone (`str`):
            Folder or Hub id of a transformers vision model with an image processor, or a file with torchvision's state
            dict of a ResNet, see [`load_torchvision_resnet`], whose images are normalised as ImageNet's. From the
            latter a folder `<output_dir>/backbone` is made, which can be named wherever a backbone is asked for.
        image_size (`int`):
            Side of the square that the backbone sees, in pixels.
        output_dir (`str` or `os.PathLike`):
            Folder of the store: a new or empty one, or one of the same extraction.
        dataset_name (`str`):
            Short name of the data set, recorded in the store.
        batch_size (`int`, *optional*, defaults to 8):
            Images that go through the backbone together. Small ones are faster on a CPU, where big activations are
            given back to the system and asked for again; a GPU wants more.
        num_workers (`int`, *optional*):
            Processes that decode and resize images while the backbone computes; 0 is this one between two batches, on
            all its cores. By default 1 beside a GPU, and 0 on a CPU, where another process takes cores from the
            backbone's and it waits for its slowest.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where the backbone runs. Of several processes each takes a GPU of its own for `"cuda"`.
        bf16 (`bool` or `str`, *optional*, defaults to `False`):
            Whether the backbone computes in bfloat16 where autocast does, which is less exact, faster where the device
            has it and far slower elsewhere, and recorded in the store. `"auto"` is what the store in `output_dir` has,
            finished or not; for a new one, bfloat16 where it is faster, see [`choose_bf16`].
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do about an image that is missing or cannot be read: `"raise"` an error, or `"skip"` it, so that it
            has no row and is listed as [`FeatureMapStore.skipped`].
        views (`int`, *optional*, defaults to 1):
            Maps of each image, of which the first is as said. The others are of [`RandomCrop`]s of half of its area at
            least, always the same: for training alone, see [`FeatureMapStore.views`]. Each takes as much time and disk
            as the first, and a store that is there gets those that it lacks.

    Returns:
        `FeatureMapStore`: the finished store.

    Raises:
        ValueError: If the folder holds other things or a store of another extraction (each difference is named), a
            finished store has a bad shard (which is named), an image cannot be read (which is named), a feature map
            exceeds float16, the backbone cannot be used, or `bf16` or `views` is something else.
    """
    if views < 1:
        raise ValueError(f"`views` is {views}, but the image itself is one.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"`on_error` must be 'raise' or 'skip', but is {on_error!r}.")
    check_bf16(bf16)
    device = torch.device(device)
    state = start_processes(cpu=device.type == "cpu")
    if state.num_processes > 1 and device.type != "cpu":
        if device.index is not None:
            raise ValueError(f"{state.num_processes} processes cannot share {device}: name {device.type} alone.")
        device = state.device
    if Path(backbone).is_file():
        name, model = Path(backbone).name, load_torchvision_resnet(backbone)
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    else:
        name, model = source_name(backbone), load_backbone(backbone)
        mean, std = _read_normalization(backbone)
    model = model.to(device, memory_format=torch.channels_last)

    def compute(pixel_values: torch.Tensor, bf16: bool) -> torch.Tensor:
        pixel_values = pixel_values.to(device, memory_format=torch.channels_last, non_blocking=True)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return backbone_feature_map(model, pixel_values)

    def prepare_batch() -> tuple[Callable[[bool], torch.Tensor], int]:
        num_images = min(batch_size, len(dataset))
        noise = torch.randn(num_images, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        return partial(compute, noise), num_images

    shape = feature_map_shape(partial(compute, bf16=False), image_size, name)
    choice = [None]
    if state.is_main_process:
        choice = [choose_bf16(bf16, device, prepare_batch, partial(_recorded_bf16, output_dir))]
    bf16 = broadcast_object_list(choice)[0]
    if bf16:
        feature_map_shape(partial(compute, bf16=True), image_size, name)
    fingerprint = fingerprint_weights(model)

    processor = _processor_settings(image_size, mean, std)
    source = {
        "backbone": name,
        "backbone_sha256": fingerprint,
        "image_size": image_size,
        "processor": processor,
        **({"compute_dtype": "bfloat16"} if bf16 else {}),
    }

    def extract(folder: Path, source: dict, description: str, random_crop: Callable | None = None) -> FeatureMapStore:
        writer = StoreWriter(folder, dataset, dataset_name, shape, source, state)

        def make_maps(
            batches: list[list[int | None]],
        ) -> Iterator[tuple[list[int], np.ndarray, list[str], list[dict]]]:
            loader = torch.utils.data.DataLoader(
                _PixelValues(dataset, writer.order, processor, random_crop),
                batch_size=None,
                sampler=batches,
                num_workers=int(device.type != "cpu") if num_workers is None else num_workers,
                pin_memory=device.type == "cuda",
            )
            for rows, places, pixel_values, marks, unreadable in loader:
                if unreadable and on_error == "raise":
                    image = unreadable[0]
                    raise ValueError(
                        f"The image {image['path'] or image['image_id']} cannot be read: {image['reason']}. Replace "
                        "the file and run again, or leave such images out with --on_error skip."
                    )
                maps = np.empty((0, *shape), np.float16)
                if rows:
                    maps = compute(pixel_values, bf16)[places].to(torch.float16).cpu().numpy()
                yield rows, maps, marks, unreadable

        def read_marks(rows: list[int]) -> list[str | None]:
            return mark_images(dataset.select(writer.order[rows]), "Comparing images")

        return writer.write(make_maps, batch_size, description, on_error == "skip", read_marks)

    store = extract(Path(output_dir), source, "Extracting feature maps")
    for number in range(1, views):
        crop = RandomCrop(_VIEW_SCALE)
        extract(
            store.view_path(number),
            source | {"view": {"number": number, "random_crop_scale": crop.scale, "seed": crop.seed}},
            f"Extracting view {number + 1} of {views}",
            partial(crop, size=image_size, resample=processor["resample"], epoch=number),
        )
    folder = store.path / "backbone"
    if Path(backbone).is_file() and state.is_main_process and not folder.is_dir():
        temporary = folder.with_name(f"{folder.name}.tmp")
        model.save_pretrained(temporary)
        store.image_processor.save_pretrained(temporary)
        os.replace(temporary, folder)
    return store


def _recorded_bf16(output_dir: str | os.PathLike) -> bool | None:
    """What the store that is in a folder, finished or not, was computed in; `None` if there is none."""
    for name in ("store.json", "request.json"):
        # One that is damaged is refused when it is gone on with.
        with contextlib.suppress(OSError, ValueError):
            return read_json(Path(output_dir, name)).get("compute_dtype") == "bfloat16"
    return None


def feature_map_shape(
    compute: Callable[[torch.Tensor], torch.Tensor], image_size: int, name: str
) -> tuple[int, int, int]:
    """
    Shape `(C, H, W)` of what a backbone makes of square images.

    Args:
        compute (`Callable`):
            From preprocessed images to feature maps, as [`backbone_feature_map`].
        image_size (`int`):
            Side of the images in pixels.
        name (`str`):
            What the backbone is called in the error.

    Raises:
        ValueError: If the backbone cannot be run on such images.
    """
    try:
        with torch.inference_mode():
            return compute(torch.zeros(1, 3, image_size, image_size)).shape[1:]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        # What a family raises that is made for other sizes, or for more than images.
        raise ValueError(f"{name} cannot be run on images of {image_size} × {image_size} pixels: {error}") from error


def _processor_settings(image_size: int, mean, std) -> dict:
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def image_processor_of(backbone: str, image_size: int) -> CLIPImageProcessorPil:
    """
    What prepares images for a backbone as [`extract_feature_maps`] does.

    Args:
        backbone (`str`):
            Folder or Hub id of a transformers vision model with an image processor.
        image_size (`int`):
            Side of the square that the backbone sees, in pixels.

    Raises:
        ValueError: If images cannot be prepared as its own image processor does.
    """
    return CLIPImageProcessorPil(**_processor_settings(image_size, *_read_normalization(backbone)))


def _read_normalization(backbone: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a backbone's own image processor, for pixels from 0 to 1."""
    own = AutoImageProcessor.from_pretrained(backbone)
    if hasattr(own, "data_config"):  # of a timm model
        return list(own.data_config["mean"]), list(own.data_config["std"])
    if getattr(own, "do_flip_channel_order", False):
        raise ValueError(
            f"The backbone {backbone} takes images with red and blue swapped ({type(own).__name__}), which a store "
            "does not. Take another backbone."
        )
    if getattr(own, "do_rescale", True) and abs(255 * getattr(own, "rescale_factor", 1 / 255) - 1) > 1e-3:
        raise ValueError(
            f"The backbone {backbone} takes pixels times {own.rescale_factor} ({type(own).__name__}), but here they "
            "are from 0 to 1, times 1/255. Take another backbone."
        )
    if not getattr(own, "do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    mean, std = getattr(own, "image_mean", None), getattr(own, "image_std", None)
    if mean is None or std is None:
        raise ValueError(
            f"The image processor of {backbone} ({type(own).__name__}) has no `image_mean` and `image_std`. Write "
            "them into its preprocessor_config.json."
        )
    mean, std = ([value] * 3 if isinstance(value, (int, float)) else list(value) for value in (mean, std))
    if getattr(own, "include_top", False):  # EfficientNet's normalises once more, with a mean of 0
        std = [value * value for value in std]
    return mean, std


class _PixelValues(torch.utils.data.Dataset):
    """
    Batches of images in the order of their ids. Of the rows that are asked for, in that order (`None` is none): those
    of images that can be read, their places in the batch, `(N, 3, image_size, image_size)` with these preprocessed in
    their places and zeros elsewhere, or `None` if there is none, and their marks; and what is said of the others. A
    `random_crop` gets an image and `image_id`, and is what is seen of it, in place of the processor's resizing.
    """

    def __init__(self, dataset: Dataset, order: np.ndarray, processor: dict, random_crop: Callable | None = None):
        self.dataset = dataset.cast_column("image", Image(decode=False))
        self.order = order
        self.random_crop = random_crop
        whole = {"do_resize": False, "do_center_crop": False} if random_crop is not None else {}
        self.processor = CLIPImageProcessorPil(**processor | whole)

    def __getitem__(
        self, rows: list[int | None]
    ) -> tuple[list[int], list[int], torch.Tensor | None, list[str], list[dict]]:
        places = [place for place, row in enumerate(rows) if row is not None]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            prepared = list(pool.map(self._prepare, [self.dataset[int(self.order[rows[place]])] for place in places]))
        readable = {place: image for place, image in zip(places, prepared) if "reason" not in image}
        unreadable = [image for image in prepared if "reason" in image]
        pixel_values = None
        if readable:
            # What a place is given does not depend on which others are.
            pixel_values = torch.zeros(len(rows), *next(iter(readable.values()))["pixel_values"].shape)
            for place, image in readable.items():
                pixel_values[place] = torch.from_numpy(image["pixel_values"])
        marks = [image["content_mark"] for image in readable.values()]
        return [rows[place] for place in readable], list(readable), pixel_values, marks, unreadable

    def _prepare(self, example: dict) -> dict:
        """An image's pixel values and mark, or what is said of one that cannot be read."""
        mark = None
        try:
            # Read once: the mark is of what is decoded, whatever becomes of the file meanwhile.
            content = example["image"]["bytes"]
            if content is None:
                content = Path(example["image"]["path"]).read_bytes()
            mark = content_mark(content)
            image = load_any_image(example["image"] | {"bytes": content})
            if self.random_crop is not None:
                image = self.random_crop(image, image_id=example["image_id"])
        except Exception as error:  # Pillow raises whatever a damaged byte leads to
            reason = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or type(error).__name__
            named = {"image_id": example["image_id"], "path": example["image"]["path"]}
            return named | {"reason": reason, "content_mark": mark}
        return {"pixel_values": self.processor(image)["pixel_values"][0], "content_mark": mark}
