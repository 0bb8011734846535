"""What a model sees in an image, and where: the pipeline's answer in words, and pictures of it."""

import math
import os
import re
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..images_dedn import load_any_image
from ..pipeline_dedn import ZeroShotAttributeClassificationPipeline
from .plots import save_figure


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
        words (`str`):
            What it is, see [`describe_attribute`].
        contribution (`float`):
            What it adds to the score of the class over what it adds to that of the average candidate.
        attention (`np.ndarray` of shape `(height, width)`):
            Each pixel's share of the region attention.
    """

    words: str
    contribution: float
    attention: np.ndarray


@dataclass
class Explanation:
    """
    What a model says of one image.

    Args:
        classes (`list[tuple[str, float, bool]]`):
            Name, score and whether seen, of the best classes first.
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


def explain_image(
    classifier: ZeroShotAttributeClassificationPipeline,
    image: Image.Image,
    top_classes: int = 5,
    top_attributes: int = 5,
    **kwargs,
) -> Explanation:
    """
    Names the class of an image, and says by what and where.

    Args:
        classifier ([`ZeroShotAttributeClassificationPipeline`]):
            The pipeline, which is called once.
        image (`PIL.Image.Image`):
            The image.
        top_classes (`int`, *optional*, defaults to 5):
            How many classes to name.
        top_attributes (`int`, *optional*, defaults to 5):
            How many attributes to show, those that contribute most to the score of the first class.
        kwargs:
            What else the pipeline takes, such as `candidate_labels`.

    Returns:
        [`Explanation`].

    Raises:
        ValueError: see [`~ZeroShotAttributeClassificationPipeline.__call__`].
    """
    result = classifier(
        image,
        top_k=top_classes,
        top_attributes=top_attributes,
        attributes_by="contribution",
        attention="image",
        **kwargs,
    )
    classes = [(label["label"], label["score"], label["seen"]) for label in result["labels"]]
    attributes = [
        AttributeEvidence(describe_attribute(row["label"]), row["contribution"], row["attention"])
        for row in result["attributes"]
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
    pixels = np.asarray(load_any_image(image)) / 255
    columns = min(3, 1 + len(explanation.attributes))
    rows = math.ceil((1 + len(explanation.attributes)) / columns)
    panel_height = 8 / columns * image.height / image.width
    figure = Figure(figsize=(8, 0.4 + rows * (panel_height + 0.2)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    panels[0].imshow(pixels)
    panels[0].set_title("image", fontsize=11)
    for axes, attribute in zip(panels[1:], explanation.attributes):
        draw_attention(axes, pixels, attribute)
        axes.set_title(f"{attribute.words} ({attribute.contribution:+.2f})", fontsize=11, parse_math=False)
    figure.suptitle(title, fontsize=12, parse_math=False)
    save_figure(figure, path)


def draw_attention(axes, pixels: np.ndarray, attribute: AttributeEvidence):
    """
    An image as the attention of an attribute leaves it.

    Args:
        axes (`matplotlib.axes.Axes`):
            Where to draw it.
        pixels (`np.ndarray` of shape `(height, width, 3)`):
            The image, from 0 to 1.
        attribute ([`AttributeEvidence`]):
            The attribute.
    """
    weights = attribute.attention
    strength = (weights / weights.max())[..., None]
    grey = pixels.mean(axis=2, keepdims=True)
    # What attention leaves out fades to pale grey, what it looks at keeps its colours.
    axes.imshow(strength * pixels + (1 - strength) * (0.25 * grey + 0.65))
    axes.contour(weights, levels=[weights.max() / 2], colors="#d7191c", linewidths=1.2)
