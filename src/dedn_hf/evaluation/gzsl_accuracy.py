"""
Accuracy in generalized zero-shot learning (GZSL), where an image may belong to a class that the model was trained on
(a seen class) or to one that it knows by description only (an unseen class). All figures are averaged per class, never
per image.

An `evaluate` metric: `evaluate.load("…/gzsl_accuracy.py")`.
"""

import inspect

import datasets
import evaluate

from dedn_hf.data.proposed_split import SPLIT_CITATION
from dedn_hf.evaluation.metrics import gzsl_metrics

_CALIBRATION_CITATION = """@inproceedings{chao2016empirical,
    title = {An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in the Wild},
    author = {Chao, Wei-Lun and Changpinyo, Soravit and Gong, Boqing and Sha, Fei},
    booktitle = {European Conference on Computer Vision},
    year = {2016},
}"""


class GzslAccuracy(evaluate.Metric):
    """
    Args:
        predictions (`list[list[float]]`):
            One row of class scores an image, over all K classes.
        references (`list[int]`):
            True class of each image.
        seen_class_ids (`list[int]`):
            Classes that the model was trained on; all others are unseen. Not stored with the predictions: it is given
            to `compute`, also after `add_batch`.
        calibration (`float`, *optional*, defaults to 0.0):
            γ, subtracted from the scores of seen classes (calibrated stacking). The logits of a DEDN model contain
            theirs.

    Returns:
        `dict[str, float]`, in per cent:
        - `T1`: accuracy on images of unseen classes, predicting among the unseen classes.
        - `U`: accuracy on images of unseen classes, predicting among all classes.
        - `S`: accuracy on images of seen classes, predicting among all classes.
        - `H`: harmonic mean of S and U.
        A figure is NaN where no image speaks of it.

    Examples:
        >>> metric = evaluate.load("src/dedn_hf/evaluation/gzsl_accuracy.py")
        >>> scores = [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [0.0, 2.0, 1.0]]
        >>> metric.compute(predictions=scores, references=[0, 1, 2, 2], seen_class_ids=[0, 1])
        {'T1': 100.0, 'U': 50.0, 'S': 100.0, 'H': 66.66666666666667}
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation=f"{SPLIT_CITATION}\n{_CALIBRATION_CITATION}",
            inputs_description=inspect.getdoc(GzslAccuracy),
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/1707.00600", "https://arxiv.org/abs/1605.04253"],
        )

    def _compute(self, predictions, references, seen_class_ids, calibration=0.0):
        return gzsl_metrics(predictions, references, seen_class_ids, calibration)
