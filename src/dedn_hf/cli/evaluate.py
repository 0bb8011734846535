"""
Evaluates a trained model on the test images of a data set: a table, results.json and figures.

    dedn evaluate --model outputs/synthetic_birds --dataset synthetic_birds --output_dir OUT
    dedn evaluate --model MODEL --dataset cub --data_dir DATA --feature_maps STORE --output_dir OUT
"""

import os
from pathlib import Path

from ..recipes import short_name
from . import CommandParser, check_model, load_model


def main(arguments: list[str]):
    parser = CommandParser("dedn evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--dataset", required=True, help="synthetic_birds, cub, …: what it was trained for")
    parser.add_argument("--data_dir", help="folder of the data set's files")
    parser.add_argument(
        "--attribute_scale",
        help="unit, percent or the top of the scale of a folder's classes.csv (default: as the table says)",
    )
    parser.add_argument(
        "--class_attributes",
        choices=["model", "data"],
        help="whose classes are described: as the model has them, or as the data set's files do now, where they were "
        "edited after training (default: the model's, and what differs is said)",
    )
    parser.add_argument(
        "--descriptions",
        metavar="FILE.json",
        help="unseen classes in prose, in place of their attributes: class → sentences",
    )
    parser.add_argument("--feature_maps", help="read a store of `dedn features` instead of images")
    parser.add_argument(
        "--average_flips",
        action="store_true",
        help="the mean over each image and its mirror image, for twice the time",
    )
    parser.add_argument("--output_dir", required=True, help="folder for results.json and figures")
    parser.add_argument(
        "--batch_size", type=int, help="images in the model at once (default: 20, 100 of stored feature maps)"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs, such as cuda (default: cpu)")
    args = parser.parse_args(arguments)
    if args.batch_size is None:
        # Activations of a backbone are large: 100 images of 448 pixels take 9 GB.
        args.batch_size = 20 if args.feature_maps is None else 100
    if args.batch_size < 1:
        parser.error(f"--batch_size is {args.batch_size}; at least one image is needed")
    if args.descriptions and args.class_attributes:
        parser.error("--descriptions says how classes are described: leave --class_attributes out")
    if args.average_flips and args.feature_maps:
        parser.error("--average_flips is of images: leave --feature_maps out")
    check_model(args.model)

    from datasets import concatenate_datasets
    from transformers import CLIPImageProcessorPil
    from transformers.utils import cached_file

    from ..data import load_gzsl_dataset
    from ..evaluation.descriptions import describe_unseen_classes, read_descriptions
    from ..evaluation.report import (
        TEST_SPLITS,
        check_output_dir,
        differing_classes,
        evaluate_model,
        match_class_attributes,
    )
    from ..features.store import FeatureMapStore, fingerprint_weights
    from ..files import read_json
    from ..names_dedn import readable_attribute
    from ..training import PixelValueDataset

    name = os.path.relpath(args.model) if Path(args.model).is_dir() else args.model
    check_output_dir(args.output_dir, name, short_name(args.dataset))
    descriptions = read_descriptions(args.descriptions) if args.descriptions else None
    model = load_model(args.model).to(args.device)
    # Evaluation uses the model's own word vectors, so the data set's are of no interest.
    dataset = load_gzsl_dataset(
        args.dataset,
        args.data_dir,
        word_vectors="random",
        check_files=args.feature_maps is None,
        attribute_scale=args.attribute_scale,
    )
    class_attributes = match_class_attributes(model.config, dataset)
    differing = differing_classes(model.class_attributes.float().cpu().numpy(), class_attributes, model.config)
    if args.class_attributes == "data":
        config = model.config
        names = [config.id2label[index] for index in range(config.num_labels)]
        model.set_classes(names, class_attributes, seen=model.seen_classes.tolist())
    if differing:
        used = "The data set's are" if args.class_attributes == "data" else "The model's are"
        way_out = "" if args.class_attributes else ", --class_attributes data takes the data set's"
        print(f"{len(differing)} of {len(class_attributes)} classes are described otherwise in the data set now:")
        for name, (attribute, of_model, of_dataset) in [*differing.items()][:5]:
            attribute = readable_attribute(attribute)
            print(f"  {name}: most in {attribute!r}, {of_model:.3g} in the model, {of_dataset:.3g} in the data set")
        if len(differing) > 5:
            print("  …")
        print(f"{used} used{way_out}.")
    true_attributes, understood = model.class_attributes.float().cpu().numpy(), None
    if descriptions:
        understood = describe_unseen_classes(model, descriptions)
        named = sum(len(entry["attributes"]) for entry in understood.values()) / len(understood)
        print(f"{len(understood)} unseen classes are described in prose, by {named:.1f} attributes each.")
    if args.feature_maps is not None:
        store = FeatureMapStore(args.feature_maps)
        store.require(dataset=dataset.name, class_names=dataset.class_names, view=None)
        store.require(shape=[model.config.feature_channels, model.config.grid_size, model.config.grid_size])
        if model.backbone is not None and store.metadata["backbone"] is not None:
            store.require(backbone_sha256=fingerprint_weights(model.backbone))
        store.require_unchanged(concatenate_datasets([dataset.splits[split] for split in TEST_SPLITS]))
        processor = store.image_processor
        examples = {split: store.select(dataset.splits[split]["image_id"]) for split in TEST_SPLITS}
    elif model.backbone is None:
        raise ValueError(
            f"{args.model} has no backbone and takes no images: name the store of feature maps that it was "
            "trained on with --feature_maps."
        )
    else:
        processor = CLIPImageProcessorPil.from_pretrained(args.model)
        examples = {split: PixelValueDataset(dataset.splits[split], processor) for split in TEST_SPLITS}
    report = evaluate_model(model, dataset, examples, args.batch_size, processor, args.average_flips, true_attributes)

    trained = cached_file(args.model, "results.json", _raise_exceptions_for_missing_entries=False)
    training = read_json(trained) if trained else {}
    config = model.config
    description = {
        "model": name,
        "dataset": dataset.name,
        "protocol": training.get("protocol"),
        "split": {"name": dataset.split_name, "sha256": dataset.split_sha256},
        "class_attributes": {
            "of": "descriptions" if descriptions else args.class_attributes or "model",
            "differing_classes": len(differing),
        },
        # Where several seeds were run, the first one's model is on top.
        "seeds": training.get("seeds", [])[:1],
        "settings": {key: getattr(config, key) for key in ("region_mix", "coarse_mix", "calibration", "class_bias")}
        | ({"average_flips": True} if args.average_flips else {}),
    }
    if understood:
        description["understood"] = understood
    report.write(args.output_dir, description)
    print(f"\n{args.model} on {dataset.name}, {len(report.correct)} test images, per cent")
    print(report)
    print(f"\nresults.json and figures: {args.output_dir}")
