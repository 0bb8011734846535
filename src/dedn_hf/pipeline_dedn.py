"""Pipeline that names an image's class, also one that is described on the spot, and its attributes."""

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.image_utils import load_image
from transformers.models.auto.image_processing_auto import AutoImageProcessor


class ZeroShotAttributeClassificationPipeline(Pipeline):
    """
    Zero-shot classification of images by attributes, with a [`DednModel`] that has a backbone.

    The classes to choose among are the model's own, seen or unseen, or new ones that are described by attributes.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classifier = pipeline("zero-shot-attribute-classification", model="org/dedn-birds", trust_remote_code=True)
    >>> classifier("bird.png")
    >>> classifier("bird.png", candidate_labels={"my bird": ["red wing", "long tail"], "other": {"blue wing": 0.8}})
    ```

    What the scores mean:

    - a label's score is the softmax over the candidates of their class scores after calibration (see `calibration` in
      [`DednConfig`]), so that the scores of all candidates sum to 1. It says which of the candidates fits best, not
      whether any of them fits: a single candidate always has 1.
    - an attribute's score is an estimate, from 0 to 1, of how strongly the class of the image has the attribute, see
      [`DednModel.attribute_probabilities`]. It does not depend on the candidates. For CUB, where the strength of an
      attribute is the share of annotators who saw it, it estimates that share.
    - an attribute's contribution is what it adds to the class score of the first label over what it adds to that of
      the average candidate, see [`DednPrediction`]: why this class and no other. It is 0 for an attribute of which the
      class has no more than the average candidate, and so for all of them where there is a single candidate.

    The task identifier is `"zero-shot-attribute-classification"`.
    """

    _load_processor = False
    _load_image_processor = None  # of a model that is loaded already it is found below
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.model.config.backbone_config is None:
            raise ValueError(
                "This model has no backbone (`config.backbone_config` is None), so that it takes feature maps and no "
                "images. Give it the backbone that its feature maps came from with `model.set_backbone`."
            )
        self.model.check_classes()
        if self.image_processor is None:
            self.image_processor = self.processor or _image_processor_of(self.model)
        self.model.eval()
        self.group_of_attribute = {
            index: group for group, indices in self.model.config.attribute_groups.items() for index in indices
        }

    def __call__(self, inputs, candidate_labels=None, **kwargs: Any):
        """
        Finds the class and the attributes of images.

        Args:
            inputs (`str`, `PIL.Image` or a list, [`~torch.utils.data.Dataset`] or generator of them):
                A path or URL of an image, or an image.
            candidate_labels (`list[str]` or `dict[str, Any]`, *optional*, defaults to all classes of the model):
                Names of classes that the model knows; or, by name, descriptions of classes, each of which is

                - `{"attribute": strength}`, where 1 is the strength that the attribute has in the class of the model
                  that has it most, and 0 is none;
                - a list of attributes that the class has, each with strength 1;
                - a row of the class-attribute matrix, A numbers on the scale of the model's own matrix;
                - `None`, for a class that the model knows.

                Rows are prepared once per call.
            unnamed_attributes (`str`, *optional*, defaults to `"mean"`):
                What a description means by the attributes that it does not name: `"mean"` is nothing in particular,
                filled with the mean over the model's seen classes; `"zero"` is that the class has none of them.
            calibration (`float`, *optional*, defaults to that of the model's config):
                γ, what the class scores of candidates that the model was trained on have to give way to the others. Of
                no effect where all candidates are seen or all unseen.
            top_k (`int`, *optional*, defaults to 5):
                How many labels are returned at most.
            top_attributes (`int`, *optional*, defaults to 10):
                How many attributes are returned at most.
            attributes_by (`str`, *optional*, defaults to `"score"`):
                What chooses and sorts the attributes: `"score"` for what the image shows most, `"contribution"` for
                what speaks most for the first label.
            threshold (`float`, *optional*, defaults to 0.0):
                The lowest score with which a label is returned. Scores are not changed by what is left out.
            return_attention (`bool`, *optional*, defaults to `False`):
                Whether to return where the region attention of each returned attribute looks.
            batch_size (`int`, *optional*, defaults to 1):
                Images that go through the model together.
            timeout (`float`, *optional*):
                Seconds to wait for an image from the web; `None` is for ever.

        Returns:
            `dict`, or for several images a `list` or iterator of them. Each has `"labels"`, a list of
            `{"label", "score", "seen"}` (`seen`: whether the model was trained on this class) by descending score, and
            `"attributes"`, a list of `{"label", "group", "score", "contribution"}` by descending `attributes_by`. With
            `return_attention` an attribute also has `"attention"`: a `torch.Tensor` of shape `(height, width)` of the
            image (upright, as its EXIF tag says) whose values are each pixel's share of the attention, experts mixed
            as their scores are. It sums to 1 and is 0 where the image was cropped away.

        Raises:
            ValueError: If a class or attribute is unknown (names the closest), a description or parameter is not as it
                should be, or an image cannot be read (names which one).
        """
        return super().__call__(inputs, candidate_labels=candidate_labels, **kwargs)

    def prepare_call(self, **parameters: Any) -> Callable[[list], list[dict]]:
        """
        A call that is made again and again: candidates are prepared once.

        Args:
            parameters:
                Those of a call.

        Returns:
            `Callable[[list], list[dict]]`: a function of images, as [`preprocess`] made them ready, that go through
            the model together. It gives a result for each, and several threads may call it.

        Raises:
            ValueError: as a call does.
        """
        _, forward, postprocess = self._sanitize_parameters(**parameters)
        forward, candidates = self._prepare(**(self._forward_params | forward))
        postprocess = self._postprocess_params | postprocess | candidates

        def classify(inputs: list) -> list[dict]:
            batch = {"pixel_values": torch.cat([image["pixel_values"] for image in inputs])}
            outputs = self.forward(batch | {"size": [image["size"] for image in inputs]}, **forward)
            columns = [value.split(1) if isinstance(value, torch.Tensor) else value for value in outputs.values()]
            return [self.postprocess(dict(zip(outputs, row)), **postprocess) for row in zip(*columns)]

        return classify

    def _sanitize_parameters(
        self,
        candidate_labels=None,
        unnamed_attributes=None,
        calibration=None,
        return_attention=None,
        top_k=None,
        top_attributes=None,
        attributes_by=None,
        threshold=None,
        timeout=None,
    ):
        for name, value in (("top_k", top_k), ("top_attributes", top_attributes)):
            if value is not None and value < 0:
                raise ValueError(f"`{name}` is a number of entries and cannot be negative, but it is {value}.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` is for scores from 0 to 1, but it is {threshold}.")
        if unnamed_attributes not in (None, "mean", "zero"):
            raise ValueError(f"`unnamed_attributes` must be 'mean' or 'zero', but it is {unnamed_attributes!r}.")
        if attributes_by not in (None, "score", "contribution"):
            raise ValueError(f"`attributes_by` must be 'score' or 'contribution', but it is {attributes_by!r}.")

        def given(**parameters):
            return {name: value for name, value in parameters.items() if value is not None}

        forward = given(
            candidate_labels=candidate_labels,
            unnamed_attributes=unnamed_attributes,
            calibration=calibration,
            return_attention=return_attention,
        )
        postprocess = given(
            top_k=top_k, top_attributes=top_attributes, attributes_by=attributes_by, threshold=threshold
        )
        return given(timeout=timeout), forward, postprocess

    # A call goes through one of these two, once, with the parameters of the pipeline and of the call together.

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        forward_params, candidates = self._prepare(**forward_params)
        return super().run_single(inputs, preprocess_params, forward_params, postprocess_params | candidates)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        forward_params, candidates = self._prepare(**forward_params)
        if isinstance(inputs, Sized):
            inputs = _NumberedDataset(inputs)
        else:
            inputs = (_Numbered(index, image) for index, image in enumerate(inputs))
        return super().get_iterator(
            inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params | candidates
        )

    def _prepare(
        self, candidate_labels=None, unnamed_attributes="mean", calibration=None, return_attention=False
    ) -> tuple[dict, dict]:
        """Parameters of `_forward`, and those of `postprocess` that tell the candidates."""
        config = self.model.config
        forward = {"calibration": calibration, "return_attention": return_attention}
        if candidate_labels is None:
            names = [config.id2label[index] for index in range(config.num_labels)]
            seen = [index in config.seen_class_ids for index in range(config.num_labels)]
            return forward | {"class_attributes": None, "seen": None}, {"names": names, "seen": seen}
        if isinstance(candidate_labels, dict):
            descriptions = candidate_labels
        else:
            names = [candidate_labels] if isinstance(candidate_labels, str) else list(candidate_labels)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"`candidate_labels` has {twice} more than once. Name each class once.")
            descriptions = dict.fromkeys(names)
        if not descriptions:
            raise ValueError("`candidate_labels` is empty. Name one class at least, or leave it out for all classes.")

        rows, seen = [], []
        for name, description in descriptions.items():
            if description is not None:
                rows.append(self._class_row(name, description, unnamed_attributes))
                seen.append(name in config.trained_class_names)
            elif name in config.label2id:
                rows.append(self.model.class_attributes[config.label2id[name]].float())
                seen.append(config.label2id[name] in config.seen_class_ids)
            else:
                raise ValueError(
                    f"The model has no class {name!r}; {_closest(name, config.label2id)}. To add a class, describe "
                    f"it: `candidate_labels={{{name!r}: [attributes it has]}}`."
                )
        forward |= {"class_attributes": torch.stack(rows), "seen": torch.tensor(seen)}
        return forward, {"names": list(descriptions), "seen": seen}

    def _class_row(self, name: str, description, unnamed_attributes: str) -> torch.Tensor:
        """A row of the class-attribute matrix, on the scale of the model's own matrix."""
        attribute_names, known = self.model.config.attribute_names, self.model.class_attributes.float()
        if isinstance(description, str):
            description = [description]
        if isinstance(description, (list, tuple, set)) and all(isinstance(entry, str) for entry in description):
            description = dict.fromkeys(description, 1.0)
        if not isinstance(description, dict):
            row = torch.as_tensor(description, dtype=known.dtype, device=known.device)
            if row.shape != known.shape[1:] or not row.isfinite().all():
                raise ValueError(
                    f"The row of class {name!r} must be {len(attribute_names)} finite numbers, one for each of the "
                    f"model's attributes (`config.attribute_names`), but it has shape {tuple(row.shape)}."
                )
            return row

        if not description:
            raise ValueError(f"The description of class {name!r} names no attribute. Name at least one.")
        if unnamed_attributes == "zero":
            row = torch.zeros_like(known[0])
        else:
            seen = self.model.seen_classes
            row = (known[seen] if seen.any() else known).mean(dim=0)
        strongest = known.amax(dim=0)
        for attribute, strength in description.items():
            if attribute not in attribute_names:
                raise ValueError(
                    f"Class {name!r} is described by {attribute!r}, which is no attribute of the model; "
                    f"{_closest(attribute, attribute_names)}."
                )
            if not 0 <= strength <= 1:
                raise ValueError(
                    f"Attribute {attribute!r} of class {name!r} has strength {strength}, but strengths are from 0 to "
                    "1, as strong as in any class of the model. Values on the matrix's own scale can be given as a "
                    "row of all attributes."
                )
            index = attribute_names.index(attribute)
            row[index] = strength * strongest[index]
        return row

    def preprocess(self, image, timeout=None):
        index = None
        if isinstance(image, _Numbered):
            index, image = image
        try:
            loaded = load_image(image, timeout=timeout)
            inputs = self.image_processor(images=loaded, return_tensors="pt")
        except Exception as error:
            place = "The image" if index is None else f"Image {index} (counted from 0)"
            path = image if isinstance(image, str) else getattr(image, "filename", "")
            path = f" {path[:200]!r}" if path else f" of type {type(image).__name__}"
            raise ValueError(f"{place},{path}, cannot be read: {error}") from error
        inputs = inputs.to(self.dtype)
        inputs["size"] = loaded.size
        return inputs

    def _forward(self, model_inputs, class_attributes, seen, calibration, return_attention):
        prediction = self.model.predict(
            pixel_values=model_inputs["pixel_values"],
            class_attributes=class_attributes,
            seen=seen,
            calibration=calibration,
            output_attentions=return_attention,
        )
        results = {
            "logits": prediction.logits,
            "score": prediction.attribute_probabilities,
            "contribution": prediction.contributions,
            "size": model_inputs["size"],
        }
        if return_attention:
            results["attention"] = prediction.attentions["mixed"]
        return results

    def postprocess(
        self, model_outputs, names, seen, top_k=5, top_attributes=10, attributes_by="score", threshold=0.0
    ):
        config = self.model.config
        scores, order = model_outputs["logits"][0].softmax(dim=-1).sort(descending=True, stable=True)
        labels = [
            {"label": names[index], "score": score, "seen": seen[index]}
            for score, index in zip(scores[:top_k].tolist(), order[:top_k].tolist())
            if score >= threshold
        ]
        order = model_outputs[attributes_by][0].argsort(descending=True, stable=True)[:top_attributes]
        scores, contributions = (model_outputs[name][0, order].tolist() for name in ("score", "contribution"))
        attributes = [
            {
                "label": config.attribute_names[index],
                "group": self.group_of_attribute[index],
                "score": score,
                "contribution": contribution,
            }
            for index, score, contribution in zip(order.tolist(), scores, contributions)
        ]
        if "attention" in model_outputs and attributes:
            width, height = model_outputs["size"]
            maps = attention_in_image(model_outputs["attention"][0, order], self.image_processor, width, height)
            for attribute, attention in zip(attributes, maps):
                attribute["attention"] = attention
        return {"labels": labels, "attributes": attributes}


class _Numbered(NamedTuple):
    """An image and its place, so that an error can name it."""

    index: int
    image: Any


class _NumberedDataset(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            return _Numbered(index, self.images[index])
        except Exception as error:  # a data set may decode its images
            raise ValueError(f"Image {index} (counted from 0) cannot be read: {error}") from error


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
    if image_processor.do_resize:
        size = dict(image_processor.size)
        if set(size) == {"shortest_edge"} and image_processor.do_center_crop:
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
    if image_processor.do_center_crop:
        crop_width, crop_height = image_processor.crop_size["width"], image_processor.crop_size["height"]
    left, top = (resized_width - crop_width) // 2, (resized_height - crop_height) // 2
    x_scale, y_scale = width / resized_width, height / resized_height
    return left * x_scale, top * y_scale, (left + crop_width) * x_scale, (top + crop_height) * y_scale


def _image_processor_of(model):
    """The image processor in the folder that a model was loaded from."""
    folder = model.name_or_path
    if os.path.isdir(folder):
        with contextlib.suppress(OSError):
            return AutoImageProcessor.from_pretrained(folder)
    raise ValueError(
        "No image processor was given, and there is none where the model was loaded from"
        + (f" ({folder})" if folder else "")
        + ". Pass `image_processor=`, which may be a folder or the name of a model that has one."
    )


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


def _closest(name: str, names) -> str:
    """The names that are most alike, whatever the order of their words."""

    def words(text):
        return " ".join(sorted(re.findall(r"[^\W_]+", str(text).lower())))

    by_words = {words(candidate): candidate for candidate in names}
    closest = difflib.get_close_matches(words(name), by_words, n=3, cutoff=0.3) or list(by_words)[:3]
    return "the closest are " + ", ".join(repr(by_words[match]) for match in closest)


__all__ = ["ZeroShotAttributeClassificationPipeline"]
