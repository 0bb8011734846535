"""
Finished runs side by side: a table of their validation figures with the settings that differ from the first run's, and
H over the steps of training as a picture.

    python scripts/compare_runs.py outputs/cub outputs/other_cub --figure comparison.png
"""

import argparse

LEARNING = {"reference": "test images", "validated": "validation images", "validation": "validation images"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of scripts/train.py")
    parser.add_argument("--figure", help="PNG file to draw H over steps into")
    args = parser.parse_args()

    from dedn_hf.evaluation.plots import plot_learning_curves
    from dedn_hf.training.comparison import format_comparison, read_finished_run

    try:
        runs = [read_finished_run(folder) for folder in args.runs]
    except FileNotFoundError as error:
        parser.error(str(error))
    print(format_comparison(runs))
    if args.figure:
        curves = {
            f"{run.name} ({LEARNING[run.results['protocol']]})": [
                [(entry["step"], entry["eval_H"]) for entry in seed] for seed in run.evaluations
            ]
            for run in runs
        }
        plot_learning_curves(curves, args.figure)
        print(f"\nFigure: {args.figure}")


if __name__ == "__main__":
    main()
