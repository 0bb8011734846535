"""
Measures what a person's answers are worth, as in interventions on concept bottlenecks (Koh et al., ICML 2020):
accuracy over the number of answers, one attribute an answer, yes or no by whether its class has half of it or more,
all of them right or some wrong. Asked is what `ask` says, one property after the other, or at random; or what it says
with `ask_by="property"`, a property an answer, which is the value that its class has most of or another, wrong one.

    python scripts/lab/measure_answers.py --model outputs/synthetic_birds --dataset synthetic_birds --output_dir OUT
    python scripts/lab/measure_answers.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE \
        --output_dir OUT

Of a model that has not seen the validation classes, `choose/` of a run, it takes the validation images. Writes
answers.json and answers.png, and prints the table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measuring import make_parser, predict_held_out

from dedn_hf import DednModel
from dedn_hf.answers_dedn import (
    answer_log_likelihoods,
    information_gains,
    picked_answers,
    property_gains,
    value_chances,
)
from dedn_hf.evaluation import gzsl_metrics
from dedn_hf.evaluation.metrics import per_class_accuracy
from dedn_hf.evaluation.plots import save_figure
from dedn_hf.files import write_json
from dedn_hf.names_dedn import split_attribute
from dedn_hf.results import provenance

COUNTS = (0, 1, 2, 4, 8, 16)
# Of the second no more is taken than the yes to the value that is picked: what `picked_answers` was chosen over. In
# the third a person picks in proportion to the strengths of the class's values, as people differ in what they see.
BY_PROPERTY = ("ask by property", "ask by property (yes alone)", "ask by property (in proportion)")
CHOICES = ("ask", *BY_PROPERTY, "property", "random")
COLORS = {
    "ask": "#1f5a94",
    "ask by property": "#2a9d5c",
    BY_PROPERTY[2]: "#b5d334",
    "property": "#d95f02",
    "random": "0.5",
}


def answer_curve(
    logits: np.ndarray,
    labels: np.ndarray,
    strengths: np.ndarray,
    choice: str,
    properties: Sequence[str],
    wrong: float = 0.0,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
) -> list[np.ndarray]:
    """
    Class scores after so many answers.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Of images, times the model's `score_scale`.
        labels (`np.ndarray` of shape `(N,)`):
            Their classes.
        strengths (`np.ndarray` of shape `(K, A)`):
            Of attributes in the classes, from 0 to 1; those from ½ on are answered by yes.
        choice (`str`):
            What is asked: `"ask"` for what is expected to tell most, `"ask by property"` for the property that is,
            `"ask by property (yes alone)"` as if nothing were said of its other values, `"ask by property (in
            proportion)"` of a person who picks values in proportion to their strengths and not always the strongest,
            `"property"` for all attributes of a property in turn, the properties at random, or `"random"`.
        properties (`Sequence[str]` of length `A`):
            What each attribute is a value of.
        wrong (`float`, *optional*, defaults to 0):
            Share of answers that are the wrong way round, at random.
        counts (`Sequence[int]`, *optional*, defaults to 0, 1, 2, 4, 8, 16):
            Numbers of answers.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random numbers.

    Returns:
        `list[np.ndarray]` of shape `(N, K)`: logarithms of the classes' shares, for each of the counts.
    """
    random, strengths = np.random.default_rng(seed), torch.from_numpy(np.asarray(strengths, np.float32))
    names, of_attribute = np.unique(np.asarray(properties), return_inverse=True)
    of_class = strengths[torch.from_numpy(labels)]
    # What each possible answer adds, and which one each image is given to each question.
    if choice in BY_PROPERTY:
        values = [np.flatnonzero(of_attribute == place).tolist() for place in range(len(names))]
        of_attribute = torch.from_numpy(of_attribute)
        picks = value_chances(strengths, of_attribute)
        told = _tell_picks(strengths, values, yes_alone=choice == BY_PROPERTY[1])
        answers = _draw_picks(random, of_class, values, wrong, in_proportion=choice == BY_PROPERTY[2])
    else:
        everything = range(len(properties))
        yes, no = (answer_log_likelihoods(strengths, dict.fromkeys(everything, answer)).T for answer in (1.0, 0.0))
        told, truth = torch.cat([yes, no]), of_class >= 0.5
        truth ^= torch.from_numpy(random.random(truth.shape) < wrong)
        answers = torch.arange(len(properties)) + len(properties) * ~truth
    if not choice.startswith("ask"):
        order = torch.from_numpy(np.stack([_draw_order(random, choice, properties) for _ in labels]))
    log_shares = torch.from_numpy(np.asarray(logits, np.float32)).log_softmax(dim=-1)
    rows, asked = torch.arange(len(labels)), torch.zeros(answers.shape, dtype=torch.bool)
    curve = []
    for number in range(max(counts) + 1):
        if number in counts:
            curve.append(log_shares.numpy())
        if number >= answers.shape[1]:
            continue
        if choice == "ask":
            gains = information_gains(log_shares.exp(), strengths)
            chosen = gains.masked_fill(asked, -1).argmax(dim=-1)
        elif choice in BY_PROPERTY:
            gains = property_gains(log_shares.exp(), *picks, of_attribute)
            chosen = gains.masked_fill(asked, -1).argmax(dim=-1)
        else:
            chosen = order[:, number]
        asked[rows, chosen] = True
        log_shares = (log_shares + told[answers[rows, chosen]]).log_softmax(dim=-1)
    return curve


def _tell_picks(strengths: torch.Tensor, values: Sequence[Sequence[int]], yes_alone: bool) -> torch.Tensor:
    """`(A + P, K)`: what it adds that an attribute is picked, and behind these that none of a property is."""
    picks = sorted((pick, of) for of in values for pick in of)
    answers = [picked_answers(of, [pick]) for pick, of in picks]
    if yes_alone:
        answers = [{pick: 1.0} for pick, _ in picks]
    answers += [picked_answers(of, []) for of in values]
    return torch.stack([answer_log_likelihoods(strengths, each).sum(dim=-1) for each in answers])


def _draw_picks(
    random: np.random.Generator,
    of_class: torch.Tensor,
    values: Sequence[Sequence[int]],
    wrong: float,
    in_proportion: bool,
) -> torch.Tensor:
    """`(N, P)`: rows of [`_tell_picks`], of each image and property."""
    picks = np.empty((len(of_class), len(values)), dtype=np.int64)
    for place, of in enumerate(values):
        errs = random.random(len(of_class)) < wrong
        if len(of) == 1:
            is_picked = (of_class[:, of[0]].numpy() >= 0.5) ^ errs
            picks[:, place] = np.where(is_picked, of[0], of_class.shape[1] + place)
        else:
            others = random.integers(1, len(of), len(of_class))
            liking = of_class[:, of].numpy()
            if in_proportion:
                # The smallest of exponential variables is each in proportion to its rate.
                liking = liking / random.exponential(size=liking.shape)
            picks[:, place] = np.asarray(of)[(liking.argmax(axis=-1) + errs * others) % len(of)]
    return torch.from_numpy(picks)


def _draw_order(random: np.random.Generator, choice: str, properties: Sequence[str]) -> np.ndarray:
    if choice != "property":
        return random.permutation(len(properties))
    names, of_attribute = np.unique(np.asarray(properties), return_inverse=True)
    return np.argsort(random.permutation(len(names))[of_attribute], kind="stable")


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    parser.add_argument("--output_dir", required=True, help="folder for answers.json and answers.png")
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model).eval()
    config = model.config
    dataset, held_out = predict_held_out(model, args.dataset, args.data_dir, args.feature_maps)
    splits = [each.split for each in held_out]
    logits = config.score_scale * np.concatenate([each.predictions.logits for each in held_out])
    labels = np.concatenate([each.labels for each in held_out])
    strengths = model.strengths(model.class_attributes.float()).numpy()
    properties = [split_attribute(name)[0] for name in config.attribute_names]
    in_turn = properties
    if len(set(properties)) == len(properties):
        of_index = {index: group for group, indices in config.attribute_groups.items() for index in indices}
        in_turn = [of_index[index] for index in range(len(properties))]

    seen = list(config.seen_class_ids)
    unseen = np.setdiff1d(np.arange(config.num_labels), seen)
    of_unseen = np.isin(labels, unseen)
    curves = {}
    for wrong in (0.0, 0.1):
        for choice in CHOICES:
            options = {
                "choice": choice,
                "properties": in_turn if choice == "property" else properties,
                "wrong": wrong,
            }
            among_unseen = answer_curve(
                logits[of_unseen][:, unseen], np.searchsorted(unseen, labels[of_unseen]), strengths[unseen], **options
            )
            everywhere = answer_curve(logits, labels, strengths, **options)
            curves[f"{choice}, {wrong:.0%} wrong"] = {
                "T1": [_mean_accuracy(unseen[shares.argmax(axis=1)], labels[of_unseen]) for shares in among_unseen],
                "H": [gzsl_metrics(shares, labels, seen)["H"] for shares in everywhere],
            }
    results = {"model": Path(args.model).name, "dataset": dataset.name, "splits": splits, "answers": COUNTS}
    write_json(Path(args.output_dir, "answers.json"), {**results, "curves": curves, **provenance()})
    plot_curves(curves, Path(args.output_dir, "answers.png"))
    print(f"{len(labels)} images of {', '.join(splits)}, per cent, after 0, 1, 2, … answers")
    print(f"{'asked':44}{'':4}" + "".join(f"{count:>7}" for count in COUNTS))
    for name, figures in curves.items():
        for metric, values in figures.items():
            print(f"{name:44}{metric:4}" + "".join(f"{value:>7.1f}" for value in values))


def _mean_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.nanmean(per_class_accuracy(predicted, labels, max(predicted.max(), labels.max()) + 1)))


def plot_curves(curves: dict[str, dict[str, list[float]]], path: Path):
    """Accuracy over the number of answers, into a PNG file: T1 and H side by side, wrong answers dashed."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("T1", "H")):
        for name, figures in curves.items():
            choice, wrong = name.split(", ")
            if choice in COLORS:
                style = "-" if wrong.startswith("0") else "--"
                axes.plot(COUNTS, figures[metric], style, color=COLORS[choice], label=name)
        axes.set(xlabel="answers", title=metric, xticks=COUNTS)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.axes[0].set_ylabel("per cent")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
