"""
Measures what `fit` of a result is worth: images of classes that are no candidates, which it should tell from images of
those that are.

    python scripts/lab/measure_fit.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE --output_dir OUT

Of a model that has not seen the validation classes, `choose/` of a run, it takes the validation images, and other
scores beside `fit`: those among which it was chosen. Of a final model it takes the test images; for `--backgrounds N`
also N pictures without a bird, parts of test images beside the box, and photos that Python packages carry. A class's
family is the last word of its name. Writes fit.json and fit.png, and prints the table.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measuring import make_parser, predict_held_out
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve
from transformers import CLIPImageProcessorPil

from dedn_hf import DednModel
from dedn_hf.class_fit_dedn import ClassTargets
from dedn_hf.evaluation.metrics import expected_calibration_error, reliability_bins
from dedn_hf.evaluation.plots import save_figure
from dedn_hf.evaluation.report import Predictions
from dedn_hf.files import write_json
from dedn_hf.images_dedn import load_any_image
from dedn_hf.names_dedn import readable_classes
from dedn_hf.results import provenance

COUNTS = (2, 10, 50, 150, 200)
PHOTOS = (
    ("sklearn.datasets", "images/china.jpg"),
    ("sklearn.datasets", "images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
# A picture beside the bird is this wide and high at least, in pixels.
LEAST_SIDE = 100


def separation(own: np.ndarray, strangers: np.ndarray, is_probability: bool = True) -> dict[str, float]:
    """
    How well a score tells images of candidates from those of strangers; per cent but for the AUROC.

    Args:
        own (`np.ndarray` of shape `(N,)`):
            Scores of images whose class is a candidate.
        strangers (`np.ndarray` of shape `(M,)`):
            Scores of images whose class is none.
        is_probability (`bool`, *optional*, defaults to `True`):
            Whether the scores say how probable it is that the class is a candidate.

    Returns:
        `dict[str, float]`: `AUROC`; `FPR95`, strangers above the score that 95 % of the others reach; and, of
        probabilities, `ECE`: the expected calibration error of as many strangers as others, 15 bins.
    """
    truth = np.repeat([True, False], [len(own), len(strangers)])
    scores = np.concatenate([own, strangers])
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    figures = {"AUROC": float(roc_auc_score(truth, scores)), "FPR95": 100 * float(false[np.argmax(true >= 0.95)])}
    if is_probability:
        figures["ECE"] = expected_calibration_error(*_as_many(own, strangers))
    return figures


def _as_many(own: np.ndarray, strangers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of as many of either kind, drawn, and whether they are of a candidate."""
    random, number = np.random.default_rng(0), min(len(own), len(strangers))
    drawn = [random.choice(scores, number, replace=False) for scores in (own, strangers)]
    return np.concatenate(drawn), np.repeat([True, False], number)


def other_scores(model: DednModel, prediction: Predictions, candidates: np.ndarray) -> dict[str, np.ndarray]:
    """What else could say that none of the candidates fits, for each image: the higher, the better one fits."""
    config = model.config
    logits = config.score_scale * prediction.logits[:, candidates]
    rows = model.class_attributes[candidates].numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    best = rows[logits.argmax(axis=1)]
    mix = np.array([config.region_mix, 1 - config.region_mix])
    coarse, fine = np.moveaxis(np.einsum("neka,k->nea", prediction.expert_scores, mix), 1, 0)
    shares = [softmax(config.score_scale * scores @ rows.T, axis=1) for scores in (coarse, fine)]
    scores = prediction.attribute_scores
    return {
        "max softmax": softmax(logits, axis=1).max(axis=1),
        "max logit": logits.max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "agreement of the experts": np.minimum(*shares).sum(axis=1),
        "cosine of attribute scores and description": (scores * best).sum(axis=1) / np.linalg.norm(scores, axis=1),
    }


def best_fit(model: DednModel, attribute_scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """`fit` of images, `(N,)`, among some of the model's classes."""
    targets = ClassTargets(*(values[candidates] for values in model.class_targets()))
    return model.class_probabilities(torch.from_numpy(attribute_scores), targets).amax(dim=1).numpy()


def beside_the_box(image: Image.Image, box) -> Image.Image | None:
    """The largest part of an image on one side of the box `[x, y, width, height]`; `None` if it is too small."""
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    parts = [
        (0, 0, left, image.height),
        (right, 0, image.width, image.height),
        (0, 0, image.width, top),
        (0, bottom, image.width, image.height),
    ]
    parts = [tuple(map(int, part)) for part in parts]
    part = max(parts, key=lambda part: min(part[2] - part[0], part[3] - part[1]))
    return image.crop(part) if min(part[2] - part[0], part[3] - part[1]) >= LEAST_SIDE else None


@torch.no_grad()
def scores_of_pictures(model: DednModel, processor, pictures: list[Image.Image]) -> np.ndarray:
    """Attribute scores of pictures, `(N, A)`."""
    found = []
    for start in range(0, len(pictures), 10):
        inputs = processor(images=pictures[start : start + 10], return_tensors="pt")
        found.append(model.predict(inputs["pixel_values"]).attribute_scores)
    return torch.cat(found).numpy()


def by_number_of_candidates(model, scores: np.ndarray, labels: np.ndarray, draws: int = 5) -> dict[int, dict]:
    """
    The mean fit of images of some classes of the model, drawn as the candidates, and of as many other images; and
    their separation. For all classes there are no strangers.
    """
    random, found = np.random.default_rng(0), {}
    num_classes = model.config.num_labels
    for count in COUNTS:
        if count > num_classes:
            continue
        rows = []
        for _ in range(draws):
            candidates = random.permutation(num_classes)[:count]
            fits, is_own = best_fit(model, scores, candidates), np.isin(labels, candidates)
            row = {"own": float(fits[is_own].mean())}
            if not is_own.all():
                row |= {"strangers": float(fits[~is_own].mean())} | separation(fits[is_own], fits[~is_own])
            rows.append(row)
        found[count] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return found


def plot_fit(own: np.ndarray, strangers: np.ndarray, path: Path):
    """How often it is right over what it says, and how it is spread over images of either kind."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    calibration, spread = figure.subplots(1, 2)
    scores, truth = _as_many(own, strangers)
    mean, share, _ = reliability_bins(scores, truth)
    calibration.plot([0, 100], [0, 100], color="0.7")
    calibration.plot(mean, share, "o-", color="#1f5a94")
    calibration.set(xlabel="fit, per cent", ylabel="per cent of a candidate", title="as many strangers as others")
    bins = np.linspace(0, 1, 31)
    for values, label, color in ((own, "of a candidate", "#1f5a94"), (strangers, "strangers", "#d95f02")):
        weights = np.full(len(values), 1 / len(values))
        spread.hist(values, bins, weights=weights, alpha=0.6, label=label, color=color)
    spread.set(xlabel="fit", ylabel="share of images")
    spread.legend()
    save_figure(figure, path)


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    parser.add_argument("--backgrounds", type=int, default=0, metavar="N", help="so many pictures without a bird, too")
    parser.add_argument("--output_dir", required=True, help="folder for fit.json and fit.png")
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model).eval()
    config = model.config
    if model.class_targets() is None:
        parser.error(f"{args.model} was not taught what fits")
    names = ("seen", "unseen")
    dataset, held_out = predict_held_out(model, args.dataset, args.data_dir, args.feature_maps, names)
    splits, is_final = [each.split for each in held_out], config.num_labels == len(dataset.class_names)
    predictions, labels = [each.predictions for each in held_out], [each.labels for each in held_out]
    kinds = [np.flatnonzero(model.seen_classes), np.flatnonzero(~model.seen_classes)]

    rows, fits = {}, {}
    for kind, candidates in enumerate(kinds):
        fit = [best_fit(model, each.attribute_scores, candidates) for each in predictions]
        fits[kind] = fit[kind], fit[1 - kind]
        title = f"images of {names[1 - kind]} classes, candidates the {names[kind]} ones"
        rows[title] = {"fit": separation(*fits[kind])}
        if not is_final:
            others = [other_scores(model, each, candidates) for each in predictions]
            rows[title] |= {
                name: separation(others[kind][name], others[1 - kind][name], is_probability=False)
                for name in others[0]
            }
    names_in_order = [name for _, name in sorted(config.id2label.items())]
    families = [name.split()[-1].lower() for name in readable_classes(names_in_order)]
    is_near = np.isin(np.array(families)[labels[1]], [families[index] for index in kinds[0]])
    own, strangers = fits[0]
    for title, chosen in (("near: of a seen class's family", is_near), ("far: of another family", ~is_near)):
        if chosen.any():
            rows[f"{title} ({chosen.sum()} images)"] = {"fit": separation(own, strangers[chosen])}

    everything = np.arange(config.num_labels)
    of_all = [best_fit(model, each.attribute_scores, everything) for each in predictions]
    if args.backgrounds:
        processor = CLIPImageProcessorPil.from_pretrained(args.model)
        pictures, images = [], dataset.splits[splits[0]].shuffle(seed=0)
        for image in images:
            picture = beside_the_box(load_any_image(image["image"]), image["box"])
            pictures += [picture] * (picture is not None)
            if len(pictures) == args.backgrounds:
                break
        fit = best_fit(model, scores_of_pictures(model, processor, pictures), everything)
        title = f"{len(pictures)} pictures beside a bird, candidates all classes"
        rows[title] = {"fit": separation(np.concatenate(of_all), fit)}
        photos = [Image.open(files(package).joinpath(*name.split("/"))).convert("RGB") for package, name in PHOTOS]
        fit = best_fit(model, scores_of_pictures(model, processor, photos), everything)
        rows["photos"] = {name: {"fit": float(value)} for (_, name), value in zip(PHOTOS, fit)}
    scores = np.concatenate([each.attribute_scores for each in predictions])
    counts = by_number_of_candidates(model, scores, np.concatenate(labels))

    results = {"model": Path(args.model).name, "dataset": dataset.name, "splits": splits, "figures": rows}
    write_json(Path(args.output_dir, "fit.json"), {**results, "candidates": counts, **provenance()})
    plot_fit(own, strangers, Path(args.output_dir, "fit.png"))
    for title, row in rows.items():
        print(f"\n{title}")
        for name, figures in row.items():
            print(f"  {name:44}" + "  ".join(f"{figure} {value:.3g}" for figure, value in figures.items()))
    print("\nclasses of the model drawn as candidates, mean of 5 draws")
    for count, figures in counts.items():
        print(f"  {count:>4}  " + "  ".join(f"{figure} {value:.3g}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()
