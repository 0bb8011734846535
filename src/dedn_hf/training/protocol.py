"""
The protocols of training and evaluation.

`reference` is as released: train on trainval, look at the test set after every epoch, report the best epoch. Its
figures are comparable with published ones, and too good. `validated` chooses on validation classes, trains anew and
reads the test set once. `validation` is its first half, for finding settings: no test image is read, and no model is
left. See docs/training.md for what each is good for.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, set_seed

from ..configuration_dedn import DednConfig
from ..data import GzslDataset
from ..evaluation import ausuc, choose_mixes, gzsl_metrics, seen_unseen_curve
from ..evaluation.attribute_calibration import fit_attribute_calibration
from ..evaluation.class_fit import class_fit_statistics, fit_coefficients
from ..files import clear_faults, only_run_in, read_json, write_json
from ..modeling_dedn import DednModel
from ..precision import check_bf16
from ..ranks_dedn import ranks_of
from ..results import provenance
from .arguments import CONFIG_SETTINGS, DednTrainingArguments
from .bf16 import settle_bf16
from .dataset import ClassSubset, RandomCrop
from .inputs import ModelInputs
from .run_folder import copy_model, finish_run, from_main, last_checkpoint, move_files, remove_run, start_run
from .trainer import DednTrainer

# Protocol → splits that it cannot do without. Without test images `validated` has no figures for them.
PROTOCOLS = {
    "validated": ("trainval", "train", "validation_seen", "validation_unseen"),
    "validation": ("train", "validation_seen", "validation_unseen"),
    "reference": ("trainval", "test_seen", "test_unseen"),
}
_RECORDED_ARGUMENTS = (
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "backbone_learning_rate",
    "trained_backbone_parameters",
    "random_crop_scale",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "balanced_batches",
    "bf16",
    "world_size",
)
_RECORDED_SETTINGS = (
    *CONFIG_SETTINGS,
    "region_value_rank",
    "region_value_std",
    "freeze_backbone",
    "freeze_batch_norm",
    "feature_channels",
    "grid_size",
    "word_vector_size",
)

# Settings of the model that are chosen on validation classes.
_CHOSEN = ("region_mix", "coarse_mix", "calibration", "score_scale")


class _StopAfterEpoch(TrainerCallback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= self.epoch


def build_model(
    dataset: GzslDataset, class_ids: Sequence[int], unseen_class_ids: Sequence[int], **config
) -> DednModel:
    """
    A new model for some classes of a data set, with its word vectors and class attributes.

    Args:
        dataset (`GzslDataset`):
            The data set.
        class_ids (`Sequence[int]`):
            The classes that the model knows; its ids are places in this list.
        unseen_class_ids (`Sequence[int]`):
            Those of them without training images.
        config (*optional*):
            Other fields of [`DednConfig`], such as `model` of a [`Recipe`].
    """
    names = [dataset.class_names[class_id] for class_id in class_ids]
    unseen = set(unseen_class_ids)
    seen = [class_id not in unseen for class_id in class_ids]
    model = DednModel(
        DednConfig(
            **{
                "attribute_names": dataset.attribute_names,
                "attribute_groups": dataset.attribute_groups,
                "word_vector_size": dataset.word_vectors.shape[1],
                "id2label": dict(enumerate(names)),
                "seen_class_ids": np.flatnonzero(seen).tolist(),
            }
            | config
        )
    )
    model.set_word_vectors(dataset.word_vectors)
    model.set_classes(
        names,
        dataset.class_attributes[list(class_ids)],
        seen=seen,
        class_parents=ranks_of(names, dataset.class_parents),
    )
    return model


def describe_run(protocol: str, dataset: GzslDataset, inputs: ModelInputs, args: DednTrainingArguments) -> dict:
    """
    What makes two runs the same but for their seeds, as `results.json` records it: `dataset`, `protocol`, `split` and
    `settings`.

    Args:
        protocol, dataset, inputs, args:
            As in [`run_protocol`].
    """
    settings = {name: getattr(args, name) for name in _RECORDED_ARGUMENTS}
    config = build_model(dataset, range(len(dataset.class_names)), dataset.unseen_class_ids, **inputs.config).config
    settings |= {name: getattr(config, name) for name in _RECORDED_SETTINGS} | inputs.source
    settings["word_vectors"] = dataset.word_vector_source
    settings["word_vectors_sha256"] = hashlib.sha256(dataset.word_vectors.tobytes()).hexdigest()
    named = repr((dataset.class_names, dataset.attribute_names)).encode()
    settings["class_attributes_sha256"] = hashlib.sha256(named + dataset.class_attributes.tobytes()).hexdigest()
    return {
        "dataset": dataset.name,
        "protocol": protocol,
        "split": {"name": dataset.split_name, "sha256": dataset.split_sha256},
        "settings": {key: getattr(value, "value", value) for key, value in settings.items()},
    }


def run_protocol(
    protocol: str,
    dataset: GzslDataset,
    inputs: ModelInputs,
    args: DednTrainingArguments,
    seeds: Sequence[int],
    overwrite: bool = False,
    prepare_model: Callable[[DednModel], None] | None = None,
    write_card: Callable[[Path, dict | None], None] | None = None,
    bf16: bool | str | None = None,
) -> dict:
    """
    Trains and evaluates on a data set; writes the model (not for `"validation"`) and `results.json` into
    `args.output_dir`.

    With several seeds each has a folder `seed_<n>` below it, and the first seed's model is on top. What was finished
    is not done again: the same call goes on from the last checkpoint. Several machines must share the folder to go on.

    Args:
        protocol (`str`):
            `"validated"`, `"validation"` or `"reference"`.
        dataset (`GzslDataset`):
            The data set.
        inputs (`ModelInputs`):
            What the model is trained on, see [`prepare_inputs`].
        args (`DednTrainingArguments`):
            Arguments of training; the protocol sets seed, evaluation and saving.
        seeds (`Sequence[int]`):
            One run each.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a run that `output_dir` holds is deleted first.
        prepare_model (`Callable[[DednModel], None]`, *optional*):
            What is done to each new model before it is trained. It is not recorded: name it in `inputs.source`.
        write_card (`Callable[[Path, dict | None], None]`, *optional*):
            Writes the card of a model into its folder, given the results, or `None` while there are none.
        bf16 (`bool` or `str`, *optional*):
            `True`, `False` or `"auto"`, see [`settle_bf16`]; by default as `args` say, untimed.

    Returns:
        `dict`: what `results.json` holds, for `"validation"` without `test`. A figure that no image speaks of is
        `None`.

    Raises:
        ValueError: If there is no such protocol, the data set lacks a split for it or a seen class has no image to be
            trained or validated on, a seed occurs twice, `output_dir` holds a run with other settings, or is not to be
            deleted; if feature maps are to be cropped, or `inputs.warm_start` has no model for a stage; or `bf16` is
            something else.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    if bf16 is not None:
        check_bf16(bf16)
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"Seeds must be given and differ, but they are {list(seeds)}.")
    empty = [split for split in PROTOCOLS[protocol] if not len(dataset.splits[split])]
    if empty:
        raise ValueError(
            f"The {protocol} protocol needs images in {', '.join(PROTOCOLS[protocol])}, but {dataset.name} has none "
            f"in {', '.join(empty)}. Put classes or images there, or choose the other protocol."
        )
    _check_classes(protocol, dataset, inputs)
    _check_beginning(protocol, dataset, inputs, args, seeds)
    request = describe_run(protocol, dataset, inputs, args)
    # Here, because it fails where the package is not installed.
    origin = provenance()
    output_dir = Path(args.output_dir)
    with contextlib.ExitStack() as run:
        run.enter_context(clear_faults(output_dir))
        if overwrite:
            from_main(lambda: remove_run(output_dir))
        from_main(lambda: run.enter_context(only_run_in(output_dir)) and None)
        if bf16 is not None:
            examples = inputs.make(dataset.splits[PROTOCOLS[protocol][0]])
            all_classes = (range(len(dataset.class_names)), dataset.unseen_class_ids)
            args = settle_bf16(bf16, args, partial(build_model, dataset, *all_classes, **inputs.config), examples)
            request["settings"]["bf16"] = args.bf16
        return _run_seeds(protocol, dataset, inputs, args, seeds, prepare_model, write_card, request, origin)


def _run_seeds(protocol, dataset, inputs, args, seeds, prepare_model, write_card, request, origin) -> dict:
    output_dir = Path(args.output_dir)

    def run_seed(seed: int, folder: Path) -> dict:
        results = from_main(lambda: start_run(folder, request | {"seeds": [seed]}))
        if results is None:
            figures = _Run(dataset, inputs, args, seed, folder, prepare_model, write_card).run(protocol)
            results = request | {"seeds": [seed]} | figures | origin
            finish_run(folder, results, write_card)
        return results

    if len(seeds) == 1:
        return run_seed(seeds[0], output_dir)
    results = from_main(lambda: start_run(output_dir, request | {"seeds": list(seeds)}))
    if results is None:
        runs = [run_seed(seed, output_dir / f"seed_{seed}") for seed in seeds]
        if args.should_save:
            copy_model(output_dir / f"seed_{seeds[0]}", output_dir)
        results = request | {"seeds": list(seeds)} | mean_and_std(runs) | origin
        finish_run(output_dir, results, write_card)
    return results


def _check_classes(protocol: str, dataset: GzslDataset, inputs: ModelInputs):
    """A ValueError that names splits, and classes in them, without anything to train or to choose on."""
    validation = set(dataset.validation_class_ids)
    needed = {
        "trainval": set(dataset.seen_class_ids),
        "train": set(dataset.seen_class_ids) - validation,
        "validation_unseen": validation,
    }
    for split in PROTOCOLS[protocol]:
        listed = set(dataset.splits[split]["label"][:])
        made = set(inputs.make(dataset.splits[split]).labels.tolist())
        lacking = sorted((needed.get(split, set()) if made else listed) - made)
        if not lacking:
            continue
        kind = {"trainval": "seen class", "train": "seen class", "validation_unseen": "validation class"}.get(split)
        names = ", ".join(dataset.class_names[label] for label in lacking[:5]) + ", …" * (len(lacking) > 5)
        way_out = f"Add some, or make it no {kind}."
        if listed.issuperset(lacking):
            way_out = "`dedn features` skipped them: put their files right, and run it again."
        raise ValueError(
            f"The {protocol} protocol needs images of each {kind or 'class'} in {split}, but there are none of "
            f"{names}. {way_out}"
        )


def _check_beginning(protocol, dataset, inputs, args, seeds):
    """What training begins with, and what it is to do with images, before hours of it."""
    if args.random_crop_scale is not None and inputs.make_cropped is None:
        raise ValueError(
            f"`random_crop_scale` is {args.random_crop_scale}, but stored feature maps are of whole images: leave it "
            "out, or train on images."
        )
    for name in ("backbone_learning_rate", "trained_backbone_parameters"):
        value = getattr(args, name)
        if value is not None and inputs.config.get("freeze_backbone", True):
            raise ValueError(
                f"`{name}` is {value}, but no backbone is trained: leave it out, or train one along "
                "(`freeze_backbone: false`), such as by --recipe cub_finetune."
            )
    start = inputs.warm_start
    if start is None:
        return
    output_dir, run = Path(args.output_dir).resolve(), start.folder.resolve()
    if output_dir.is_relative_to(run) or run.is_relative_to(output_dir):
        raise ValueError(
            f"The run that training begins with, {start.folder}, and the output folder {args.output_dir} are one, or "
            "one lies in the other: choose another --output_dir."
        )
    seen = set(dataset.seen_class_ids)
    stages = {"validation": [seen - set(dataset.validation_class_ids)], "reference": [seen]}
    stages["validated"] = stages["validation"] + stages["reference"]
    for seed in seeds:
        for class_ids in stages[protocol]:
            start.find([dataset.class_names[class_id] for class_id in class_ids], seed, protocol)


class _Run:
    """One seed of a protocol."""

    def __init__(self, dataset, inputs, args, seed, folder, prepare_model, write_card):
        self.dataset, self.inputs, self.args, self.seed, self.folder = dataset, inputs, args, seed, folder
        self.prepare_model, self.write_card = prepare_model, write_card
        self.all_class_ids = list(range(len(dataset.class_names)))

    def run(self, protocol: str) -> dict:
        self.protocol = protocol
        if protocol == "validation":
            figures, history, learned = self._choose()
            if self.args.should_save:
                self._keep_choice(history, learned)
                write_json(self.folder / "training_log.json", {"choose": history})
            return figures
        if protocol == "validated":
            return self._validated()
        return self._reference()

    def _choose(self) -> tuple[dict, list[dict], dict[str, torch.Tensor]]:
        """What is best on validation classes, the log of training, and buffers of the best epoch's model."""
        dataset = self.dataset
        class_ids = sorted(dataset.seen_class_ids)
        model = self._model(class_ids, dataset.validation_class_ids)
        class_attributes, seen = model.class_attributes.numpy(), model.config.seen_class_ids

        def choose(prediction):
            # Beside the logits, `expert_scores` alone is kept.
            choice = choose_mixes(prediction.predictions[-1], class_attributes, prediction.label_ids, seen)
            mixes = {name: getattr(choice, name) for name in _CHOSEN}
            return choice.metrics | mixes

        chooser = self._trainer(
            "choose",
            model,
            train_dataset=self._examples(["train"], class_ids, training=True),
            eval_dataset=self._examples(["validation_seen", "validation_unseen"], class_ids),
            compute_metrics=choose,
            eval_strategy="epoch",
        )
        self._train(chooser, keep="expert_scores")
        best = _best_epoch(chooser.state.log_history)
        figures = {
            # Whole epochs, also where `max_steps` ends training within one.
            "chosen": {"epochs": math.ceil(best["epoch"]), **_chosen_settings(best)},
            "validation": {name: best[f"eval_{name}"] for name in ("T1", "U", "S", "H")},
        }
        file = Path(chooser.args.output_dir) / "learned.safetensors"
        # Of a run that was interrupted after it.
        learned = from_main(lambda: load_file(file) if file.is_file() else None)
        if learned is None:
            learned = self._learn_from_scores(chooser, best)
            if self.args.should_save:
                save_file(learned, file.with_suffix(".tmp"))
                os.replace(file.with_suffix(".tmp"), file)
        return figures, chooser.state.log_history, learned

    def _learn_from_scores(self, chooser: DednTrainer, best: dict) -> dict[str, torch.Tensor]:
        """
        Buffers of the best epoch's model: how to read its attribute scores, by training images, and how well classes
        explain images, by validation images, too: those of validation classes are strangers among the seen ones, and
        those of seen classes among the others.
        """
        checkpoint = Path(chooser.args.output_dir) / f"checkpoint-{best['step']}"
        model = chooser.accelerator.unwrap_model(chooser.model)
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        for name, value in _chosen_settings(best).items():
            setattr(model.config, name, value)
        class_ids = sorted(self.dataset.seen_class_ids)
        scores, labels = self._attribute_scores(chooser, ["train"], class_ids)
        self._calibrate_attributes(model, scores, labels, class_ids)
        statistics = _class_statistics(model, scores, labels)
        if statistics is not None:
            model.set_class_fit(statistics | {"coefficients": torch.zeros(2, 3)})
            scores, labels = self._attribute_scores(chooser, ["validation_seen", "validation_unseen"], class_ids)
            model.class_fit.coefficients.copy_(torch.tensor(_class_fit_coefficients(model, scores, labels)))
        learned = {
            name: buffer.cpu().clone()
            for name, buffer in model.state_dict().items()
            if name.startswith(("attribute_calibration", "attribute_levels", "attribute_statistics", "class_fit."))
        }
        return learned

    def _validated(self) -> dict:
        figures, history, learned = self._choose()
        chosen = dict(figures["chosen"])
        epochs = chosen.pop("epochs")
        trainer = self._trainer(
            "final",
            self._model(self.all_class_ids, self.dataset.unseen_class_ids),
            train_dataset=self._examples(["trainval"], self.all_class_ids, training=True),
            callbacks=[_StopAfterEpoch(epochs)],
        )
        self._train(trainer, last_epoch=epochs)
        for name, value in chosen.items():
            setattr(trainer.model.config, name, value)
        model = trainer.accelerator.unwrap_model(trainer.model)
        scores, labels = self._attribute_scores(trainer, ["trainval"], self.all_class_ids)
        self._calibrate_attributes(model, scores, labels, self.all_class_ids)
        statistics = _class_statistics(model, scores, labels)
        if statistics is not None and "class_fit.coefficients" in learned:
            model.set_class_fit(statistics | {"coefficients": learned["class_fit.coefficients"]})
        test = self._test(trainer)
        self._save(trainer, learned, choose=history, final=trainer.state.log_history)
        return figures | {"test": test}

    def _reference(self) -> dict:
        trainer = self._trainer(
            "final",
            self._model(self.all_class_ids, self.dataset.unseen_class_ids),
            train_dataset=self._examples(["trainval"], self.all_class_ids, training=True),
            eval_dataset=self._examples(["test_seen", "test_unseen"], self.all_class_ids),
            eval_strategy="epoch",
            load_best_model_at_end=True,
        )
        self._train(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        scores, labels = self._attribute_scores(trainer, ["trainval"], self.all_class_ids)
        self._calibrate_attributes(model, scores, labels, self.all_class_ids)
        test = self._test(trainer)
        self._save(trainer, final=trainer.state.log_history)
        epochs = math.ceil(_best_epoch(trainer.state.log_history)["epoch"])
        return {"chosen": {"epochs": epochs, "on": "the test set, as released"}, "test": test}

    def _model(self, class_ids, unseen_class_ids) -> DednModel:
        set_seed(self.seed)
        model = build_model(self.dataset, class_ids, unseen_class_ids, **self.inputs.config)
        if model.backbone is not None and self.inputs.backbone is not None:
            model.backbone.load_state_dict(self.inputs.backbone.state_dict())
        if self.inputs.warm_start is not None:
            self.inputs.warm_start.initialize(model, self.seed, self.protocol)
        if self.prepare_model is not None:
            self.prepare_model(model)
        return model

    def _examples(self, splits, class_ids, training: bool = False) -> ClassSubset:
        images = datasets.concatenate_datasets([self.dataset.splits[split] for split in splits])
        scale = self.args.random_crop_scale
        if training and scale is not None:
            return ClassSubset(self.inputs.make_cropped(images, RandomCrop(scale, self.seed)), class_ids)
        if training and self.inputs.make_views is not None:
            return ClassSubset(self.inputs.make_views(images, self.seed), class_ids)
        return ClassSubset(self.inputs.make(images), class_ids)

    def _trainer(self, stage: str, model: DednModel, **kwargs) -> DednTrainer:
        own = {name: kwargs.pop(name) for name in ("eval_strategy", "load_best_model_at_end") if name in kwargs}
        args = dataclasses.replace(
            self.args,
            output_dir=str(self.folder / "unfinished" / stage),
            seed=self.seed,
            save_strategy="epoch",
            # The best and the last. With one, the Trainer deletes the last when training ends.
            save_total_limit=2,
            metric_for_best_model="H",
            greater_is_better=True,
            **own,
        )
        processor = self.inputs.image_processor
        write_card = self.write_card and partial(self.write_card, results=None)
        return DednTrainer(model, args, write_card=write_card, processing_class=processor, **kwargs)

    def _train(self, trainer: DednTrainer, last_epoch: float = math.inf, keep: str | None = None):
        """Trains, or goes on from the last checkpoint. Metrics get the logits, and one more output if it is named."""
        ignored = _ignored_but(trainer, keep)
        found = from_main(lambda: last_checkpoint(Path(trainer.args.output_dir)))
        if found is None:
            trainer.train(ignore_keys_for_eval=ignored)
            return
        checkpoint, state = found
        if state.global_step < state.max_steps and state.epoch < last_epoch:
            trainer.train(resume_from_checkpoint=str(checkpoint), ignore_keys_for_eval=ignored)
            return
        # It had ended, and the Trainer would go on for another step, or another epoch.
        if trainer.args.load_best_model_at_end:
            checkpoint = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
        trainer.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        trainer.state = state

    def _test(self, trainer: DednTrainer) -> dict:
        prediction = trainer.predict(self._examples(["test_seen", "test_unseen"], self.all_class_ids))
        logits, labels, seen = prediction.predictions, prediction.label_ids, self.dataset.seen_class_ids
        metrics = gzsl_metrics(logits, labels, seen)
        if not math.isnan(metrics["H"]):
            metrics["AUSUC"] = ausuc(seen_unseen_curve(logits, labels, seen))
        return {"AUSUC": None} | {name: None if math.isnan(value) else value for name, value in metrics.items()}

    def _attribute_scores(self, trainer: DednTrainer, splits: list[str], class_ids) -> tuple[np.ndarray, np.ndarray]:
        """Attribute scores of images that are no test images, and their classes' places in `class_ids`."""
        # Those of the stage that chooses are of other outputs.
        trainer.compute_metrics = None
        # `test_dataset` is what Trainer.predict calls any data set.
        prediction = trainer.predict(
            self._examples(splits, class_ids),
            ignore_keys=_ignored_but(trainer, "attribute_scores"),
            metric_key_prefix=splits[0],
        )
        return prediction.predictions[1], prediction.label_ids

    def _calibrate_attributes(self, model: DednModel, scores: np.ndarray, labels: np.ndarray, class_ids):
        """Fits what makes attribute scores readable, on the training images; `labels` are places in `class_ids`."""
        strengths = self.dataset.class_attributes.clip(min=0)
        strengths = (strengths / strengths.max())[class_ids]
        statistics = np.stack([scores.mean(axis=0), scores.std(axis=0)])
        model.set_attribute_calibration(fit_attribute_calibration(scores, strengths[labels]), statistics)

    def _save(self, trainer: DednTrainer, learned: dict | None = None, **histories):
        if not self.args.should_save:
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self.inputs.backbone is not None and model.backbone is None:
            model.set_backbone(self.inputs.backbone)
        temporary = self.folder / "unfinished" / "model"
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        if self.inputs.image_processor is not None:
            self.inputs.image_processor.save_pretrained(temporary)
        write_json(temporary / "training_log.json", histories)
        if "choose" in histories:
            self._keep_choice(histories["choose"], learned)
        move_files(temporary, self.folder)

    def _keep_choice(self, history: list[dict], learned: dict[str, torch.Tensor]):
        """
        Keeps in `choose/` the model that has not seen the validation classes, of its best epoch, with what was chosen:
        what fine-tuning may begin with where it chooses on these classes again.
        """
        best = _best_epoch(history)
        temporary, folder = self.folder / "unfinished" / "choice", self.folder / "choose"
        for old in (temporary, folder):
            shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir()
        checkpoint = self.folder / "unfinished" / "choose" / f"checkpoint-{best['step']}"
        config, state = read_json(checkpoint / "config.json"), load_file(checkpoint / "model.safetensors")
        if "class_fit.means" in learned:
            config["class_fit_size"] = list(learned["class_fit.means"].shape)
        write_json(temporary / "config.json", config | _chosen_settings(best))
        save_file(state | learned, temporary / "model.safetensors", metadata={"format": "pt"})
        os.replace(temporary, folder)


def _class_fit_coefficients(model: DednModel, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """See [`fit_coefficients`], `(2, 3)`: with the seen classes of the model for candidates, and with the others."""
    fit, config, coefficients = model.class_fit, model.config, []
    strengths, seen = model.strengths(model.class_attributes), model.seen_classes.cpu().numpy()
    for ids in (np.flatnonzero(seen).tolist(), np.flatnonzero(~seen).tolist()):
        trained = [config.trained_class_names.index(config.id2label[i]) if seen[i] else None for i in ids]
        means = fit.targets(strengths[ids], trained).means
        candidate = np.full(len(seen), -1)
        candidate[ids] = range(len(ids))
        distances = fit.distances(torch.as_tensor(scores).to(means), means).cpu().numpy()
        coefficients.append(fit_coefficients(distances, candidate[labels]))
    return np.stack(coefficients)


def _class_statistics(model: DednModel, scores: np.ndarray, labels: np.ndarray) -> dict | None:
    """See [`class_fit_statistics`]; `labels` are ids of the model's classes."""
    ids = [model.config.label2id[name] for name in model.config.trained_class_names]
    place = np.full(model.config.num_labels, -1)
    place[ids] = range(len(ids))
    strengths = model.strengths(model.class_attributes.float().cpu())[ids]
    buffers = class_fit_statistics(scores, place[labels], strengths)
    return buffers and {name: torch.tensor(values) for name, values in buffers.items()}


def _ignored_but(trainer: DednTrainer, kept: str | None) -> list[str]:
    """`ignore_keys` with which one more output is predicted than the logits."""
    return [name for name in trainer.model.config.keys_to_ignore_at_inference if name != kept]


def _chosen_settings(best: dict) -> dict[str, float]:
    """Of the log of the best epoch. That of a run that an earlier version began has no scale."""
    return {name: best[f"eval_{name}"] for name in _CHOSEN if f"eval_{name}" in best}


def _best_epoch(history: list[dict]) -> dict:
    return max((entry for entry in history if "eval_H" in entry), key=lambda entry: entry["eval_H"])


def mean_and_std(runs: list[dict]) -> dict:
    """The mean of several runs' `validation` and `test` figures, and their spread as `std`."""
    figures = {"std": {}}
    for part in ("validation", "test"):
        if part in runs[0]:
            values = {name: [run[part][name] for run in runs] for name in runs[0][part]}
            figures[part] = {name: None if None in value else float(np.mean(value)) for name, value in values.items()}
            figures["std"][part] = {
                name: None if None in value else float(np.std(value, ddof=1)) for name, value in values.items()
            }
    return figures
