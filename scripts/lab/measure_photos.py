"""
Measures how well a class without training images is recognised that is described by its row of class attributes, by a
few photos of it, or by both: T1, averaged per class.

    python scripts/lab/measure_photos.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE \
        --output_dir OUT

Of a model that has not seen the validation classes, `choose/` of a run, it takes the validation classes, else the
unseen ones. Photos are drawn from the images of each class, and others are named; 10 draws. Writes photos.json.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import make_parser, predict_held_out

from dedn_hf import DednModel
from dedn_hf.candidates_dedn import DESCRIPTION_IN_PHOTOS
from dedn_hf.evaluation.metrics import per_class_accuracy
from dedn_hf.files import write_json
from dedn_hf.results import provenance

COUNTS = (1, 5, 20)
DRAWS = 10
# So many images of each class are kept for photos in each draw; all others are named.
LARGEST = max(COUNTS)


def t1(attribute_scores: torch.Tensor, labels: np.ndarray, strengths: torch.Tensor) -> float:
    """T1 in per cent of images, attribute scores `(N, A)`, among classes with these strengths, `(K, A)`."""
    predicted = (attribute_scores @ F.normalize(strengths, dim=-1).T).argmax(dim=1).numpy()
    return float(np.nanmean(per_class_accuracy(predicted, labels, len(strengths))))


def measure(model: DednModel, scores: torch.Tensor, labels: np.ndarray, described: torch.Tensor) -> dict[str, list]:
    """
    T1 of each draw, by what describes the classes.

    Args:
        model ([`DednModel`]):
            The model.
        scores (`torch.Tensor` of shape `(N, A)`):
            Attribute scores of images of K classes.
        labels (`np.ndarray` of shape `(N,)`):
            Their classes, from 0 to K − 1.
        described (`torch.Tensor` of shape `(K, A)`):
            Strengths of the classes, from 0 to 1.
    """
    figures: dict[str, list] = {}
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        order = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(described))]
        named = np.concatenate([images[LARGEST:] for images in order])
        images = scores[named], labels[named]
        figures.setdefault("description", []).append(t1(*images, described))
        for count in COUNTS:
            seen = torch.stack([model.strengths_in_images(scores[images[:count]]) for images in order])
            share = count / (count + DESCRIPTION_IN_PHOTOS)
            figures.setdefault(f"{count} photos", []).append(t1(*images, seen))
            both = share * seen + (1 - share) * described
            figures.setdefault(f"description and {count} photos", []).append(t1(*images, both))
    return figures


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    parser.add_argument("--output_dir", required=True, help="folder for photos.json")
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model).eval()
    dataset, (held_out,) = predict_held_out(model, args.dataset, args.data_dir, args.feature_maps, ["unseen"])
    split = held_out.split
    ids, labels = np.unique(held_out.labels, return_inverse=True)
    described = model.strengths(model.class_attributes.float())[ids]
    figures = measure(model, torch.from_numpy(held_out.predictions.attribute_scores), labels, described)
    results = {"model": Path(args.model).name, "dataset": dataset.name, "split": split, "T1": figures}
    write_json(Path(args.output_dir, "photos.json"), results | provenance())
    print(f"T1 of {len(ids)} classes of {split}, per cent, mean and standard deviation of {DRAWS} draws")
    for name, values in figures.items():
        print(f"  {name:32}{np.mean(values):6.1f} ± {np.std(values, ddof=1):.1f}")


if __name__ == "__main__":
    main()
