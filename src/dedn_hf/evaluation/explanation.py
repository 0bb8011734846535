"""What a model sees in an image, and where: the pipeline's answer in words, and pictures of it."""

import math
import os
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..images_dedn import load_any_image
from ..names_dedn import NameMatcher
from ..pipeline_dedn import ZeroShotAttributeClassificationPipeline
from .plots import save_figure


@dataclass
class AttributeEvidence:
    """
    An attribute that sets a class apart from the runner-up, or speaks for the runner-up.

    Args:
        words (`str`):
            What the image has or lacks, see [`~ZeroShotAttributeClassificationPipeline.in_words`].
        contribution (`float`):
            What it adds to the difference of their scores, see [`DednPrediction`]; below 0 where it speaks for the
            runner-up.
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
            What sets the first of them apart from the runner-up most; of a single candidate what its image shows most.
        runner_up (`str`, *optional*):
            Name of the second best class, if there is one.
    """

    classes: list[tuple[str, float, bool]]
    attributes: list[AttributeEvidence]
    runner_up: str | None = None

    def words(self, attribute: AttributeEvidence) -> str:
        """
        An attribute in words, and which class it speaks for if that is not the first one.

        Args:
            attribute ([`AttributeEvidence`]):
                One of `attributes`.
        """
        return f"{attribute.words}, for {self.runner_up}" if attribute.contribution < 0 else attribute.words

    def is_right(self, truth: str) -> bool:
        """Whether the first class is the true one, however that is written."""
        return truth in NameMatcher([self.classes[0][0]])

    def heading(self, truth: str | None = None) -> str:
        """
        The predicted class and its score, and, if the true class is known, whether it is right.

        Args:
            truth (`str`, *optional*):
                Name of the true class.
        """
        name, score, _ = self.classes[0]
        verdict = "" if truth is None else " (right)" if self.is_right(truth) else f" (wrong: it is {truth})"
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
            How many attributes to show, those that set the first class apart from the second most.
        kwargs:
            What else the pipeline takes, such as `candidate_labels`.

    Returns:
        [`Explanation`].

    Raises:
        ValueError: see [`~ZeroShotAttributeClassificationPipeline.__call__`].
    """
    result = classifier(
        image,
        top_k=max(2, top_classes),
        top_attributes=top_attributes,
        attention="image",
        **kwargs,
    )
    classes = [(label["label"], label["score"], label["seen"]) for label in result["labels"]]
    attributes = [
        AttributeEvidence(classifier.in_words(row), row["contribution"], row["attention"])
        for row in result["attributes"]
    ]
    return Explanation(classes[:top_classes], attributes, classes[1][0] if len(classes) > 1 else None)


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
        axes.set_title(panel_title(explanation, attribute, 84 // columns), fontsize=11, parse_math=False)
    figure.suptitle(title, fontsize=12, parse_math=False)
    save_figure(figure, path)


def panel_title(explanation: Explanation, attribute: AttributeEvidence, width: int) -> str:
    """
    What stands above the picture of an attribute: its words and its contribution.

    Args:
        explanation ([`Explanation`]):
            The explanation.
        attribute ([`AttributeEvidence`]):
            One of its `attributes`.
        width (`int`):
            Letters a line.
    """
    return textwrap.fill(f"{explanation.words(attribute)} ({attribute.contribution:+.2f})", width)


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
