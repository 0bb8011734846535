"""From a data set to what a model is trained on: stored feature maps, or images."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import datasets
import numpy as np
from torch.utils.data import Dataset
from transformers import CLIPImageProcessorPil, PreTrainedModel

from ..backbone_dedn import backbone_feature_map, load_backbone
from ..data import GzslDataset
from ..features.extraction import feature_map_shape, image_processor_of
from ..features.store import FeatureMapStore, RandomViewDataset, fingerprint_weights
from ..files import source_name
from .dataset import PixelValueDataset, RandomCrop
from .run_folder import from_main
from .warm_start import WarmStart


@dataclass
class ModelInputs:
    """
    What a model is trained on.

    Args:
        make (`Callable`):
            From a split of a data set (columns `image`, `label`, `image_id`) to items with `labels` and either
            `feature_map` or `pixel_values`, and an attribute `labels`.
        image_processor (`BaseImageProcessor`, *optional*):
            What makes `pixel_values` from an image; `None` where nobody knows how the images were prepared.
        config (`dict`, *optional*, defaults to `{}`):
            Fields of the model's [`DednConfig`], beside those that follow from the data set.
        backbone (`PreTrainedModel`, *optional*):
            The frozen backbone that made the feature maps; or, of images, the pretrained one that is trained along.
        source (`dict`, *optional*, defaults to `{}`):
            What the inputs come from, for `results.json`.
        make_cropped (`Callable`, *optional*):
            As `make`, with a [`RandomCrop`] for a second argument, for training on images.
        make_views (`Callable`, *optional*):
            As `make`, with a seed for a second argument, for training on several views of each image.
        warm_start (`WarmStart`, *optional*):
            What training begins with.
    """

    make: Callable[[datasets.Dataset], Dataset]
    image_processor: CLIPImageProcessorPil | None
    config: dict = field(default_factory=dict)
    backbone: PreTrainedModel | None = None
    source: dict = field(default_factory=dict)
    make_cropped: Callable[[datasets.Dataset, RandomCrop], Dataset] | None = None
    make_views: Callable[[datasets.Dataset, int], Dataset] | None = None
    warm_start: WarmStart | None = None


def prepare_inputs(
    dataset: GzslDataset,
    feature_maps: str | None = None,
    backbone: str | None = None,
    config: dict | None = None,
    init_from: str | None = None,
) -> ModelInputs:
    """
    Stored feature maps, or images for a model with a backbone that is trained along: a pretrained one
    (`freeze_backbone=False` in the config), or a new one (`backbone_config`).

    Args:
        dataset (`GzslDataset`):
            The data set.
        feature_maps (`str`, *optional*):
            Folder of a [`FeatureMapStore`] of its images.
        backbone (`str`, *optional*):
            Folder or id of the backbone that made the feature maps, for a model that takes images after training; or
            of the one that is trained along.
        config (`dict`, *optional*):
            Fields of the model's config, such as `model` of a [`Recipe`]. Without feature maps it must have
            `freeze_backbone=False`.
        init_from (`str`, *optional*):
            For a pretrained backbone that is trained along: output folder of a finished run on its feature maps, with
            whose models training begins and whose image size it has, see [`WarmStart`].

    Raises:
        ValueError: If there are neither, or they do not belong together; names the difference. So it does images that
            have changed since the store was made of them.
    """
    config = dict(config or {})
    trains_pretrained = config.get("backbone_config") is None and config.get("freeze_backbone") is False
    if trains_pretrained and feature_maps is not None:
        raise ValueError(
            "A backbone that is trained along (`freeze_backbone: false` in the recipe) takes images, which stored "
            "feature maps are made of once: leave --feature_maps out, or take the recipe of a frozen backbone."
        )
    if trains_pretrained:
        return _prepare_images(dataset, backbone, config, init_from)
    if init_from is not None:
        raise ValueError(
            "--init_from is what fine-tuning of a pretrained backbone begins with, such as by --recipe cub_finetune: "
            "leave it out, or take such a recipe."
        )
    if feature_maps is None:
        if config.get("backbone_config") is None or backbone is not None:
            raise ValueError(
                f"Training on {dataset.name} with a frozen backbone takes stored feature maps: make them once with "
                "`dedn features` and name their folder with --feature_maps."
            )
        size, height = dataset.splits["trainval"][0]["image"].size
        if size != height:
            raise ValueError(
                f"A backbone can be trained along on square images of one size, but {dataset.name} has one of {size} "
                f"× {height} pixels. Train on stored feature maps instead, see --feature_maps."
            )
        half = [0.5] * 3
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size=size, resample=2, image_mean=half, image_std=half
        )
        return ModelInputs(
            lambda images: PixelValueDataset(images, processor, keep_in_memory=True),
            processor,
            config,
            make_cropped=lambda images, crop: PixelValueDataset(images, processor, random_crop=crop),
        )

    store = FeatureMapStore(feature_maps)
    # A further view is of parts of the images.
    store.require(dataset=dataset.name, class_names=dataset.class_names, view=None)
    if backbone is not None and store.metadata["backbone"] is None:
        raise ValueError(
            f"{feature_maps} came from {store.metadata['hdf5']['file']}, which does not say which backbone made its "
            "maps, so that none can be added to the model: leave --backbone out, or extract a store with it."
        )
    channels, height, width = store.shape
    if height != width:
        raise ValueError(
            f"{feature_maps} holds maps of {height} × {width} regions, but the model takes square ones only."
        )
    views = store.views
    inputs = ModelInputs(
        lambda images: store.select(images["image_id"]),
        store.image_processor,
        config | {"backbone_config": None, "freeze_backbone": True, "feature_channels": channels, "grid_size": height},
        source={
            key: store.metadata[key]
            for key in ("backbone", "backbone_sha256", "image_size", "compute_dtype", "hdf5")
            if store.metadata.get(key) is not None
        }
        | ({"views": 1 + len(views)} if views else {}),
    )
    if views:
        inputs.make_views = lambda images, seed: RandomViewDataset(
            [view.select(images["image_id"]) for view in (store, *views)], seed
        )
    images = datasets.concatenate_datasets([*dataset.splits.values()])
    _tell_removed(store, dataset, images)
    # Files are read once, not by each process.
    from_main(lambda: store.require_unchanged(images))
    for split in dataset.splits.values():
        # Here, because the test images are not asked for before training has ended.
        inputs.make(split)
    if backbone is not None:
        inputs.backbone = load_backbone(backbone)
        store.require(backbone_sha256=fingerprint_weights(inputs.backbone))
    return inputs


def _prepare_images(dataset, backbone, config, init_from) -> ModelInputs:
    """Images for a pretrained backbone that is trained along."""
    if backbone is None or init_from is None:
        raise ValueError(
            "The recipe trains a pretrained backbone along (`freeze_backbone: false`): name it with --backbone, and "
            "with --init_from the output folder of a finished run on its feature maps, with whose models training "
            "begins."
        )
    warm_start, model = WarmStart(init_from), load_backbone(backbone)
    source = {
        "backbone": source_name(backbone),
        "backbone_sha256": fingerprint_weights(model),
        "image_size": warm_start.results["settings"].get("image_size"),
        "init_from_sha256": warm_start.sha256,
    }
    warm_start.require(dataset, source["backbone_sha256"])
    image_size = source["image_size"]
    processor = image_processor_of(backbone, image_size)
    channels, height, _ = feature_map_shape(partial(backbone_feature_map, model), image_size, source["backbone"])
    backbone_config = copy.deepcopy(model.config)
    backbone_config._name_or_path = ""  # which may be a path of this machine
    return ModelInputs(
        lambda images: PixelValueDataset(images, processor),
        processor,
        config | {"backbone_config": backbone_config, "feature_channels": channels, "grid_size": height},
        backbone=model,
        source=source,
        make_cropped=lambda images, crop: PixelValueDataset(images, processor, random_crop=crop),
        warm_start=warm_start,
    )


def _tell_removed(store: FeatureMapStore, dataset: GzslDataset, images: datasets.Dataset):
    """Warns of feature maps whose images are gone; a ValueError that names classes that are left without any image."""
    removed = ~np.isin(store.image_ids, images["image_id"][:])
    lost = np.setdiff1d(store.labels, images["label"][:])
    if len(lost):
        raise ValueError(
            f"{dataset.name} has no image any more of {', '.join(dataset.class_names[label] for label in lost[:5])}"
            f"{', …' if len(lost) > 5 else ''}, of which {store.path} has feature maps: without images a class would "
            "count as unseen. Put them back, or extract a store of the data set as it is now into another folder."
        )
    if removed.any():
        warnings.warn(
            f"{removed.sum()} of the {len(store)} images that {store.path} was made of are not in {dataset.name} any "
            f"more, such as image id {store.image_ids[removed][0]} of "
            f"{dataset.class_names[store.labels[removed][0]]}: they are left out.",
            stacklevel=3,
        )
