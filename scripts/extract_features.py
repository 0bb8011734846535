"""
Runs a backbone once over all images of a data set, into a feature-map store for `scripts/train.py --feature_maps`.

    python scripts/extract_features.py --dataset cub --data_dir data --backbone BACKBONE --image_size 448 \
        --output_dir feature_maps/cub

An interrupted run goes on where it was. A finished store is verified, and the exit status says whether it is good.
"""

import argparse
import sys

import torch

from dedn_hf.data.feature_maps import extract_feature_maps
from dedn_hf.data.load import IMAGE_READERS


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0].strip(), formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    required = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--dataset", choices=list(IMAGE_READERS), help="which data set", **required)
    parser.add_argument("--data_dir", help="folder of the data set's files", **required)
    parser.add_argument("--backbone", help="folder or Hub id of a transformers vision model", **required)
    parser.add_argument("--image_size", type=int, help="side of the centre crop, in pixels", **required)
    parser.add_argument("--output_dir", help="folder of the store", **required)
    parser.add_argument("--batch_size", type=int, default=8, help="images in the backbone at once; more on a GPU")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that decode images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where it runs")
    arguments = parser.parse_args()

    try:
        store = extract_feature_maps(
            IMAGE_READERS[arguments.dataset](arguments.data_dir),
            arguments.backbone,
            arguments.image_size,
            arguments.output_dir,
            dataset_name=arguments.dataset,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            device=arguments.device,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = sum(shard["bytes"] for shard in store.metadata["shards"])
    print(f"{store.path}: {len(store)} feature maps of shape {store.shape}, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
