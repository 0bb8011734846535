"""
Settings that are best on validation classes: trials drawn by Optuna, each a run of the `validation` protocol, which
reads no test image. Writes search.json, search.md and search.png; given again, the same command goes on where it was.

    python scripts/lab/search.py --num_trials 20 --seeds 0 1 2      # the built-in synthetic birds
    python scripts/lab/search.py --dataset cub --data_dir DATA --feature_maps STORE --num_trials 20 --bf16 --use_cpu
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from matplotlib.figure import Figure
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from training_data import load_training_data
from transformers.utils import logging

from dedn_hf.cli.train import DataArguments, parse_command_line
from dedn_hf.data import GzslDataset
from dedn_hf.evaluation.plots import plain_log_ticks, save_figure
from dedn_hf.files import read_json, write_json, write_text
from dedn_hf.results import provenance
from dedn_hf.training.arguments import CONFIG_SETTINGS, DednTrainingArguments
from dedn_hf.training.inputs import ModelInputs, prepare_inputs
from dedn_hf.training.protocol import describe_run, run_protocol
from dedn_hf.training.run_folder import leave_process_group

# All of them scales, so that equal factors are equally likely.
SPACE = {
    "learning_rate": (1e-3, 3e-2),
    "weight_decay": (1e-4, 1.0),
    "num_train_epochs": (2.0, 40.0),
    "distillation_weight": (1e-3, 0.3),
    "alignment_weight": (1e-4, 1e-2),
    "target_margin": (0.5, 8.0),
}


@dataclass
class ScriptArguments(DataArguments):
    """What is searched, and on what."""

    settings: list[str] = field(
        default_factory=lambda: ["learning_rate", "weight_decay", "num_train_epochs", "distillation_weight"],
        metadata={"help": f"What is searched, of {', '.join(SPACE)}; all else is as the recipe and the flags say."},
    )
    num_trials: int = field(default=20, metadata={"help": "The budget; the first trial is the recipe itself."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; a trial is a run of each."})


def run_search(
    dataset: GzslDataset,
    inputs: ModelInputs,
    args: DednTrainingArguments,
    settings: list[str],
    num_trials: int,
    seeds: list[int],
) -> dict:
    """
    Searches settings by H on validation classes.

    Which settings a trial has follows from the trials before it and its number alone, so that a search that was killed
    goes on as if it had not been.

    Args:
        dataset (`GzslDataset`):
            The data set.
        inputs (`ModelInputs`):
            What the models are trained on, see [`prepare_inputs`].
        args (`DednTrainingArguments`):
            Arguments of training. Trials have folders in its `output_dir`.
        settings (`list[str]`):
            Keys of `SPACE`.
        num_trials (`int`):
            How many trials there are in the end.
        seeds (`list[int]`):
            A run of each for every trial.

    Returns:
        `dict`: what `search.json` holds.

    Raises:
        ValueError: If there is no such setting, or `output_dir` holds another search.
    """
    unknown = [name for name in settings if name not in SPACE]
    if unknown or not settings:
        raise ValueError(f"There is nothing to search in {', '.join(unknown)}; choose from {', '.join(SPACE)}.")
    output_dir = Path(args.output_dir)
    request = describe_run("validation", dataset, inputs, args) | {"searched": settings, "seeds": list(seeds)}
    recipe = {name: float(request["settings"][name]) for name in settings}
    # The search begins with the recipe, and outside of the space where that is.
    distributions = {}
    for name in settings:
        low, high = SPACE[name]
        distributions[name] = FloatDistribution(min(low, recipe[name] or low), max(high, recipe[name]), log=True)
    file = output_dir / "search.json"
    trials = []
    if file.is_file():
        found = read_json(file)
        differing = [key for key, value in request.items() if found.get(key) != value]
        if differing:
            raise ValueError(f"{file} is of another search, in {', '.join(differing)}: choose an --output_dir")
        trials = found["trials"]
    summary = request | provenance() | {"trials": trials}
    for number in range(len(trials), num_trials):
        chosen = recipe if number == 0 else _draw(trials, distributions, number)
        if args.process_index == 0:
            print(f"\ntrial {number + 1} of {num_trials}: {_describe(chosen)}", flush=True)
        folder = output_dir / "_".join(f"{name}={value:g}" for name, value in chosen.items())
        of_config = {name: value for name, value in chosen.items() if name in CONFIG_SETTINGS}
        of_training = {name: value for name, value in chosen.items() if name not in CONFIG_SETTINGS}
        results = run_protocol(
            "validation",
            dataset,
            dataclasses.replace(inputs, config=inputs.config | of_config),
            dataclasses.replace(args, output_dir=str(folder), **of_training),
            seeds,
        )
        trials.append(
            {"settings": chosen, **{key: results[key] for key in ("validation", "chosen") if key in results}}
        )
        if args.should_save:
            write_json(file, summary)
            write_text(output_dir / "search.md", f"# Search on {dataset.name}\n\n{format_search(summary)}\n")
            plot_search(summary, output_dir / "search.png")
    return summary


def _draw(trials: list[dict], distributions: dict, number: int) -> dict:
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=number, multivariate=True, n_startup_trials=8)
    )
    for trial in trials:
        inside = {name: min(max(trial["settings"][name], of.low), of.high) for name, of in distributions.items()}
        study.add_trial(create_trial(params=inside, distributions=distributions, value=trial["validation"]["H"]))
    drawn = study.ask(distributions).params
    # Two digits, as a person would set them; a part of an epoch chooses nothing.
    return {
        name: max(1.0, round(value)) if name == "num_train_epochs" else float(f"{value:.2g}")
        for name, value in drawn.items()
    }


def _describe(settings: dict) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def format_search(summary: dict) -> str:
    """All trials as a Markdown table, best first; the first trial is the recipe."""
    names = summary["searched"]
    trials = sorted(enumerate(summary["trials"], 1), key=lambda trial: -trial[1]["validation"]["H"])
    lines = [f"| trial | {' | '.join(names)} | T1 | U | S | H |", "|---" * (len(names) + 5) + "|"]
    for number, trial in trials:
        cells = [f"{trial['settings'][name]:g}" for name in names]
        cells += [f"{trial['validation'][figure]:.1f}" for figure in ("T1", "U", "S", "H")]
        lines.append(f"| {number}{' (the recipe)' * (number == 1)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_search(summary: dict, file: Path):
    """H over each setting, a point a trial."""
    names, trials = summary["searched"], summary["trials"]
    figure = Figure(figsize=(3.2 * len(names), 3), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names):
        panel.scatter([trial["settings"][name] for trial in trials], [trial["validation"]["H"] for trial in trials])
        panel.scatter(trials[0]["settings"][name], trials[0]["validation"]["H"], label="the recipe")
        panel.set(xscale="log", xlabel=name)
        plain_log_ticks(panel.xaxis)
    panels[0].set_ylabel("H on validation classes")
    panels[0].legend()
    save_figure(figure, file)


def main(arguments: list[str] | None = None):
    script, training, recipe = parse_command_line(
        sys.argv[1:] if arguments is None else arguments,
        ScriptArguments,
        "outputs/search_{}".format,
        prog="search.py",
        description=__doc__.strip(),
    )
    # Each checkpoint would have a bar for its one file of weights, and Optuna a line for each trial that is told.
    logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dataset, config = load_training_data(script, training, recipe)
    inputs = prepare_inputs(dataset, script.feature_maps, config=config)
    try:
        summary = run_search(dataset, inputs, training, script.settings, script.num_trials, script.seeds)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if training.process_index == 0:
        print(f"\n{script.dataset}, validation classes, seeds {script.seeds}, per cent")
        print(format_search(summary))
        print(f"Table, figures and chart: search.md, search.json and search.png in {training.output_dir}")
    leave_process_group()


if __name__ == "__main__":
    main()
