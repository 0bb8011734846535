"""
Measures what training on a feature-map store costs in memory and loading time, and that neither grows with the store:
one epoch of scripts/train.py over stores of random maps (written first, deleted afterwards), and the same steps over
one batch held in memory. Needs Linux.

    python scripts/benchmark_store.py --dataset cub --data_dir DATA --json outputs/benchmark/store.json
"""

import argparse
import sys


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="cub, sun, awa2 or folder: whose images and classes to use")
    parser.add_argument("--data_dir", required=True, help="folder of the data set's files")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[2048, 14, 14], help="channels and grid of a map (default: 2048 14 14)"
    )
    parser.add_argument(
        "--every", type=int, nargs="+", default=[10, 3, 1], help="a store of every n-th image each (default: 10 3 1)"
    )
    parser.add_argument(
        "--folder", default="outputs/store_benchmark", help="new folder for the stores (default: %(default)s)"
    )
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--use_cpu", action="store_true", help="train on the CPU where there is a GPU")
    args = parser.parse_args(arguments)
    if min(args.every) < 1:
        parser.error(f"--every {min(args.every)}: 1 is every image, 10 is every tenth.")

    from dedn_hf.files import write_json
    from dedn_hf.results import provenance
    from dedn_hf.store_benchmark import format_store_benchmark, run_store_benchmark

    flags = [f"--{name}" for name in ("bf16", "use_cpu") if getattr(args, name)]
    try:
        results = run_store_benchmark((args.dataset, args.data_dir), flags, args.shape, args.every, args.folder)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(format_store_benchmark(results))
    if args.json:
        write_json(args.json, {"stores": results} | provenance())


if __name__ == "__main__":
    main()
