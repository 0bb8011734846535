"""
Measures training steps and inference of the two experts on this machine's CPU, against a textbook form and a floor.

    python scripts/benchmark.py --sizes cub sun awa2 small --repeats 5 --json outputs/benchmark.json

Prints a table and writes it as JSON, with a picture of the same name beside it. Nothing else should be running.
"""

import argparse
from pathlib import Path

SIZES = ("cub", "sun", "awa2", "small")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements of which the median is taken (default: 5)"
    )
    parser.add_argument("--threads", type=int, help="threads of each contender (default: what torch takes)")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmark.json"), help="file to write (default: benchmark.json)"
    )
    args = parser.parse_args(arguments)
    for name in ("repeats", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed.")
    if args.json.is_dir() or args.json.suffix == ".png":
        parser.error(f"--json {args.json} must be a JSON file; the picture goes beside it.")

    from dedn_hf.benchmark import format_benchmark, plot_benchmark, run_benchmark, size_config
    from dedn_hf.files import write_json

    results = run_benchmark({name: size_config(name) for name in args.sizes}, args.repeats, threads=args.threads)
    write_json(args.json, results)
    picture = args.json.with_suffix(".png")
    plot_benchmark(results, picture)
    settings = next(iter(results.values()))["settings"]
    print(f"\n{settings['processor']}, {settings['threads']} threads, torch {settings['torch']}, float32, batch 50")
    print(format_benchmark(results))
    print(f"\n{args.json}, {picture}")


if __name__ == "__main__":
    main()
