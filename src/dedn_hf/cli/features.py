"""
Runs a backbone once over all images of a data set, into a feature-map store for `dedn train --feature_maps`.

    dedn features --dataset cub --data_dir DATA --output_dir STORE …
        --backbone BACKBONE --image_size 448
        --torchvision_state_dict resnet101-63fe2227.pth --image_size 448
        --from_hdf5 FILE --map_key feature_map --label_key labels

    accelerate launch --multi_gpu --num_processes 4 -m dedn_hf features …    # processes divide the work

An interrupted run goes on where it was. A finished store is verified, images that have changed
since are computed anew, and the exit status says whether it is good.
"""

import argparse
from pathlib import Path

from ..recipes import DatasetNames, name_in_release, short_name
from . import CommandParser, read_bf16

IMAGE_OPTIONS = ("image_size", "batch_size", "num_workers", "device", "bf16", "on_error", "views")
HDF5_OPTIONS = ("map_key", "label_key", "id_key", "proposed_split", "data_set_order")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser("dedn features", description=__doc__)
    parser.add_argument("--dataset", required=True, choices=DatasetNames(), help="which data set")
    parser.add_argument("--data_dir", required=True, help="folder of the data set's files")
    parser.add_argument("--output_dir", required=True, help="folder of the store")

    source = parser.add_argument_group("where the maps come from").add_mutually_exclusive_group(required=True)
    source.add_argument("--backbone", help="folder or Hub id of a transformers vision model")
    source.add_argument(
        "--torchvision_state_dict",
        metavar="FILE",
        help="a ResNet of torchvision, .pth or .safetensors; OUTPUT_DIR/backbone is made of it, for --backbone",
    )
    source.add_argument("--from_hdf5", metavar="FILE", help="a file of feature maps that you already have")

    images = parser.add_argument_group("with a backbone")
    images.add_argument("--image_size", type=int, help="side of the centre crop, in pixels (required)")
    images.add_argument("--batch_size", type=int, help="images in it at once; more on a GPU (default: 8)")
    images.add_argument(
        "--num_workers",
        type=int,
        help="processes that decode images for each that computes (default: 1 beside a GPU, otherwise 0)",
    )
    images.add_argument("--device", help="cpu or cuda, of which each process takes its own (default: cuda, if any)")
    images.add_argument(
        "--bf16",
        nargs="?",
        const=True,
        type=read_bf16,
        metavar="auto|true|false",
        help="compute in bfloat16, less exact; auto: as a store that is there, else where the machine has bfloat16 "
        "and one batch is 1.2 times as fast in it (default: auto; --bf16 alone: true)",
    )
    images.add_argument(
        "--on_error",
        choices=["raise", "skip"],
        help="an image that is missing or cannot be read: stop at it, or leave it out and list it (default: raise)",
    )

    images.add_argument(
        "--views",
        type=int,
        help="maps of each image: the image's, and others of random parts of it, mirrored or not, of which training "
        "draws; each as large as the first (default: 1)",
    )

    hdf5 = parser.add_argument_group(
        "with an HDF5 file, whose labels say in which order its rows are, if only one order fits"
    )
    hdf5.add_argument("--map_key", help="its maps, (N, C, H, W) or (N, C, R) (required)")
    hdf5.add_argument("--label_key", help="its labels, to compare with those of the data set (required)")
    order = hdf5.add_mutually_exclusive_group()
    order.add_argument("--id_key", help="its image ids: the rows may have any order")
    order.add_argument(
        "--data_set_order",
        action="store_true",
        default=None,
        help="its rows are in the order of the data set's own list of images",
    )
    order.add_argument(
        "--proposed_split",
        action="store_true",
        default=None,
        help="its rows and class numbers are those of res101.mat and att_splits.mat in DATA_DIR/xlsa17",
    )

    args = parser.parse_args(arguments)
    given = {name: value for name, value in vars(args).items() if value is not None}
    missing = [name for name in (HDF5_OPTIONS[:2] if args.from_hdf5 else IMAGE_OPTIONS[:1]) if name not in given]
    if missing:
        parser.error(f"--{' and --'.join(missing)} must be given, too")
    useless = [name for name in (IMAGE_OPTIONS if args.from_hdf5 else HDF5_OPTIONS) if name in given]
    if useless:
        parser.error(f"--{', --'.join(useless)}: of no use {'with' if args.from_hdf5 else 'without'} --from_hdf5")
    for name, least in (("image_size", 1), ("batch_size", 1), ("num_workers", 0), ("views", 1)):
        if given.get(name, least) < least:
            parser.error(f"--{name} is {given[name]}; it must be at least {least}")
    args.options = {name: given[name] for name in (*IMAGE_OPTIONS, *HDF5_OPTIONS) if name in given}
    return args


def main(arguments: list[str]):
    args = parse_arguments(arguments)

    import torch
    from accelerate import PartialState

    from ..data.load import load_images
    from ..features.extraction import extract_feature_maps
    from ..features.hdf5 import describe_rows, import_hdf5

    options = args.options | {"output_dir": args.output_dir, "dataset_name": short_name(args.dataset)}
    if args.from_hdf5:
        of_split, in_order = options.pop("proposed_split", False), options.pop("data_set_order", False)
        # A data set of the release has its order.
        if name_in_release(args.dataset) is None and not args.id_key:
            if of_split or Path(args.data_dir, "xlsa17", "data", args.dataset.upper(), "res101.mat").is_file():
                options["proposed_split_dir"] = args.data_dir
            options["row_order"] = "proposed_split" if of_split else "data_set" if in_order else None
        dataset = load_images(args.dataset, args.data_dir, check_files=False)
        store = import_hdf5(args.from_hdf5, dataset=dataset, **options)
    else:
        if args.torchvision_state_dict and not Path(args.torchvision_state_dict).is_file():
            raise FileNotFoundError(f"There is no state dict {args.torchvision_state_dict}.")
        store = extract_feature_maps(
            load_images(args.dataset, args.data_dir, check_files=args.on_error != "skip"),
            args.backbone or args.torchvision_state_dict,
            **{"device": "cuda" if torch.cuda.is_available() else "cpu", "bf16": "auto"} | options,
        )
    state = PartialState()
    if state.is_main_process:
        for image in store.skipped:
            print(f"skipped: {image['path']}: {image['reason']}")
        size = sum(shard["bytes"] for shard in store.metadata["shards"])
        skipped = f", {len(store.skipped)} images skipped" if store.skipped else ""
        num_views = len(store.views)
        views = f", and {num_views} more of parts of the images, as large" if num_views else ""
        print(f"{store.path}: {len(store)} feature maps of shape {store.shape}, {size / 1e9:.2f} GB{views}{skipped}")
        if args.from_hdf5:
            print(describe_rows(store.metadata["hdf5"]))
        if args.torchvision_state_dict:
            print(f"{store.path / 'backbone'}: the backbone, for `dedn train --backbone`")
    state.destroy_process_group()
