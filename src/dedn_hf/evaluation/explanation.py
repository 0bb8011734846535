"""Where the attributes of an image were seen: region attention over its pixels, and pictures of it."""

import math
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from ..modeling_dedn import DednModel, DednOutput
from ..pipeline_dedn import attention_in_image
from .plots import save_figure


@torch.inference_mode()
def attention_maps(
    model: DednModel, image_processor, image: Image.Image, attributes: Sequence[int | str], expert: str = "mixed"
) -> torch.Tensor:
    """
    Where the region attention of some attributes looks in an image.

    Args:
        model ([`DednModel`]):
            A model with a backbone.
        image_processor (`CLIPImageProcessor`):
            The model's image processor, whose resizing and centre crop are undone.
        image (`PIL.Image.Image`):
            The image.
        attributes (`Sequence[int | str]` of length `n`):
            Indices or names of attributes.
        expert (`str`, *optional*, defaults to `"mixed"`):
            `"coarse"`, `"fine"`, or `"mixed"`, where the maps of both are mixed as their scores are, by `coarse_mix`.

    Returns:
        `torch.Tensor` of shape `(n, height, width)` of the image, float32: each pixel's share of the attention,
        bilinear between the centres of regions. A map sums to 1, and is 0 where the image was cropped away.

    Raises:
        ValueError: If the model has no backbone, or there is no such attribute or expert.
    """
    names = model.config.attribute_names
    unknown = [entry for entry in attributes if entry not in names and entry not in range(len(names))]
    if unknown:
        raise ValueError(f"The model has no attributes {unknown}; `config.attribute_names` has its {len(names)}.")
    if expert not in ("coarse", "fine", "mixed"):
        raise ValueError(f"There is no expert {expert!r}; choose coarse, fine or mixed.")
    indices = [names.index(name) if isinstance(name, str) else name for name in attributes]
    output = model.eval()(pixel_values=_pixel_values(model, image_processor, image), output_attentions=True)
    return _lay_over(model, output, image_processor, image, indices, expert)


def _pixel_values(model: DednModel, image_processor, image: Image.Image) -> torch.Tensor:
    pixel_values = image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    return pixel_values.to(model.device, model.dtype)


def _lay_over(model, output, image_processor, image, indices: Sequence[int], expert: str) -> torch.Tensor:
    coarse, fine = (output.attentions[name][0, indices].float().cpu() for name in ("coarse", "fine"))
    share = {"coarse": 1.0, "fine": 0.0, "mixed": model.config.coarse_mix}[expert]
    return attention_in_image(share * coarse + (1 - share) * fine, image_processor, *image.size)


def describe_attribute(name: str) -> str:
    """
    An attribute's name in words: `has_wing_color::red` is "red wing", `has_bill_length::shorter_than_head` is "bill
    length: shorter than head". Names of another form only lose their underscores.
    """
    match = re.fullmatch(r"has_(?:(?P<part>\w+)_)?(?P<quality>color|pattern|shape|length|size)::(?P<value>.+)", name)
    if match is None:
        return name.replace("_", " ")
    part, quality, value = (text.replace("_", " ") for text in (match["part"] or "", match["quality"], match["value"]))
    if part and re.search(rf"\b{re.escape(part)}s?$", value):
        return value.replace("-", " ")  # "forked_tail" of has_tail_shape
    if " " in value or part == "primary":
        return f"{part} {quality}: {value}".strip()
    return f"{value} {part or quality}"


@dataclass
class AttributeEvidence:
    """
    An attribute that speaks for a class.

    Args:
        index (`int`):
            Its place among the model's attributes.
        words (`str`):
            What it is, see [`describe_attribute`].
        contribution (`float`):
            What it adds to the score of the class, over what it adds to that of the average class.
        attention (`torch.Tensor` of shape `(height, width)`):
            Where it was seen, see [`attention_maps`].
    """

    index: int
    words: str
    contribution: float
    attention: torch.Tensor


@dataclass
class Explanation:
    """
    What a model says of one image.

    Args:
        classes (`list[tuple[str, float, bool]]`):
            Name, score (share of the softmax over the model's logits) and whether seen, of the best classes first.
        attributes (`list[AttributeEvidence]`):
            What speaks most for the first of them.
    """

    classes: list[tuple[str, float, bool]]
    attributes: list[AttributeEvidence]

    def heading(self, truth: str | None = None) -> str:
        """
        The predicted class and its score, and, if the true class is known, whether it is right.

        Args:
            truth (`str`, *optional*):
                Name of the true class.
        """
        name, score, _ = self.classes[0]
        verdict = "" if truth is None else " (right)" if name == truth else f" (wrong: it is {truth})"
        return f"{name}, {100 * score:.0f} %{verdict}"


def attribute_contributions(model: DednModel, output: DednOutput) -> torch.Tensor:
    """
    What each attribute adds to the score of the predicted class, over what it adds to the average class's.

    Raw attribute scores cannot be compared with each other: each has a level of its own. These can: they are parts of
    one class score, `(a_k − mean a) ⊙ p`, and sum to its lead over the mean of all classes' scores (without bias).
    What the class has less of than the average class, and so speaks for it by its absence, counts as 0.

    Args:
        model ([`DednModel`]):
            The model.
        output ([`DednOutput`]):
            What it gave for images.

    Returns:
        `torch.Tensor` of shape `(B, A)`.
    """
    class_rows = F.normalize(model.class_attributes.float(), dim=-1)
    excess = class_rows[output.logits.argmax(dim=-1)] - class_rows.mean(dim=0)
    return excess.clamp(min=0) * output.attribute_scores.float()


@torch.inference_mode()
def explain_image(
    model: DednModel, image_processor, image: Image.Image, top_classes: int = 5, top_attributes: int = 5
) -> Explanation:
    """
    Predicts the class of an image, and says by what and where.

    Args:
        model ([`DednModel`]):
            A model with a backbone.
        image_processor (`CLIPImageProcessor`):
            The model's image processor.
        image (`PIL.Image.Image`):
            The image.
        top_classes (`int`, *optional*, defaults to 5):
            How many classes to name.
        top_attributes (`int`, *optional*, defaults to 5):
            How many attributes to show.

    Returns:
        [`Explanation`].

    Raises:
        ValueError: If the model has no backbone.
    """
    model.eval()
    config = model.config
    output = model(pixel_values=_pixel_values(model, image_processor, image), output_attentions=True)

    shares, class_ids = output.logits[0].float().softmax(dim=-1).topk(min(top_classes, config.num_labels))
    classes = [
        (config.id2label[index], share, bool(model.seen_classes[index]))
        for index, share in zip(class_ids.tolist(), shares.tolist())
    ]
    contributions, indices = attribute_contributions(model, output)[0].topk(
        min(top_attributes, len(config.attribute_names))
    )
    maps = _lay_over(model, output, image_processor, image, indices.tolist(), "mixed")
    attributes = [
        AttributeEvidence(index, describe_attribute(config.attribute_names[index]), contribution, attention)
        for index, contribution, attention in zip(indices.tolist(), contributions.tolist(), maps)
    ]
    return Explanation(classes, attributes)


def plot_explanation(explanation: Explanation, image: Image.Image, path: str | os.PathLike, title: str):
    """
    The image, and for each attribute the image in colour where the attention looks and pale elsewhere, with a line
    around more than half of the strongest attention; each map has its own scale.

    Args:
        explanation ([`Explanation`]):
            From [`explain_image`].
        image (`PIL.Image.Image`):
            The image.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
        title (`str`):
            Heading of the picture.
    """
    pixels = np.asarray(image.convert("RGB")) / 255
    columns = min(3, 1 + len(explanation.attributes))
    rows = math.ceil((1 + len(explanation.attributes)) / columns)
    panel_height = 8 / columns * image.height / image.width
    figure = Figure(figsize=(8, 0.4 + rows * (panel_height + 0.2)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels:
        axes.set_axis_off()
    panels = figure.axes
    panels[0].imshow(pixels)
    panels[0].set_title("image", fontsize=11)
    for axes, attribute in zip(panels[1:], explanation.attributes):
        _draw_attention(axes, pixels, attribute)
        axes.set_title(f"{attribute.words} ({attribute.contribution:+.2f})", fontsize=11, parse_math=False)
    figure.suptitle(title, fontsize=12, parse_math=False)
    save_figure(figure, path)


def plot_explanations(
    explanations: Sequence[Explanation], images: Sequence[Image.Image], truths: Sequence[str], path: str | os.PathLike
):
    """
    A sheet of images: a row for each, with what its class was taken for, right or wrong, and its attributes as in
    [`plot_explanation`].

    Args:
        explanations (`Sequence[Explanation]` of length `N`):
            From [`explain_image`], each with the same number of attributes.
        images (`Sequence[PIL.Image.Image]` of length `N`):
            The images.
        truths (`Sequence[str]` of length `N`):
            Names of their true classes.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
    """
    columns = 1 + len(explanations[0].attributes)
    titles = [
        [f"{textwrap.fill(a.words, 110 // columns)}\n({a.contribution:+.2f})" for a in explanation.attributes]
        for explanation in explanations
    ]
    # In inches: the panels, the lines of their titles, and the heading.
    heights = [
        7.6 / columns * image.height / image.width + 0.17 * max(title.count("\n") + 1 for title in of_image) + 0.45
        for image, of_image in zip(images, titles)
    ]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    rows = figure.subfigures(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, explanation, image, truth, of_image in zip(rows, explanations, images, truths, titles):
        is_right = explanation.classes[0][0] == truth
        mark, color = ("✓", "#1b7837") if is_right else ("✗", "#b2182b")
        heading = f"{mark} {explanation.heading(truth)}"
        row.suptitle(heading, x=0.01, ha="left", color=color, fontsize=11, parse_math=False)
        panels = row.subplots(1, columns, squeeze=False)[0]
        pixels = np.asarray(image.convert("RGB")) / 255
        panels[0].imshow(pixels)
        for axes, attribute, title in zip(panels[1:], explanation.attributes, of_image):
            _draw_attention(axes, pixels, attribute)
            axes.set_title(title, fontsize=9.5, parse_math=False)
        for axes in panels:
            axes.set_axis_off()
    save_figure(figure, path)


def _draw_attention(axes, pixels: np.ndarray, attribute: AttributeEvidence):
    """An image `(height, width, 3)`, from 0 to 1, as the attention of an attribute leaves it."""
    weights = attribute.attention.numpy()
    strength = (weights / weights.max())[..., None]
    grey = pixels.mean(axis=2, keepdims=True)
    # What attention leaves out fades to pale grey, what it looks at keeps its colours.
    axes.imshow(strength * pixels + (1 - strength) * (0.25 * grey + 0.65))
    axes.contour(weights, levels=[weights.max() / 2], colors="#d7191c", linewidths=1.2)


__all__ = [
    "AttributeEvidence",
    "Explanation",
    "attention_maps",
    "attribute_contributions",
    "describe_attribute",
    "explain_image",
    "plot_explanation",
    "plot_explanations",
]
