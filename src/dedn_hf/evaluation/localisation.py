"""
Does the region attention of an attribute peak on the part that the attribute names?

An attribute's peak is the cell of the model's grid with the highest weight; where several share it, each counts by its
share, so that uniform attention scores what a cell drawn at random would. Beside the experts stand two baselines that
look at no image: such a random cell (`uniform`), and the centre of the image (`centre`: the middle cell, or each of
the four in the middle of an even grid by a quarter).
"""

import io
import re
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..configuration_dedn import DednConfig
from ..data import GzslDataset
from ..images_dedn import crop_in_image

MEASURES = ("part", "part_within_one_cell", "box")
LOOKS = ("coarse", "fine", "mixed", "uniform", "centre")


def attribute_parts(dataset: GzslDataset) -> list[list[int]]:
    """
    The parts that attributes name.

    Args:
        dataset ([`GzslDataset`]):
            The data set.

    Returns:
        `list[list[int]]` of length `A`: rows of `part_points`; empty for an attribute of the whole body, and for all
        of them where the data set has no part points.
    """
    rows = {name: row for row, name in enumerate(dataset.part_names)}
    parts = []
    for name in dataset.attribute_names:
        match = re.fullmatch(r"has_(\w+)_(?:color|pattern|shape|length)::.+", name)
        named = dataset.attribute_parts.get(match[1], ()) if match else ()
        parts.append([rows[part] for part in named if part in rows])
    return parts


def image_sizes(images: datasets.Dataset) -> np.ndarray:
    """
    Width and height of images, from their headers: nothing is decoded.

    Args:
        images (`datasets.Dataset` of length `N`):
            With a column `image`.

    Returns:
        `np.ndarray` of shape `(N, 2)`, int64: pixels.
    """
    files = images.select_columns("image").cast_column("image", datasets.Image(decode=False))
    sizes = []
    for file in files["image"]:
        with Image.open(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])) as image:
            sizes.append(image.size)
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


class AttributeLocalisation:
    """
    How often the region attention of attributes peaks on their parts: gathered batch by batch, so that no map is kept.

    An image speaks of an attribute if its class has it, more strongly than the mean over the whole class-attribute
    matrix (as in [`attribute_ranking`]), and, for the first two measures, if a part that it names is visible within
    the crop that the model sees. The measures, as the share of images:

    - `part`: a visible point of the part lies in the peak's cell;
    - `part_within_one_cell`: in that cell or one of the eight around it, since a cell of a network sees beyond its
      borders, and a part is more than a point;
    - `box`: the centre of the peak's cell lies in the box around the bird. Attributes that name no part count, too.

    Args:
        parts (`Sequence[Sequence[int]]` of length `A`):
            Rows of `part_points` that each attribute names, see [`attribute_parts`].
        part_points (`np.ndarray` of shape `(N, P, 3)`):
            `[x, y, visible]` of the parts of N images, in pixels.
        boxes (`np.ndarray` of shape `(N, 4)`):
            `[x, y, width, height]` of the birds, in pixels.
        crops (`np.ndarray` of shape `(N, 4)`):
            `[left, top, right, bottom]` of what the model sees, in pixels, see [`~images_dedn.crop_in_image`].
        has_attribute (`np.ndarray` of shape `(N, A)`, bool):
            Whether the class of an image has an attribute.
        config ([`DednConfig`]):
            Config of the model: its `grid_size` and `attribute_groups`.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[int]],
        part_points: np.ndarray,
        boxes: np.ndarray,
        crops: np.ndarray,
        has_attribute: np.ndarray,
        config: DednConfig,
    ):
        self.grid_size, self.groups = config.grid_size, config.attribute_groups
        corner, extent = crops[:, None, :2], crops[:, None, 2:] - crops[:, None, :2]
        # In cells of the grid, from its upper left corner.
        cells = np.floor((part_points[..., :2] - corner) / extent * self.grid_size).astype(np.int64)
        shown = (part_points[..., 2] > 0) & ((cells >= 0) & (cells < self.grid_size)).all(axis=-1)
        self.cells = torch.from_numpy(np.where(shown, cells[..., 1] * self.grid_size + cells[..., 0], -1))

        offsets = (np.arange(self.grid_size) + 0.5) / self.grid_size
        centres = corner + offsets[:, None] * extent
        inside = (centres >= boxes[:, None, :2]) & (centres <= boxes[:, None, :2] + boxes[:, None, 2:])
        self.in_box = torch.from_numpy(inside[:, :, None, 1] & inside[:, None, :, 0]).flatten(1)

        self.has_attribute = torch.from_numpy(has_attribute)
        # Attributes that name the same parts share a row of targets.
        named = sorted({tuple(rows) for rows in parts if rows})
        self.named = torch.zeros(len(named), part_points.shape[1])
        for index, rows in enumerate(named):
            self.named[index, list(rows)] = 1
        self.names_part = torch.tensor([bool(rows) for rows in parts])
        target = torch.tensor([named.index(tuple(rows)) if rows else 0 for rows in parts])
        self.target = torch.stack([target, len(named) + target, torch.full_like(target, 2 * len(named))])

        middle = torch.zeros(self.grid_size)
        middle[[(self.grid_size - 1) // 2, self.grid_size // 2]] = 1
        self.baselines = {
            "uniform": torch.ones(1, 1, self.grid_size**2),
            "centre": middle.outer(middle).view(1, 1, -1),
        }

        self.hits = {name: torch.zeros(3, len(parts), dtype=torch.float64) for name in LOOKS}
        self.counts = torch.zeros(3, len(parts), dtype=torch.int64)

    @classmethod
    def of_images(
        cls,
        dataset: GzslDataset,
        images: datasets.Dataset,
        has_attribute: np.ndarray,
        image_processor,
        config: DednConfig,
    ) -> "AttributeLocalisation":
        """
        Prepares the measures for images of a data set with part points.

        Args:
            dataset ([`GzslDataset`]):
                The data set.
            images (`datasets.Dataset` of length `N`):
                Images of it: columns `image`, `part_points` and `box`.
            has_attribute (`np.ndarray` of shape `(N, A)`, bool):
                Whether the class of an image has an attribute.
            image_processor (`CLIPImageProcessor`):
                What the images go through, or went through before their feature maps were made.
            config ([`DednConfig`]):
                Config of the model.

        Raises:
            ValueError: see [`~images_dedn.crop_in_image`].
        """
        crops = [crop_in_image(image_processor, *size) for size in image_sizes(images).tolist()]
        columns = images.select_columns(["part_points", "box"]).with_format("numpy")[:]
        points, boxes = (np.asarray(columns[name], dtype=np.float64) for name in ("part_points", "box"))
        return cls(attribute_parts(dataset), points, boxes, np.array(crops), has_attribute, config)

    def add(self, rows: slice, attentions: Mapping[str, torch.Tensor]):
        """
        Adds what a model gave for some of the images.

        Args:
            rows (`slice`):
                Which of the N images they are.
            attentions (`Mapping[str, torch.Tensor]`):
                `"coarse"`, `"fine"` and `"mixed"` → region weights `(B, A, H, W)`, as in [`DednPrediction`].
        """
        cells, has_attribute = self.cells[rows], self.has_attribute[rows]
        side = self.grid_size
        shown = F.one_hot(cells + 1, side**2 + 1)[..., 1:]
        on_part = (self.named @ shown.float()).clamp(max=1)
        beside = F.max_pool2d(on_part.unflatten(2, (side, side)), 3, stride=1, padding=1).flatten(2)
        targets = torch.cat([on_part, beside, self.in_box[rows, None].float()], dim=1)
        is_shown = on_part.any(dim=2)[:, self.target[0]] & self.names_part
        counted = has_attribute[:, None] & torch.stack([is_shown, is_shown, torch.ones_like(is_shown)], dim=1)
        self.counts += counted.sum(dim=0)

        looks = {name: attentions[name].flatten(2) for name in ("coarse", "fine", "mixed")}
        for name, weights in (looks | self.baselines).items():
            peaks = (weights == weights.amax(dim=-1, keepdim=True)).float()
            share = peaks / peaks.sum(dim=-1, keepdim=True)
            # Of each attribute's share on every target, only that on its own is kept.
            on_targets = (share @ targets.to(share.device).mT).cpu().expand(-1, len(self.names_part), -1)
            hits = on_targets[:, torch.arange(len(self.names_part)), self.target]
            self.hits[name] += (hits * counted).sum(dim=0, dtype=torch.float64)

    def figures(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """
        The share of hits, averaged per attribute over its images, and then over attributes.

        Returns:
            `dict[str, dict]`: for each measure, for `"all"` attributes and each group: `"coarse"`, `"fine"` and
            `"mixed"` experts and the baselines `"uniform"` and `"centre"`, per cent, `None` where no image speaks of
            an attribute; `"attributes"`, the number of those that were averaged, and `"images"`, on how many images
            each of them rests on average.
        """
        everything = {"all": range(len(self.names_part))} | self.groups
        figures = {}
        for measure, counts, *hits in zip(MEASURES, self.counts, *(self.hits[name] for name in LOOKS)):
            figures[measure] = {}
            for group, indices in everything.items():
                indices = [index for index in indices if counts[index] > 0]
                shares = [float((100 * of_name / counts)[indices].mean()) if indices else None for of_name in hits]
                figures[measure][group] = dict(zip(LOOKS, shares)) | {
                    "attributes": len(indices),
                    "images": float(counts[indices].double().mean()) if indices else 0.0,
                }
        return figures
