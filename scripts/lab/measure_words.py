"""
Measures what prose is worth: T1 when each unseen class is described by sentences in place of its attributes, how much
of them is right, and what a sentence encoder makes of the same sentences or of the names of the classes alone.

    python scripts/lab/measure_words.py --model outputs/cub_lite2/choose --dataset cub --data_dir DATA \
        --feature_maps STORE_LITE2 --descriptions DESCRIPTIONS.json --text_encoder ENCODER

DESCRIPTIONS.json has class → sentences, of the unseen classes; an encoder is fitted to those of the seen ones. Of a
model that has not seen the validation classes, `choose/` of a run, it takes the validation images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from measure_descriptions import read_scores
from measuring import make_parser
from tqdm.auto import tqdm

from dedn_hf import DednModel
from dedn_hf.candidates_dedn import Prose, class_rows, likely_attributes
from dedn_hf.evaluation import gzsl_metrics, mix_expert_scores
from dedn_hf.evaluation.descriptions import describe_unseen_classes, read_descriptions
from dedn_hf.names_dedn import NameMatcher, describe_attribute, readable_attribute, readable_classes
from dedn_hf.recipes import read_recipe


def precision_and_recall(
    understood: Mapping[int, Mapping[str, float]], strengths: np.ndarray, attribute_names: Sequence[str]
) -> tuple[float, float]:
    """
    How much of what is understood of classes is so, and how much of what is so is understood: attributes with a
    strength from ½ on, of all classes together.

    Args:
        understood (`Mapping[int, Mapping[str, float]]`):
            Id of a class → attribute → strength.
        strengths (`np.ndarray` of shape `(K, A)`):
            Those of the classes, from 0 to 1.
        attribute_names (`Sequence[str]` of length `A`):
            The attributes.

    Returns:
        `tuple[float, float]`: precision and recall, per cent.
    """
    right = said = there = 0
    for class_id, attributes in understood.items():
        is_said = {name for name, strength in attributes.items() if strength >= 0.5}
        is_there = {name for name, strength in zip(attribute_names, strengths[class_id]) if strength >= 0.5}
        right, said, there = right + len(is_said & is_there), said + len(is_said), there + len(is_there)
    return 100 * right / max(said, 1), 100 * right / max(there, 1)


def ridge_rows(features: np.ndarray, strengths: np.ndarray, seen: np.ndarray, ridge: float) -> np.ndarray:
    """
    Strengths of all classes by a linear map from features of their texts, fitted to the roots of those of the seen
    classes.

    Args:
        features (`np.ndarray` of shape `(K, F)`):
            Of the texts of all classes.
        strengths (`np.ndarray` of shape `(K, A)`):
            Those of the classes, of which the seen ones' are read.
        seen (`np.ndarray` of shape `(S,)`):
            Ids of the seen classes.
        ridge (`float`):
            Weight of the penalty.

    Returns:
        `np.ndarray` of shape `(K, A)`.
    """
    roots = np.sqrt(strengths[seen])
    mean, features = roots.mean(axis=0), features - features[seen].mean(axis=0)
    kernel = features[seen] @ features[seen].T
    dual = np.linalg.solve(kernel + ridge * np.eye(len(seen)), roots - mean)
    return (mean + features @ features[seen].T @ dual).clip(0, 1) ** 2


def sentences_of(strengths: np.ndarray, class_id: int, config, count: int) -> list[str]:
    """The attributes in which a class is furthest above the mean of the seen classes, in words."""
    above = strengths[class_id] - strengths[config.seen_class_ids].mean(axis=0)
    return [describe_attribute(config.attribute_names[index]) for index in np.argsort(-above, kind="stable")[:count]]


def embed(folder: str, texts: Sequence[str]) -> np.ndarray:
    """Sentence vectors of an encoder in transformers' format: the mean over tokens, of length 1."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for first in tqdm(range(0, len(texts), 32), desc="Reading sentences", unit="batch"):
        batch = tokenizer(list(texts[first : first + 32]), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            tokens = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        vectors.append(torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(vectors).double().numpy()


def encoder_table(
    folder: str, model: DednModel, texts: Sequence[str], understood: Mapping[str, dict], least: float = 0.6
) -> list[tuple[str, np.ndarray]]:
    """Variants with an encoder, each with class rows of shape `(K, A)`; of seen classes they are not used."""
    config, seen = model.config, np.array(model.config.seen_class_ids)
    names = [config.id2label[index] for index in range(config.num_labels)]
    strengths = model.strengths(model.class_attributes.float()).double().numpy()
    of_texts, of_names = embed(folder, texts), embed(folder, readable_classes(names))
    table = [
        (f"encoder, {what} → attributes, ridge {ridge}", ridge_rows(features, strengths, seen, ridge))
        for what, features in (("sentences", of_texts), ("class name", of_names))
        for ridge in (0.1, 0.3, 1)
    ]
    # Words that the reader does not know, by the attribute whose name is nearest.
    readable = [readable_attribute(name).replace(":", "") for name in config.attribute_names]
    vectors = embed(folder, readable)
    phrases = sorted({phrase for entry in understood.values() for phrase in entry["unread"]})
    nearest = (embed(folder, phrases) @ vectors.T) if phrases else np.zeros((0, len(readable)))
    candidates = {}
    for name, entry in understood.items():
        rows = [nearest[phrases.index(phrase)] for phrase in entry["unread"]]
        matched = {config.attribute_names[row.argmax()]: 1.0 for row in rows if row.max() >= least}
        # Prose, too: as strong as in the class that has it most.
        candidates[name] = Prose({**entry, "attributes": matched | entry["attributes"]})
    described = strengths.copy()
    described[[config.label2id[name] for name in candidates]] = model.strengths(
        class_rows(model, candidates, "likely")
    ).numpy()
    return [(f"reader, and the encoder from {least} on for words not read", described), *table]


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    parser.add_argument("--scores", metavar="FILE.npz", help="attribute scores: read, or written if it is not there")
    parser.add_argument("--descriptions", required=True, metavar="FILE.json", help="class → sentences")
    parser.add_argument("--text_encoder", help="folder of a sentence encoder in transformers' format")
    args = parser.parse_args(arguments)

    descriptions = read_descriptions(args.descriptions)
    model = DednModel.from_pretrained(args.model).eval()
    config = model.config
    if not config.attribute_terms:  # a model of before
        config.attribute_terms = read_recipe(args.dataset).model.get("attribute_terms", {})
    expert_scores, labels = read_scores(model, args.dataset, args.data_dir, args.feature_maps, args.scores)
    truth = model.class_attributes.clone()
    strengths = model.strengths(truth.float()).double().numpy()

    def accuracy(rows: np.ndarray) -> float:
        logits = mix_expert_scores(expert_scores, rows, config.region_mix, config.coarse_mix)
        return gzsl_metrics(logits, labels, config.seen_class_ids)["T1"]

    print(f"T1, per cent, on {len(labels)} images of {len(np.unique(labels))} unseen classes")
    print(f"{'true attributes':64}{accuracy(strengths):6.1f}")
    for unnamed in ("zero", "mean", "likely"):
        understood = describe_unseen_classes(model, descriptions, unnamed)
        print(f"{'reader, unnamed = ' + unnamed:64}{accuracy(model.class_attributes.float().numpy()):6.1f}")
        model.class_attributes = truth.clone()
    told = {
        name: {
            attribute: float(strengths[config.label2id[name], config.attribute_names.index(attribute)])
            for attribute in entry["attributes"]
        }
        for name, entry in understood.items()
    }
    rows = strengths.copy()
    for name, attributes in told.items():
        named = torch.tensor([config.attribute_names.index(attribute) for attribute in attributes])
        rows[config.label2id[name]] = fill(model, named, torch.tensor(list(attributes.values())))
    print(f"{'the attributes that the reader found, with their true strengths':64}{accuracy(rows):6.1f}")
    for count in (5, 10, 20):
        prose = {name: sentences_of(strengths, config.label2id[name], config, count) for name in understood}
        describe_unseen_classes(model, prose)
        said, rows = f"reader, of {count} attributes that are put into words", model.class_attributes.float().numpy()
        print(f"{said:64}{accuracy(rows):6.1f}")
        model.class_attributes = truth.clone()
    if args.text_encoder:
        names = [config.id2label[index] for index in range(config.num_labels)]
        by_name = dict(zip(NameMatcher(names).find_all(descriptions), descriptions.values()))
        texts = [", ".join(by_name[name]) for name in names]
        for what, rows in encoder_table(args.text_encoder, model, texts, understood):
            print(f"{what:64}{accuracy(rows):6.1f}")
    precision, recall = precision_and_recall(
        {config.label2id[name]: entry["attributes"] for name, entry in understood.items()},
        strengths,
        config.attribute_names,
    )
    named = np.mean([len(entry["attributes"]) for entry in understood.values()])
    unread = np.mean([len(entry["unread"]) for entry in understood.values()])
    print(f"\nattributes understood of a class: {named:.1f}; phrases not read: {unread:.1f}")
    print(
        f"against attributes of the class with a strength from 0.5 on: precision {precision:.1f}, recall {recall:.1f}"
    )


def fill(model: DednModel, named: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    """A row of strengths of which these are named, and the others what they let expect."""
    seen = model.strengths(model.class_attributes[model.seen_classes].float()).double()
    return likely_attributes(seen, named, values).index_put((named,), values.double()).numpy()


if __name__ == "__main__":
    main()
