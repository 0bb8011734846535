"""Pipeline that names an image's class, also one that is described on the spot, and its attributes."""

import contextlib
import copy
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .answers_dedn import (
    PropertyQuestionResult,
    QuestionResult,
    answer_log_likelihoods,
    attribute_questions,
    property_questions,
)
from .candidates_dedn import (
    as_integer,
    as_number,
    class_rows,
    closest_names,
    names_and_seen,
    prose_of,
    read_answers,
    read_candidates,
)
from .images_dedn import attention_in_image, crop_in_image, load_any_image
from .names_dedn import describe_attribute
from .ranks_dedn import sure_ranks
from .words_dedn import UnderstoodResult

PARAMETERS = (
    "candidate_labels",
    "unnamed_attributes",
    "calibration",
    "attention",
    "average_flips",
    "top_k",
    "top_attributes",
    "attributes_by",
    "observed",
    "ask",
    "ask_by",
    "none_of_these",
    "threshold",
    "timeout",
)
# The others have no `None`: it is as if they were not given.
PARAMETERS_WITH_NONE = {
    "candidate_labels",
    "calibration",
    "attention",
    "top_k",
    "top_attributes",
    "observed",
    "timeout",
}
# A larger γ would leave float32 no digits for the class scores.
LARGEST_CALIBRATION = 10_000
# The label of the row that `none_of_these` adds.
NONE_OF_THESE = "none of these"
NOT_GIVEN = object()
_process = os.getpid()


class LabelResult(TypedDict):
    """
    A candidate, as a result tells of it.

    Args:
        label (`str`):
            Its name.
        score (`float`):
            Its share of the softmax over all candidates, after calibration and by the model's `score_scale`.
        seen (`bool`):
            Whether the model was trained on images of this class.
    """

    label: str
    score: float
    seen: bool


class AttributeResult(TypedDict):
    """
    An attribute, as a result tells of it.

    Args:
        label (`str`):
            Its name in `config.attribute_names`; [`readable_attribute`] makes it readable.
        group (`str`):
            The group that it is of, see `attribute_groups` in [`DednConfig`].
        score (`float`):
            From 0 to 1, how strongly the class of the image has it.
        contribution (`float`):
            What it adds to the difference of the class scores of the first candidate and the runner-up; below 0 where
            it speaks for the runner-up.
        observed (`float`, only where a person answered):
            The answer, from 0 to 1; what it adds is in the contribution, too.
        attention (`list[list[float]]` or `np.ndarray`, only when asked for):
            With `attention="grid"` rows of the model's grid, from top to bottom: each region's share of the attention.
            With `attention="image"` a float32 array of shape `(height, width)` of the upright image: each pixel's
            share, 0 where the image was cropped away. Either sums to 1; the experts are mixed as their scores are.
    """

    label: str
    group: str
    score: float
    contribution: float
    observed: NotRequired[float]
    attention: NotRequired[list[list[float]] | np.ndarray]


class RankResult(TypedDict):
    """
    A rank that the image is sure to be of: a candidate, or what stands above candidates (`class_parents` in
    [`DednConfig`]).

    Args:
        label (`str`):
            Its name.
        score (`float`):
            The sum of the scores of all candidates that are of it, 0.8 or more.
        depth (`int`):
            How many ranks stand above it.
    """

    label: str
    score: float
    depth: int


class ImageResult(TypedDict):
    """
    What the pipeline says of an image: plain Python, which goes to JSON as it is but for `attention="image"`. The keys
    depend on nothing but `attention`, `observed`, `ask` and the candidates: `ranks` and `understood` come with some.

    Args:
        labels (`list[LabelResult]`):
            The best `top_k` candidates by descending score.
        fit (`float`, *optional*):
            From 0 to 1, how well the candidate that explains the image best does so: how probable it is that the image
            shows one of them, if as many images do as do not. It is that of the image, and answers do not change it.
            `None` of a model that was not taught it.
        attributes (`list[AttributeResult]`):
            The first `top_attributes`: by default those that set the first candidate apart from the runner-up most,
            see `attributes_by`.
        crop (`list[float]`, only with `attention="grid"`):
            Left, top, right and bottom of what the grid lies on, in pixels of the upright image; beyond its edges
            where the image is padded.
        observed (`dict[str, float | None]`, only with `observed`):
            Attribute, as `config.attribute_names` has it → answer, from 0 to 1, or `None` for one that was not known.
        ask (`list[QuestionResult]` or `list[PropertyQuestionResult]`, only with `ask`):
            What to ask next, best first: nothing that was answered, and nothing that would tell nothing. With
            `ask_by="property"` the latter.
        ranks (`list[RankResult]`, only where a candidate has a parent):
            What is sure, the finest rank first, then those above it: the first is what to call the image. Empty if not
            even a rank at the top is sure.
        understood (`dict[str, UnderstoodResult]`, only with candidates described in prose):
            Candidate → what its description was understood as.
    """

    labels: list[LabelResult]
    fit: float | None
    attributes: list[AttributeResult]
    crop: NotRequired[list[float]]
    observed: NotRequired[dict[str, float | None]]
    ask: NotRequired[list[QuestionResult] | list[PropertyQuestionResult]]
    ranks: NotRequired[list[RankResult]]
    understood: NotRequired[dict[str, UnderstoodResult]]


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

    - a label's score is the softmax over the candidates of their class scores after calibration (see `calibration` and
      `score_scale` in [`DednConfig`]), so that the scores of all candidates sum to 1. It says which of the candidates
      fits best, not whether any of them fits: a single candidate always has 1. Whether any does is what `fit` says,
      see [`ClassFit`].
    - an attribute's score is an estimate, from 0 to 1, of how strongly the class of the image has the attribute, see
      [`DednModel.attribute_probabilities`]. It does not depend on the candidates. For CUB, where the strength of an
      attribute is the share of annotators who saw it, it estimates that share.
    - an attribute's contribution is what it adds to the difference of the class scores of the first candidate and the
      runner-up, over what it adds where an image has as much of it as usual, see [`DednPrediction`]: why this class
      and not that one. It is above 0 where the image has more of what the first has more of, or less of what the
      runner-up has more of; below 0 it speaks for the runner-up. It is 0 where there is a single candidate.
      [`~ZeroShotAttributeClassificationPipeline.in_words`] puts it into words.

    The task identifier is `"zero-shot-attribute-classification"`.
    """

    _load_processor = False
    _load_image_processor = None  # of a model that is loaded already it is found below
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        _check_loading(kwargs)
        _check_devices(kwargs.get("model", args[0] if args else None))
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
        _bind_modules(self, self.model, self.model.config)

    def __getstate__(self):
        # Pipelines count their calls, which would make another of it for the cache of a data set.
        return self.__dict__ | {"call_count": 0}

    def __call__(self, inputs=None, candidate_labels: Any = NOT_GIVEN, **kwargs: Any):
        """
        Finds the class and the attributes of images.

        Args:
            inputs:
                An image, or several; also by the name `images` or `image`. An image is

                - a path, URL or base64 string, the bytes of a file, or an open one;
                - a `PIL.Image.Image`;
                - an array or tensor of shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, uint8 or floats
                  from 0 to 1. Where both could be channels they come last in an array and first in a tensor;
                - a row of a data set with a column `"image"`.

                Several are a list, tuple or column of a data set, an array of shape (N, H, W, C) or a tensor (N, C, H,
                W), a data set or an iterator.
            candidate_labels (`list[str]` or `dict[str, Any]`, *optional*, defaults to all classes of the model):
                Names of classes that the model knows, or, by name, descriptions of classes. Names of classes and
                attributes may be written in any usual way: "Brandt's Cormorant", "black-footed albatross", "wing
                colour: blue", "blue wing". A result has a class's name as it is written here. A description is

                - `{"attribute": strength}`, from 0 to 1, where 1 is the largest entry of the model's matrix of classes
                  and attributes: the scale of all strengths, as in `observed` and in an attribute's score;
                - a list of attributes that the class has, each with strength 1;
                - A strengths, one for each of the model's attributes, as a row of `model.strengths(matrix)`;
                - prose, such as "a small songbird with a blue head and a short bill". The result has what was
                  understood of it, and what not; see [`understand`];
                - `{"images": [...]}` with images of the class, `{"text": prose}`, `{"attributes": ...}` with one of
                  the above, or several of these: the images say of all attributes how strong they are, as
                  [`~ZeroShotAttributeClassificationPipeline.describe`] does, and of those that are named too the
                  description counts like five images;
                - `None`, for a class that the model knows.

                Rows are prepared once per call. A list of such lists and dicts has one for each image of a list.
            unnamed_attributes (`str`, *optional*, defaults to `"likely"`):
                What a description means by the attributes that it does not name: `"likely"` is what those that it
                names let expect, by the model's seen classes; `"mean"` is nothing in particular, filled with their
                mean; `"zero"` is that the class has none of them.
            calibration (`float`, *optional*, defaults to that of the model's config):
                γ, what the class scores of candidates that the model was trained on have to give way to the others. Of
                no effect where all candidates are seen or all unseen.
            attention (`str`, *optional*):
                Where the region attention of each returned attribute looks: `"grid"` gives lists, `"image"` arrays of
                the image's size. By default there is none.
            average_flips (`bool`, *optional*, defaults to `False`):
                Whether to take the mean of what is said of an image and of its mirror image, for twice the time.
            top_k (`int`, *optional*, defaults to 5):
                How many labels are returned at most; `None` is all.
            top_attributes (`int`, *optional*, defaults to 10):
                How many attributes are returned at most; `None` is all.
            attributes_by (`str`, *optional*, defaults to `"contribution"`):
                What chooses and sorts the attributes: `"contribution"` for what sets the first candidate apart from
                the runner-up, by its amount; `"score"` for what the image shows most, and so where there is a single
                candidate.
            observed (`dict[str, bool | float | None]`, *optional*):
                What a person says of the image, or of all of them: attribute → `True`, `False`, a strength from 0 to 1
                or `None` for what is not known. Labels and contributions follow, see
                [`~ZeroShotAttributeClassificationPipeline.rescore`].
            ask (`int`, *optional*, defaults to 0):
                How many questions are returned at most that a person should answer next.
            ask_by (`str`, *optional*, defaults to `"attribute"`):
                What is asked for: `"attribute"` for one attribute a question, to be answered by yes or no;
                `"property"` for one property, such as the wing color, to be answered by a value: yes to this one and
                no to the others, see [`picked_answers`]. One of which a value was answered by yes is not asked again.
            none_of_these (`bool`, *optional*, defaults to `False`):
                Whether the labels have a row `"none of these"` with the score 1 − `fit`; the others are multiplied by
                `fit`, so that all of them still sum to 1.
            threshold (`float`, *optional*, defaults to 0.0):
                The lowest score with which a label is returned. Scores are not changed by what is left out.
            batch_size (`int`, *optional*, defaults to 1):
                Images that go through the model together.
            num_workers (`int`, *optional*, defaults to 0):
                Processes that read images.
            timeout (`float`, *optional*):
                Seconds to wait for an image from the web; `None` is for ever.

        Returns:
            [`ImageResult`] of an image, a `list` of them for several, or an iterator of them for a data set or an
            iterator.

        Raises:
            TypeError: If a parameter does not exist (names the closest).
            ValueError: If a class or attribute is unknown or may be several (names the closest), a class is described
                by nothing, a description or parameter is not as it should be, or an image cannot be read (names which
                one).
        """
        _check_names(kwargs)
        named = {name: kwargs.pop(name) for name in ("images", "image") if name in kwargs}
        given = [value for value in (inputs, *named.values()) if value is not None]
        if len(given) != 1:
            which = "which image" if not given else "the images only once"
            raise ValueError(f"Say {which}: `classifier(image)` or `classifier([image, another])`.")
        _check_loading(kwargs)
        if candidate_labels is not NOT_GIVEN:
            kwargs["candidate_labels"] = candidate_labels
        (inputs,) = given
        _do_without_threads_if_forked()
        if isinstance(inputs, Mapping) and _are_several(inputs.get("image")):
            inputs = inputs["image"]
        if not _are_several(inputs):
            return super().__call__(_Numbered(None, inputs), **kwargs)
        is_data_set = isinstance(inputs, Dataset) or hasattr(inputs, "column_names")
        if isinstance(inputs, (Sequence, np.ndarray, torch.Tensor)) or (is_data_set and hasattr(inputs, "__len__")):
            images = _NumberedDataset(inputs)
        elif isinstance(inputs, Sized):
            images = _NumberedDataset(list(inputs))
        else:
            images = _NumberedStream(inputs)
        results = super().__call__(images, **kwargs)
        if isinstance(inputs, Sized) and not is_data_set:
            return list(results)
        return _Results(results, len(images)) if isinstance(images, Sized) else (result for result in results)

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
        forward, candidates = self._prepare(None, **(self._forward_params | forward))
        postprocess = self._postprocess_params | postprocess | candidates

        def classify(inputs: list) -> list[dict]:
            _do_without_threads_if_forked()
            batch = {"pixel_values": torch.cat([image["pixel_values"] for image in inputs])}
            outputs = self.forward(batch | {"size": [image["size"] for image in inputs]}, **forward)
            columns = [value.split(1) if isinstance(value, torch.Tensor) else value for value in outputs.values()]
            return [self.postprocess(dict(zip(outputs, row)), **postprocess) for row in zip(*columns)]

        return classify

    def describe(self, images, batch_size: int = 8) -> dict[str, float]:
        """
        A class as the model sees it in some images of it: to be corrected by hand, and given as a description.

        Args:
            images:
                An image of the class, or several, as in a call.
            batch_size (`int`, *optional*, defaults to 8):
                Images that go through the model together.

        Returns:
            `dict[str, float]`: attribute, as `config.attribute_names` has it → strength, from 0 to 1, see
            [`~DednModel.strengths_in_images`].

        Raises:
            ValueError: If there is no image, or one cannot be read.
        """
        return self._describe(images, batch_size)[0]

    def _describe(self, images, batch_size: int = 8) -> tuple[dict[str, float], int]:
        images = list(images) if _are_several(images) else [images]
        if not images:
            raise ValueError("There are no images to describe it by: give one at least.")
        scores = []
        for start in range(0, len(images), as_integer("batch_size", batch_size, 1)):
            batch = [_Numbered(start + place, image) for place, image in enumerate(images[start : start + batch_size])]
            pixel_values = torch.cat([self.preprocess(image)["pixel_values"] for image in batch])
            scores.append(self.model.predict(pixel_values.to(self.device)).attribute_scores.cpu())
        strengths = self.model.strengths_in_images(torch.cat(scores).to(self.model.class_attributes.device))
        return dict(zip(self.model.config.attribute_names, strengths.tolist())), len(images)

    def in_words(self, attribute: AttributeResult) -> str:
        """
        An attribute of a result in words that say whether the image has more or less of it than usual, such as "pink
        breast" or "no pink breast"; or what a person answered, as "pink breast (observed)".

        Args:
            attribute ([`AttributeResult`]):
                From `"attributes"` of a result.

        Returns:
            `str`.
        """
        index = self.model.config.attribute_names.index(attribute["label"])
        answer = attribute.get("observed")
        if answer is not None:
            return f"{describe_attribute(attribute['label'], answer < 0.5, answer)} (observed)"
        usual = self.model.attribute_probabilities(self.model.attribute_levels)[index].item()
        return describe_attribute(attribute["label"], attribute["score"] < usual, attribute["score"])

    def _sanitize_parameters(self, **parameters):
        _check_names(parameters)
        for name, value in list(parameters.items()):
            if value is None and name not in PARAMETERS_WITH_NONE:
                del parameters[name]
            elif value is not None:
                parameters[name] = self._read_parameter(name, value)

        def given(*names):
            return {name: parameters[name] for name in names if name in parameters}

        forward = given("candidate_labels", "unnamed_attributes", "calibration", "attention", "average_flips")
        return (
            given("timeout"),
            forward,
            given(
                "top_k", "top_attributes", "attributes_by", "observed", "ask", "ask_by", "none_of_these", "threshold"
            ),
        )

    def _read_parameter(self, name: str, value):
        if name in ("top_k", "top_attributes"):
            return as_integer(name, value, 0, ", or None for all")
        if name == "ask":
            return as_integer(name, value, 0)
        if name == "observed":
            return read_answers(self.model.config, value)
        if name == "candidate_labels":
            return read_candidates(self.model.config, value, self._describe)
        if name in ("average_flips", "none_of_these"):
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"`{name}` must be True or False, but it is {value!r}.")
            if name == "none_of_these" and value and not self.model.knows_what_fits:
                raise ValueError(
                    "This model was not taught how well a class explains an image, so that it cannot say "
                    "`none_of_these`: train it anew by the protocol `validated`."
                )
            return bool(value)
        choices = {
            "unnamed_attributes": ("likely", "mean", "zero"),
            "attributes_by": ("score", "contribution"),
            "attention": ("grid", "image"),
            "ask_by": ("attribute", "property"),
        }
        if name in choices:
            if not isinstance(value, str) or value not in choices[name]:
                *first, last = map(repr, choices[name])
                raise ValueError(f"`{name}` must be {', '.join(first)} or {last}, but it is {value!r}.")
            return value
        number = as_number(value)
        if name == "threshold" and not 0 <= number <= 1:
            raise ValueError(f"`threshold` is for scores from 0 to 1, but it is {value!r}.")
        if name == "calibration" and not abs(number) <= LARGEST_CALIBRATION:
            raise ValueError(
                f"`calibration` must be a number from {-LARGEST_CALIBRATION} to {LARGEST_CALIBRATION}, but it is "
                f"{value!r}."
            )
        if name == "timeout" and not 0 < number < math.inf:
            raise ValueError(f"`timeout` must be a number of seconds above 0 or None, but it is {value!r}.")
        return number

    # A call goes through one of these two, once, with the parameters of the pipeline and of the call together.

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        forward_params, candidates = self._prepare(1, **forward_params)
        return super().run_single(inputs, preprocess_params, forward_params, postprocess_params | candidates)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        num_images = len(inputs) if isinstance(inputs, Sized) else None
        forward_params, candidates = self._prepare(num_images, **forward_params)
        return super().get_iterator(
            inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params | candidates
        )

    def _prepare(
        self,
        num_images: int | None,
        candidate_labels=None,
        unnamed_attributes="likely",
        calibration=None,
        attention=None,
        average_flips=False,
    ) -> tuple[dict, dict]:
        """Parameters of `_forward`, and those of `postprocess` that tell the candidates."""
        if attention is not None:
            crop_in_image(self.image_processor, 1, 1)
        forward = {"calibration": calibration, "attention": attention, "class_attributes": None, "seen": None}
        forward["average_flips"] = average_flips
        if isinstance(candidate_labels, list):
            if num_images != len(candidate_labels):
                raise ValueError(
                    f"`candidate_labels` has a list of candidates for each image, {len(candidate_labels)} in all, but "
                    f"the number of images is {'not known' if num_images is None else num_images}. Give a list of as "
                    "many images, or one list of names or one dict for all."
                )
            for candidates in candidate_labels:
                class_rows(self.model, candidates, unnamed_attributes)
            forward |= {"lists": candidate_labels, "unnamed_attributes": unnamed_attributes}
            names, seen = map(
                list, zip(*(names_and_seen(self.model.config, candidates) for candidates in candidate_labels))
            )

            def rows_of(index):
                return class_rows(self.model, candidate_labels[index], unnamed_attributes)

            def targets_of(index):
                return self.model.class_targets(rows_of(index), names[index])
        else:
            names, seen = names_and_seen(self.model.config, candidate_labels)
            rows = class_rows(self.model, candidate_labels, unnamed_attributes)
            if candidate_labels is not None:
                forward |= {"class_attributes": rows, "seen": torch.tensor(seen)}

            targets = self.model.class_targets(rows, names)

            def rows_of(index):
                return rows

            def targets_of(index):
                return targets

        candidates = {"names": names, "seen": seen, "rows_of": rows_of, "targets_of": targets_of}
        return forward, candidates | {"attention": attention, "understood": prose_of(candidate_labels)}

    def preprocess(self, image, timeout=None):
        index = None
        if isinstance(image, _Numbered):
            index, image = image.index, image.image
        try:
            loaded = load_any_image(image, timeout)
            inputs = self.image_processor(images=loaded, return_tensors="pt")
        except Exception as error:
            place = "The image" if index is None else f"Image {index} (counted from 0)"
            path = os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
            path = f" {path[:200]!r}" if path else f" of type {type(image).__name__}"
            raise ValueError(f"{place},{path}, cannot be read: {error}") from error
        inputs = inputs.to(self.dtype)
        inputs["size"] = loaded.size
        inputs["index"] = index
        return inputs

    def _forward(
        self,
        model_inputs,
        class_attributes,
        seen,
        calibration,
        attention,
        average_flips,
        lists=None,
        unnamed_attributes="likely",
    ):
        options = {
            "calibration": calibration,
            "output_attentions": attention is not None,
            "average_flips": average_flips,
        }
        if lists is None:
            prediction = self.model.predict(
                pixel_values=model_inputs["pixel_values"], class_attributes=class_attributes, seen=seen, **options
            )
            return _columns(prediction) | {"size": model_inputs["size"]}

        index = model_inputs["index"] or 0  # a list of them, for a batch
        columns, inputs, kind = [], model_inputs["pixel_values"], "pixel_values"
        if not average_flips:  # the backbone is faster with all of them together
            inputs, kind = self.model.get_feature_map(inputs), "feature_map"
        for image, place in zip(inputs.split(1), index if isinstance(index, list) else [index]):
            prediction = self.model.predict(
                **{kind: image},
                class_attributes=class_rows(self.model, lists[place], unnamed_attributes),
                seen=torch.tensor(names_and_seen(self.model.config, lists[place])[1]),
                **options,
            )
            columns.append({name: value[0] for name, value in _columns(prediction).items()})
        results = {name: [values[name] for values in columns] for name in columns[0]}
        return results | {"size": model_inputs["size"], "index": index}

    def postprocess(
        self,
        model_outputs,
        names,
        seen,
        rows_of,
        targets_of,
        understood=None,
        attention=None,
        top_k=5,
        top_attributes=10,
        attributes_by="contribution",
        observed=None,
        ask=0,
        ask_by="attribute",
        none_of_these=False,
        threshold=0.0,
    ) -> ImageResult:
        config, size, index = self.model.config, model_outputs["size"], None
        if "index" in model_outputs:
            index = model_outputs["index"]
            names, seen, understood = names[index], seen[index], understood[index]
        logits, contributions = model_outputs["logits"][0], model_outputs["contribution"][0]
        rows = rows_of(index).cpu() if observed or ask else None
        if observed:
            evidence = self._evidence(rows, observed)
            logits = logits + evidence.sum(dim=-1)
            contributions = self._contributions(model_outputs["attribute_score"][0], rows, evidence, logits)
        fit, targets = None, targets_of(index)
        if targets is not None:
            scores = model_outputs["attribute_score"][0][None].to(targets.means.device)
            fit = self.model.class_probabilities(scores, targets).max().item()
        scores = (config.score_scale * logits).softmax(dim=-1)
        shown_fit = fit if none_of_these else None
        labels = self._labels(scores, logits, names, seen, shown_fit)
        labels = [entry for entry in labels[:top_k] if entry["score"] >= threshold]
        by = contributions if attributes_by == "contribution" and len(names) > 1 else model_outputs["score"][0]
        order = by.abs().argsort(descending=True, stable=True)[:top_attributes]
        attributes = [
            self._attribute_result(index, score, contribution, observed)
            for index, score, contribution in zip(
                order.tolist(), model_outputs["score"][0][order].tolist(), contributions[order].tolist()
            )
        ]
        result = {"labels": labels, "fit": fit, "attributes": attributes}
        result |= self._ranks(scores, names, shown_fit)
        if observed is not None:
            result["observed"] = dict(observed)
        if ask:
            result["ask"] = self._questions(scores, rows, observed or {}, ask, ask_by)
        if understood:
            result["understood"] = copy.deepcopy(understood)
        if attention is not None:
            maps = model_outputs["attention"][0][order]
            if attention == "grid":
                maps = maps.tolist()
                result["crop"] = list(crop_in_image(self.image_processor, *size))
            elif attributes:
                maps = attention_in_image(maps, self.image_processor, *size).numpy()
            for attribute, attention_map in zip(attributes, maps):
                attribute["attention"] = attention_map
        return result

    def rescore(
        self,
        result: ImageResult,
        observed: Mapping[str, bool | float | None],
        ask: int = 0,
        candidate_labels: Any = None,
        unnamed_attributes: str = "likely",
        ask_by: str = "attribute",
    ) -> ImageResult:
        """
        A result after a person's answers, without the image: what the call would have given that had these `observed`.

        An answer is weighed by how likely it is in each class, which is the class's strength of the attribute, kept
        between 0.1 and 0.9, since people err; what the image says of the attribute still counts beside it.

        Args:
            result ([`ImageResult`]):
                Of one image, with all labels (`top_k=None`), answered before or not. Of its attributes those that it
                has are sorted anew.
            observed (`dict[str, bool | float | None]`):
                All that is answered by now, as in a call: earlier answers that are not among it are taken back.
            ask (`int`, *optional*, defaults to 0):
                As in a call.
            candidate_labels, unnamed_attributes:
                Those of the call that gave the result.
            ask_by (`str`, *optional*, defaults to `"attribute"`):
                As in a call.

        Returns:
            [`ImageResult`]: another one.

        Raises:
            ValueError: If the result lacks labels or has others than these candidates, or answers are not as they
                should be.
        """
        config = self.model.config
        observed, ask = read_answers(self.model.config, observed), as_integer("ask", ask, 0)
        ask_by = self._read_parameter("ask_by", ask_by)
        candidates = (
            None if candidate_labels is None else read_candidates(self.model.config, candidate_labels, self._describe)
        )
        if isinstance(candidates, list):
            raise ValueError("`rescore` is for one image: give the candidates of that one.")
        names, seen = names_and_seen(self.model.config, candidates)
        scores = {entry["label"]: entry["score"] for entry in result["labels"]}
        none_of_these = NONE_OF_THESE in scores and NONE_OF_THESE not in names
        if none_of_these:
            del scores[NONE_OF_THESE]
        if set(scores) != set(names):
            more = [name for name in scores if name not in names]
            what = f"{more[0]!r}, which is none of the candidates" if more else f"{len(scores)} of {len(names)} labels"
            raise ValueError(
                f"The result has {what}: call with `top_k=None` and no `threshold`, and give `rescore` the "
                "`candidate_labels` of the call."
            )
        rows = class_rows(self.model, candidates, unnamed_attributes).cpu()
        # Up to one number that is the same for all, which a softmax does not see.
        logits = torch.tensor([scores[name] for name in names], dtype=torch.float64).clamp(min=1e-300).log()
        logits = logits / config.score_scale
        logits = logits - self._evidence(rows, result.get("observed") or {}).sum(dim=-1)
        evidence = self._evidence(rows, observed)
        logits = logits + evidence.sum(dim=-1)
        probabilities = (config.score_scale * logits).softmax(dim=-1)

        slope, offset = self.model.attribute_calibration.float().cpu()
        shown = torch.full_like(slope, math.nan)
        index_of = {name: index for index, name in enumerate(config.attribute_names)}
        for entry in result["attributes"]:
            shown[index_of[entry["label"]]] = entry["score"]
        # What tells nothing has no slope, and no contribution.
        shown = torch.where(slope > 0, (shown.logit(eps=1e-6) - offset) / slope, 0)
        contributions = self._contributions(shown, rows, evidence, logits)
        attributes = []
        for entry in result["attributes"]:
            index = index_of[entry["label"]]
            kept = {name: entry[name] for name in ("attention",) if name in entry}
            again = self._attribute_result(index, entry["score"], contributions[index].item(), observed)
            attributes.append(again | kept)
        if len(names) > 1:
            attributes.sort(key=lambda entry: -abs(entry["contribution"]))
        shown_fit = result["fit"] if none_of_these else None
        labels = self._labels(probabilities, logits, names, seen, shown_fit)
        rescored = {key: value for key, value in result.items() if key != "ask"}
        rescored |= {"labels": labels, "attributes": attributes, "observed": observed}
        rescored |= self._ranks(probabilities, names, shown_fit)
        if ask:
            rescored["ask"] = self._questions(probabilities.float(), rows, observed, ask, ask_by)
        return rescored

    def _labels(self, scores, logits, names, seen, fit: float | None) -> list[LabelResult]:
        """All candidates, best first; with `fit` that nothing of them does, too."""
        # By class scores, of which a softmax makes many the same.
        order = logits.argsort(descending=True, stable=True)
        labels = [
            {"label": names[index], "score": score, "seen": seen[index]}
            for index, score in zip(order.tolist(), scores[order].tolist())
        ]
        if fit is None:
            return labels
        if NONE_OF_THESE in names:
            raise ValueError(
                f"A candidate has the name {NONE_OF_THESE!r}, which is that of the row that `none_of_these` adds: "
                "give it another."
            )
        none = {"label": NONE_OF_THESE, "score": 1 - fit, "seen": False}
        labels = [entry | {"score": fit * entry["score"]} for entry in labels]
        return sorted([*labels, none], key=lambda entry: -entry["score"])

    def _ranks(self, scores, names, fit: float | None) -> dict[str, list[RankResult]]:
        # In the order of the candidates, which is the same for all images: what stands above them is then kept.
        scores = dict(zip(names, (scores if fit is None else fit * scores).tolist()))
        ranks = sure_ranks(scores, self.model.config.class_parents)
        return {} if ranks is None else {"ranks": ranks}

    def _evidence(self, rows: torch.Tensor, observed: Mapping[str, float | None]) -> torch.Tensor:
        """`(K, A)`: what each answer adds to the class scores of the candidates."""
        names = self.model.config.attribute_names
        answers = {names.index(name): answer for name, answer in observed.items() if answer is not None}
        return answer_log_likelihoods(self.model.strengths(rows), answers) / self.model.config.score_scale

    def _contributions(self, attribute_scores, rows, evidence, logits) -> torch.Tensor:
        """What attributes and answers add to the difference of the two best candidates, `(A,)`."""
        best = logits.argsort(descending=True, stable=True)
        first, second = best[0], best[min(1, len(best) - 1)]
        values = (attribute_scores, rows[first], rows[second])
        of_image = self.model.contributions(*(value.to(self.model.class_attributes.device) for value in values)).cpu()
        return of_image + evidence[first] - evidence[second]

    def _attribute_result(self, index: int, score: float, contribution: float, observed) -> AttributeResult:
        name = self.model.config.attribute_names[index]
        result = {
            "label": name,
            "group": self.group_of_attribute[index],
            "score": score,
            "contribution": contribution,
        }
        answer = (observed or {}).get(name)
        return result if answer is None else result | {"observed": answer}

    def _questions(
        self, probabilities, rows, observed, most: int, ask_by: str
    ) -> list[QuestionResult] | list[PropertyQuestionResult]:
        questions = property_questions if ask_by == "property" else attribute_questions
        names, groups = self.model.config.attribute_names, self.group_of_attribute
        return questions(names, groups, probabilities, self.model.strengths(rows), observed)[:most]


def _do_without_threads_if_forked():
    """The workers of `datasets.map(num_proc=…)` would wait for ever for threads that torch had where they are from."""
    global _process
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process = os.getpid()


def _bind_modules(*values):
    """
    Makes the modules of the classes of these, and those beside them, attributes of their packages, as an import does.

    transformers loads a model's own code without it. dill, which `datasets` pickles with, then takes the classes for
    unknown, and sends their code along, which cannot be read again.
    """
    packages = {type(value).__module__.rpartition(".")[0] for value in values}
    for name, module in list(sys.modules.items()):
        package, _, child = name.rpartition(".")
        if package in packages and package and child not in vars(importlib.import_module(package)):
            setattr(sys.modules[package], child, module)


def _columns(prediction) -> dict[str, torch.Tensor]:
    """What of a prediction a result is made of."""
    columns = {
        "logits": prediction.logits,
        "score": prediction.attribute_probabilities,
        "attribute_score": prediction.attribute_scores,
        "contribution": prediction.contributions,
    }
    if prediction.attentions is not None:
        columns["attention"] = prediction.attentions["mixed"]
    return columns


@dataclass
class _Numbered:
    """An image and its place among several, so that an error can name it."""

    index: int | None
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


class _NumberedStream(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        images, index = iter(self.images), 0
        while True:
            try:
                image = next(images)
            except StopIteration:
                return
            except Exception as error:
                raise ValueError(f"Image {index} (counted from 0) cannot be read: {error}") from error
            yield _Numbered(index, image)
            index += 1


class _Results(Iterator):
    """Results of a data set as they are asked for; those of transformers begin anew whenever `iter` is called."""

    def __init__(self, results, num_images: int):
        self.results, self.num_images = iter(results), num_images

    def __len__(self):
        return self.num_images

    def __next__(self):
        return next(self.results)


def _are_several(images) -> bool:
    """Whether these are images and not one; what is neither is taken for one, and reading it says what is wrong."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return images.ndim == 4 or (images.ndim == 1 and getattr(images.dtype, "kind", "") in "OU")  # paths, objects
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping, set, frozenset)
    if images is None or isinstance(images, one) or hasattr(images, "read"):
        return False
    return isinstance(images, (Iterable, Dataset))


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


def _check_names(parameters: Iterable[str]):
    names = (*PARAMETERS, "batch_size", "num_workers", "inputs", "images", "image")
    for name in parameters:
        if name == "return_attention":
            raise TypeError(
                "`return_attention` is now `attention`: 'image' for arrays of the image's size, 'grid' for lists over "
                "the model's grid."
            )
        if name not in names:
            raise TypeError(f"The pipeline has no parameter {name!r}; {closest_names(name, names)}.")


def _check_loading(parameters: dict):
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        if parameters.get(name) is not None:
            parameters[name] = as_integer(name, parameters[name], least)


def _check_devices(model):
    """Raises a `ValueError` if it cannot be told from a model with offloaded parameters where it computes."""
    if isinstance(model, nn.Module) and any(parameter.is_meta for parameter in model.parameters()):
        place = next(iter(getattr(model, "hf_device_map", {"": "disk"}).values()))
        if place == "disk":
            raise ValueError(
                "The model's parameters are offloaded, and it does not say where it computes: load it by "
                "`from_pretrained(device_map=…)`, and let the first entry of the map be a device and not 'disk'."
            )


__all__ = ["ZeroShotAttributeClassificationPipeline"]
