"""
Measures how well unseen classes are recognised from short descriptions: T1 when each keeps only its most distinctive
attributes, and the others count as none or as the mean of the seen classes.

    python scripts/measure_descriptions.py --model outputs/synthetic_birds --dataset synthetic_birds
    python scripts/measure_descriptions.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE
"""

import argparse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--dataset", required=True, help="what it was trained for")
    parser.add_argument("--data_dir", help="folder of the data set's files")
    parser.add_argument("--feature_maps", help="read a store of scripts/extract_features.py instead of images")
    args = parser.parse_args()

    from dedn_hf import DednModel
    from dedn_hf.data import load_gzsl_dataset
    from dedn_hf.evaluation.descriptions import short_description_accuracy
    from dedn_hf.evaluation.report import predict_examples
    from dedn_hf.training.inputs import prepare_inputs

    model = DednModel.from_pretrained(args.model)
    dataset = load_gzsl_dataset(args.dataset, args.data_dir, word_vectors="random")
    examples = prepare_inputs(dataset, args.feature_maps).make(dataset.splits["test_unseen"])
    predictions = predict_examples(model, examples)
    table = short_description_accuracy(
        predictions.expert_scores,
        predictions.labels,
        dataset.class_attributes,
        dataset.seen_class_ids,
        model.config.region_mix,
        model.config.coarse_mix,
    )
    print(f"T1, per cent, on {len(predictions.labels)} images of {len(dataset.unseen_class_ids)} unseen classes")
    print(f"{'attributes':>10} {'strengths':>10} {'unnamed = zero':>16} {'unnamed = mean':>16}")
    for zero, mean in zip(table[::2], table[1::2], strict=True):
        strengths = "given" if zero["with_strengths"] else "not given"
        print(f"{zero['attributes']:>10} {strengths:>10} {zero['T1']:>16.1f} {mean['T1']:>16.1f}")


if __name__ == "__main__":
    main()
