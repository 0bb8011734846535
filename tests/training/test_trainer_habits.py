"""What people type who know transformers' Trainer: it works, or is refused in one sentence."""

import shutil
import warnings

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_trainer import losses
from tiny_training import TinyFeatureMaps, make_tiny_arguments, make_tiny_dataset, make_trainval_model
from torch.utils.data import ConcatDataset, Subset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from dedn_hf.evaluation import gzsl_metrics
from dedn_hf.training import DednTrainer, DednTrainingArguments

DATASET = make_tiny_dataset()
FIGURES = ("T1", "U", "S", "H")


def maps(*splits):
    images = datasets.concatenate_datasets([DATASET.splits[split] for split in splits])
    return TinyFeatureMaps(images, DATASET.class_attributes)


def table(*splits, label="label", feature=None, **columns) -> datasets.Dataset:
    """The same as columns."""
    examples = maps(*splits)
    items = examples.__getitems__(range(len(examples)))
    data = {"feature_map": [item["feature_map"].numpy() for item in items], label: [item["labels"] for item in items]}
    made = datasets.Dataset.from_dict(data | {name: values[: len(items)] for name, values in columns.items()})
    return made if feature is None else made.cast_column(label, feature)


def plain_arguments(output_dir, **changes) -> TrainingArguments:
    options = {"use_cpu": True, "disable_tqdm": True, "learning_rate": 0.05, "per_device_train_batch_size": 4}
    return TrainingArguments(
        **{"output_dir": str(output_dir), "num_train_epochs": 1, "save_strategy": "no"} | options | changes
    )


def make(output_dir, trainer_class=DednTrainer, train=None, evaluation=None, given=None, **changes):
    arguments = plain_arguments if trainer_class is Trainer else make_tiny_arguments
    return trainer_class(
        **{
            "model": make_trainval_model(DATASET),
            "args": arguments(output_dir, **{"num_train_epochs": 1} | changes),
            "train_dataset": maps("trainval") if train is None else train,
            "eval_dataset": maps("test_seen", "test_unseen") if evaluation is None else evaluation,
        }
        | (given or {})
    )


def figures(metrics, prefix="eval"):
    return [metrics.get(f"{prefix}_{name}") for name in FIGURES]


both_trainers = pytest.mark.parametrize("trainer_class", [DednTrainer, Trainer])


def test_arguments_of_transformers(tmp_path):
    plain = make(tmp_path, given={"args": plain_arguments(tmp_path)})
    ours = make(tmp_path, lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0)
    assert plain.train().training_loss == ours.train().training_loss
    assert figures(plain.evaluate()) == figures(ours.evaluate()) and None not in figures(plain.evaluate())


def test_no_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(tmp_path, given={"args": None})
    assert isinstance(trainer.args, DednTrainingArguments) and trainer.args.output_dir == "tmp_trainer"
    assert None not in figures(trainer.evaluate())


def test_arguments_in_the_order_of_transformers(tmp_path):
    model, args = make_trainval_model(DATASET), make_tiny_arguments(tmp_path)
    trainer = DednTrainer(model, args, None, maps("trainval"), maps("test_seen", "test_unseen"))
    assert None not in figures(trainer.evaluate())


def test_trainer_of_transformers(tmp_path):
    """It trains, evaluates, predicts, saves, goes on and loads the best."""
    options = {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}
    whole = make(tmp_path, Trainer, load_best_model_at_end=True, **options)
    whole.train()
    evaluations = losses(whole, "eval_loss")
    assert whole.evaluate()["eval_loss"] == pytest.approx(min(evaluations)) and evaluations[1] < evaluations[0]
    prediction = whole.predict(whole.eval_dataset)
    assert prediction.predictions.shape == (20, 10)

    shutil.rmtree(tmp_path / "checkpoint-20")
    resumed = make(tmp_path, Trainer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed, "eval_loss") == evaluations


@both_trainers
def test_accumulated_gradients_are_those_of_one_big_batch(tmp_path, trainer_class):
    options = {"logging_strategy": "steps", "logging_steps": 1}
    whole = make(tmp_path, trainer_class, **options)
    parts = make(tmp_path, trainer_class, per_device_train_batch_size=1, gradient_accumulation_steps=4, **options)
    whole.train(), parts.train()
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)


def test_label_smoothing(tmp_path):
    with pytest.raises(ValueError, match=r"`label_smoothing_factor` is not for DEDN's loss.*leave it at 0"):
        make(tmp_path, label_smoothing_factor=0.1)


@both_trainers
def test_loss_of_the_users_own(tmp_path, trainer_class):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((len(labels), int(num_items_in_batch)))
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    options = {"logging_strategy": "steps", "logging_steps": 1}
    trainer = make(
        tmp_path, trainer_class, given={"compute_loss_func": loss}, gradient_accumulation_steps=2, **options
    )
    trainer.train()
    assert set(seen) == {(4, 8)} and losses(trainer)[-1] < losses(trainer)[0]
    assert not losses(trainer, "loss_distillation")


@both_trainers
def test_model_init(tmp_path, trainer_class):
    made = []

    def model_init():
        made.append(make_trainval_model(DATASET))
        return made[-1]

    trainer = make(tmp_path, trainer_class, given={"model": None, "model_init": model_init})
    trainer.train()
    assert trainer.model is made[-1] and len(made) == 2
    assert trainer.evaluate()["eval_loss"] < 10


def test_trial_of_a_search(tmp_path):
    """Which has let go of the last trial's model."""
    given = {"model": None, "model_init": lambda: make_trainval_model(DATASET)}
    trainer = make(tmp_path, given=given, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    trainer.model = None
    trainer.train()
    assert len(losses(trainer, "eval_H")) == 1


def test_hyperparameter_search(tmp_path):
    given = {"model": None, "model_init": lambda: make_trainval_model(DATASET)}
    trainer = make(tmp_path, given=given, eval_strategy="epoch", logging_strategy="steps", logging_steps=1)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [2, 4]),
        },
        compute_objective=lambda metrics: metrics["eval_H"],
        direction="maximize",
        n_trials=3,
        backend="optuna",
    )
    assert set(best.hyperparameters) == {"learning_rate", "per_device_train_batch_size"}


@pytest.mark.parametrize(
    "compute_metrics",
    [
        lambda prediction: {"accuracy": np.mean(np.argmax(prediction.predictions, axis=1) == prediction.label_ids)},
        lambda prediction: (lambda logits, labels: {"accuracy": np.mean(logits.argmax(-1) == labels)})(*prediction),
    ],
    ids=["argmax of predictions", "logits, labels"],
)
@both_trainers
def test_metrics_of_the_users_own(tmp_path, trainer_class, compute_metrics):
    trainer = make(tmp_path, trainer_class, given={"compute_metrics": compute_metrics}, eval_strategy="epoch")
    trainer.train()
    prediction = trainer.predict(trainer.eval_dataset)
    expected = np.mean(prediction.predictions.argmax(axis=1) == prediction.label_ids)
    assert losses(trainer, "eval_accuracy") == [expected] and not losses(trainer, "eval_H")


@both_trainers
def test_logits_are_made_smaller_before_metrics(tmp_path, trainer_class):
    given = {
        "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(dim=-1),
        "compute_metrics": lambda prediction: {"accuracy": np.mean(prediction.predictions == prediction.label_ids)},
    }
    assert 0 <= make(tmp_path, trainer_class, given=given).evaluate()["eval_accuracy"] <= 1


COLUMNS = {
    "label": {},
    "labels": {"label": "labels"},
    "both": {"label": "labels", "name": [0] * 99},
    "ClassLabel": {"feature": datasets.ClassLabel(names=DATASET.class_names)},
    "int32": {"label": "labels", "feature": datasets.Value("int32"), "format": "numpy"},
    "uint8": {"label": "labels", "feature": datasets.Value("uint8"), "format": "numpy"},
    "torch": {"label": "labels", "format": "torch"},
    "torch int32": {"feature": datasets.Value("int32"), "format": "torch"},
}


@pytest.mark.parametrize("kind", COLUMNS)
@both_trainers
def test_columns(tmp_path, trainer_class, kind):
    options = dict(COLUMNS[kind])
    output_format = options.pop("format", None)
    train, evaluation = (
        table(*splits, **options).with_format(output_format) for splits in (["trainval"], ["test_seen", "test_unseen"])
    )
    if kind == "both":  # of which `labels` goes before
        train, evaluation = (dataset.rename_column("name", "label") for dataset in (train, evaluation))
    of_columns, of_items = make(tmp_path, trainer_class, train, evaluation), make(tmp_path, trainer_class)
    assert of_columns.train().training_loss == pytest.approx(of_items.train().training_loss, rel=1e-6)
    got, expected = of_columns.evaluate(), of_items.evaluate()
    assert got["eval_loss"] == pytest.approx(expected["eval_loss"]) and figures(got) == figures(expected)


@both_trainers
def test_labels_in_a_column_of_their_own(tmp_path, trainer_class):
    """Labels of shape (B, 1)."""
    train, evaluation = (
        table(*splits, label="labels").map(lambda row: {"labels": [row["labels"]]})
        for splits in (["trainval"], ["test_seen", "test_unseen"])
    )
    trainer, expected = make(tmp_path, trainer_class, train, evaluation), make(tmp_path, trainer_class)
    assert trainer.train().training_loss == pytest.approx(expected.train().training_loss, rel=1e-6)
    assert figures(trainer.evaluate()) == figures(expected.evaluate())


UNTRAINABLE = {
    "no labels": (
        lambda t: t.rename_column("label", "class_id"),
        "training set has no column `labels` or `label`, only feature_map, class_id",
    ),
    "no maps": (
        lambda t: t.rename_column("feature_map", "image"),
        "training set has no column `feature_map` or `pixel_values`, only image, label",
    ),
    "floats": (
        lambda t: t.cast_column("label", datasets.Value("float32")),
        "training set's column `label` holds float32",
    ),
    "names": (lambda t: t.map(lambda row: {"label": "jay"}), r"`label` holds string.*`model.config.label2id`"),
    "too high": (
        lambda t: t.map(lambda row: {"label": row["label"] + 3}),
        "training set has labels 10, but the model has 10 classes",
    ),
    "negative": (lambda t: t.map(lambda row: {"label": -1}), "training set has labels -1, but"),
    "another order": (
        lambda t: t.cast_column("label", datasets.ClassLabel(names=DATASET.class_names[::-1])),
        "'class 9' is 0, but for the model it is 9: use",
    ),
    "nothing": (lambda t: t.select([]), "training set is empty"),
    "lists in `label`": (lambda t: t.map(lambda row: {"label": [row["label"]]}), r"float32 of shape \(4, 1\)"),
}


@pytest.mark.parametrize("kind", UNTRAINABLE)
@pytest.mark.parametrize("balanced_batches", [True, False])
def test_columns_that_cannot_be_trained_on(tmp_path, kind, balanced_batches):
    change, message = UNTRAINABLE[kind]
    trainer = make(tmp_path, train=change(table("trainval")), balanced_batches=balanced_batches)
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.mark.parametrize(
    "labels", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.long)]
)
def test_labels_that_are_no_class_ids(labels):
    with pytest.raises(ValueError, match="`labels` must be a class id, an integer, for each of the 2 images"):
        make_trainval_model(DATASET)(feature_map=torch.rand(2, 12, 2, 2), labels=labels)


def test_way_out_of_another_order_of_classes(tmp_path):
    shuffled = table("trainval", feature=datasets.ClassLabel(names=DATASET.class_names[::-1]))
    model = make_trainval_model(DATASET)
    aligned = shuffled.align_labels_with_mapping(model.config.label2id, "label")
    assert aligned["label"][:3] == [9 - label for label in shuffled["label"][:3]]
    make(tmp_path, train=aligned, max_steps=1).train()
    transformed = shuffled.with_transform(
        lambda batch: {"feature_map": batch["feature_map"], "labels": batch["label"]}
    )
    with pytest.warns(UserWarning, match=r"'class 9' is 0, but for the model it is 9.*unless the transform does so"):
        make(tmp_path, train=transformed, max_steps=1).train()


def test_what_is_wrong_with_the_evaluation_set_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(DednTrainer, "training_step", lambda *args: pytest.fail("trained"))
    renamed = table("test_seen").rename_column("label", "class_id")
    for evaluation in (renamed, {"seen": maps("test_seen"), "renamed": renamed}):
        with pytest.raises(ValueError, match="evaluation set has no column `labels` or `label`"):
            make(tmp_path, evaluation=evaluation, eval_strategy="epoch").train()
    with pytest.raises(ValueError, match="evaluation set is empty"):
        make(tmp_path, evaluation=table("test_seen").select([]), eval_strategy="epoch").train()


@pytest.mark.parametrize("balanced_batches", [True, False])
def test_all_splits_at_once(tmp_path, balanced_batches):
    splits = datasets.DatasetDict(train=table("trainval"), test=table("test_seen"))
    with pytest.raises(ValueError, match="training set is several, train, test: give one of them"):
        make(tmp_path, train=splits, balanced_batches=balanced_batches).train()


def test_evaluation_without_labels(tmp_path):
    class Unlabelled(TinyFeatureMaps):
        def __getitems__(self, indices):
            return [{"feature_map": item["feature_map"]} for item in super().__getitems__(indices)]

    unlabelled = Unlabelled(DATASET.splits["test_seen"], DATASET.class_attributes)
    trainer = make(tmp_path, evaluation=unlabelled)
    with pytest.raises(ValueError, match=r"items of the evaluation set have no `labels`.*use `predict`"):
        trainer.evaluate()
    assert trainer.predict(unlabelled).predictions.shape == (8, 10)


@pytest.mark.parametrize(
    "wrap", [lambda d: Subset(d, range(4, 40)), lambda d: ConcatDataset([d, d])], ids=["Subset", "ConcatDataset"]
)
@pytest.mark.parametrize("kind", [maps, table])
def test_parts_of_data_sets(tmp_path, kind, wrap):
    dataset = kind("trainval")
    train = wrap(dataset if kind is table else _Items(dataset))
    assert make(tmp_path, train=train).train().global_step == len(train) // 4


class _Items(TinyFeatureMaps):
    def __init__(self, maps):
        self.__dict__ = maps.__dict__

    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def test_iterable_data_set(tmp_path):
    train, evaluation = (
        table(*splits).to_iterable_dataset() for splits in (["trainval"], ["test_seen", "test_unseen"])
    )
    with pytest.raises(ValueError, match=r"iterable data set.*`balanced_batches=False` in `DednTrainingArguments`"):
        make(tmp_path, train=train, max_steps=3).train()
    trainer = make(tmp_path, train=train, evaluation=evaluation, max_steps=12, balanced_batches=False)
    assert trainer.train().global_step == 12
    assert None not in figures(trainer.evaluate())
    assert make(tmp_path, Trainer, train=train, max_steps=12).train().global_step == 12
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        make(tmp_path, train=train, balanced_batches=False)


def test_iterable_data_set_without_labels(tmp_path):
    train = table("trainval").rename_column("label", "class_id").to_iterable_dataset()
    with pytest.raises(ValueError, match="no column `labels` or `label`, only feature_map, class_id"):
        make(tmp_path, train=train, max_steps=3, balanced_batches=False).train()


def test_other_ways_of_sampling(tmp_path):
    with pytest.raises(ValueError, match="`train_sampling_strategy='sequential'` cannot go with class-balanced"):
        make(tmp_path, train_sampling_strategy="sequential").train()
    make(tmp_path, train_sampling_strategy="sequential", balanced_batches=False).train()


def test_labels_that_nobody_says(tmp_path):
    class Unknown(_Items):
        def __init__(self, maps):
            super().__init__(dict(maps.__dict__) and maps)
            self.hidden = self.__dict__.pop("labels")

        def __getitems__(self, indices):
            self.labels = self.hidden
            items = super().__getitems__(indices)
            del self.labels
            return items

        def __len__(self):
            return len(self.image_ids)

    with pytest.raises(ValueError, match="Unknown does not say them: give it an attribute `labels`, or a column"):
        make(tmp_path, train=Unknown(maps("trainval"))).train()
    make(tmp_path, train=Unknown(maps("trainval")), balanced_batches=False).train()


@pytest.mark.parametrize("remove_unused_columns", [None, True])
def test_columns_that_the_model_does_not_take(tmp_path, remove_unused_columns):
    given = {} if remove_unused_columns is None else {"remove_unused_columns": remove_unused_columns}
    train = table("trainval", image_id=list(range(99)), name=["x"] * 99)
    expected = make(tmp_path).train().training_loss
    assert make(tmp_path, train=train, **given).train().training_loss == pytest.approx(expected, rel=1e-6)


def test_columns_are_kept_that_the_model_does_not_take(tmp_path):
    train = table("trainval", image_id=list(range(99)), name=["x"] * 99)
    trainer = make(tmp_path, train=train, remove_unused_columns=False)
    with pytest.raises(
        ValueError, match=r"A batch holds image_id, which the model does not take.*`remove_unused_columns=True`"
    ):
        trainer.train()
    with pytest.raises(ValueError, match="A batch holds image_id"):
        trainer.predict(train.remove_columns("label"))

    class ByImage(DednTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            assert len(inputs.pop("image_id")) == 4
            return super().compute_loss(model, inputs, **kwargs)

    args = make_tiny_arguments(tmp_path, remove_unused_columns=False, max_steps=2)
    ByImage(make_trainval_model(DATASET), args, train_dataset=train).train()


@pytest.mark.parametrize("columns", [None, ["raw"]])
def test_transform_reads_columns_that_the_model_does_not_take(tmp_path, columns):
    train = table("trainval").rename_column("feature_map", "raw").add_column("image_id", list(range(40)))

    def transform(batch):
        return {**batch, "feature_map": [torch.tensor(row) for row in batch["raw"]]}

    train = train.with_transform(transform, columns=columns, output_all_columns=True)
    expected = make(tmp_path).train().training_loss
    assert make(tmp_path, train=train).train().training_loss == pytest.approx(expected, rel=1e-6)


def test_collator_of_the_users_own(tmp_path):
    train = table("trainval").rename_columns({"feature_map": "grid", "label": "species"})

    def collate(rows):
        grids, species = torch.tensor([row["grid"] for row in rows]), torch.tensor([row["species"] for row in rows])
        return {"feature_map": grids, "labels": species}

    options = {"remove_unused_columns": False, "balanced_batches": False}
    trainer = make(tmp_path, train=train, given={"data_collator": collate, "eval_dataset": train}, **options)
    trainer.train()
    assert trainer.evaluate()["eval_S"] >= 0


def test_several_evaluation_sets(tmp_path):
    evaluation = {"seen": maps("test_seen"), "unseen": maps("test_unseen"), "all": maps("test_seen", "test_unseen")}
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
    trainer = make(
        tmp_path, evaluation=evaluation, load_best_model_at_end=True, metric_for_best_model="all_H", **options
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_all_S"] == metrics["eval_seen_S"] or metrics["eval_all_U"] == metrics["eval_unseen_U"]
    assert trainer.state.best_metric == max(losses(trainer, "eval_all_H"))
    # Nothing asks for the best: the default `metric_for_best_model` is of none of them.
    make(tmp_path, evaluation=evaluation, **options).train()

    trainer = make(tmp_path, evaluation=evaluation, load_best_model_at_end=True, **options)
    with pytest.raises(
        ValueError, match=r"'H', but there are several evaluation sets, seen, unseen, all: name.*'seen_H'"
    ):
        trainer.train()


@pytest.mark.parametrize(
    "split, defined, missing, message",
    [
        ("test_seen", ["S"], "T1, U, H", "all of its images are of seen classes"),
        ("test_unseen", ["T1", "U"], "S, H", "all of its images are of unseen classes"),
    ],
)
def test_figures_that_no_image_speaks_of(tmp_path, split, defined, missing, message):
    trainer = make(tmp_path, evaluation=maps(split))
    with pytest.warns(UserWarning, match=f"There is no {missing} of this evaluation set: {message}"):
        metrics = trainer.evaluate()
    assert [name for name in FIGURES if f"eval_{name}" in metrics] == defined
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.predict(maps(split))

    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    with pytest.raises(ValueError, match=f"`metric_for_best_model` is 'H', of which the evaluation set.*{message}"):
        make(tmp_path, evaluation=maps(split), **options).train()
    make(tmp_path, evaluation=maps(split), metric_for_best_model=defined[0], **options).train()


def test_best_metric_that_does_not_exist(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "accuracy"}
    with pytest.raises(ValueError, match="'accuracy', but an evaluation gives loss, T1, U, S, H"):
        make(tmp_path, **options).train()
    make(tmp_path, **options | {"metric_for_best_model": "eval_loss"}).train()


@pytest.mark.parametrize(
    "options",
    [
        {"eval_accumulation_steps": 1},
        {"dataloader_drop_last": True},
        {"batch_eval_metrics": True},
        {"eval_do_concat_batches": False},
        {"dataloader_num_workers": 2},
        {"bf16_full_eval": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_ways_of_evaluating(tmp_path, options):
    trainer = make(tmp_path, per_device_eval_batch_size=3, **options)
    trainer.evaluate()
    metrics = trainer.evaluate()
    prediction = make(tmp_path).predict(trainer.eval_dataset)
    expected = gzsl_metrics(prediction.predictions, prediction.label_ids, trainer.model.config.seen_class_ids)
    assert figures(metrics) == pytest.approx(list(expected.values()))


def test_ended_evaluation_leaves_nothing(tmp_path, monkeypatch):
    trainer = make(tmp_path, per_device_eval_batch_size=3, batch_eval_metrics=True)
    expected, step = figures(trainer.evaluate()), trainer.prediction_step
    batches = iter(range(3))
    monkeypatch.setattr(trainer, "prediction_step", lambda *args, **kwargs: (next(batches), step(*args, **kwargs))[1])
    with pytest.raises(StopIteration):
        trainer.evaluate()
    monkeypatch.undo()
    assert figures(trainer.evaluate()) == expected


def test_loss_alone_is_evaluated(tmp_path):
    trainer = make(tmp_path, prediction_loss_only=True, eval_strategy="epoch")
    trainer.train()
    assert len(losses(trainer, "eval_loss")) == 1 and not losses(trainer, "eval_H")


@both_trainers
def test_inputs_for_metrics(tmp_path, trainer_class):
    def compute_metrics(prediction):
        return {"inputs": len(prediction.inputs), "losses": len(prediction.losses)}

    trainer = make(
        tmp_path, trainer_class, given={"compute_metrics": compute_metrics}, include_for_metrics=["inputs", "loss"]
    )
    metrics = trainer.evaluate()
    assert metrics["eval_inputs"] == metrics["eval_losses"] == 20


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedule_that_goes_by_h(tmp_path, schedule):
    rising = iter([10.0, 20.0, 30.0, 40.0])
    given = {"compute_metrics": lambda prediction: {"H": next(rising)}}
    options = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": {"patience": 0}, "eval_strategy": "epoch"}
    trainer = make(tmp_path, given=given, num_train_epochs=4, learning_rate=1e-3, **options)
    trainer.train()
    assert losses(trainer, "learning_rate")[-1] >= 1e-3


@both_trainers
def test_early_stopping(tmp_path, trainer_class):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "loss", "learning_rate": 0.0, "num_train_epochs": 9}
    trainer = make(tmp_path, trainer_class, given={"callbacks": [EarlyStoppingCallback()]}, **options)
    trainer.train()
    assert trainer.state.epoch == 2


@both_trainers
def test_optimizer_and_schedule_of_the_users_own(tmp_path, trainer_class):
    model = make_trainval_model(DATASET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=99)
    given = {"model": model, "optimizers": (optimizer, schedule)}
    trainer = make(tmp_path, trainer_class, given=given, logging_strategy="epoch")
    trainer.train()
    assert losses(trainer, "learning_rate")[-1] == 0.125


@both_trainers
def test_compiled(tmp_path, trainer_class):
    torch._dynamo.reset()
    compiled = make(tmp_path, trainer_class, torch_compile=True, torch_compile_backend="eager", max_steps=3)
    assert compiled.train().training_loss == pytest.approx(
        make(tmp_path, trainer_class, max_steps=3).train().training_loss
    )
    assert compiled.evaluate()["eval_loss"] > 0


@both_trainers
@pytest.mark.parametrize("options", [{"bf16": True}, {"fp16": True}, {"dataloader_num_workers": 2}])
def test_trains_as_usual(tmp_path, trainer_class, options):
    got, expected = make(tmp_path, trainer_class, **options).train(), make(tmp_path, trainer_class).train()
    assert got.training_loss == pytest.approx(expected.training_loss, rel=1e-2)


def test_batches_are_balanced_also_after_they_were_too_large(tmp_path):
    batches = []

    class OutOfMemory(DednTrainer):
        def training_step(self, model, inputs, *args):
            batches.append(inputs["labels"].tolist())
            if len(batches) > 2 and len(inputs["labels"]) > 6:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args)

    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    trainer = make(tmp_path, OutOfMemory, logging_strategy="steps", logging_steps=1, **options)
    trainer.train()
    kept = [batch for batch in batches if len(batch) <= 6]
    assert len(kept) == trainer.state.global_step == 40 // len(kept[0])
    assert all(len(set(batch)) == len(batch) == len(kept[0]) for batch in kept)
    # Nothing of the batches before is in the terms of the loss.
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    parts = {
        "coarse_margin": 1,
        "fine_margin": 1,
        "distillation": 0.1,
        "coarse_alignment": 0.001,
        "fine_alignment": 0.001,
    }
    assert first["loss"] == pytest.approx(sum(weight * first[f"loss_{name}"] for name, weight in parts.items()))


def test_terms_of_a_run_that_was_ended_are_not_in_the_next_ones(tmp_path):
    options = {"logging_strategy": "steps", "logging_steps": 5}
    trainer = make(tmp_path, given={"model": None, "model_init": lambda: make_trainval_model(DATASET)}, **options)
    expected = make(tmp_path, **options)
    expected.train()
    step, steps = trainer.training_step, iter(range(7))
    trainer.training_step = lambda *args: (next(steps), step(*args))[1]
    with pytest.raises(StopIteration):
        trainer.train()
    trainer.training_step = step
    trainer.train()
    assert losses(trainer, "loss_distillation")[-2:] == losses(expected, "loss_distillation")


@both_trainers
def test_evaluation_set_is_missing(tmp_path, trainer_class):
    with pytest.raises(ValueError, match="didn't pass an `eval_dataset`"):
        make(tmp_path, trainer_class, given={"eval_dataset": None}, eval_strategy="epoch")


@pytest.mark.parametrize("constant, value", [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")])
def test_push_to_hub_without_a_network(tmp_path, monkeypatch, constant, value):
    monkeypatch.setattr(f"huggingface_hub.constants.{constant}", value)
    with pytest.raises(ValueError, match="repository that `push_to_hub` is for cannot be made") as error:
        make(tmp_path, push_to_hub=True, hub_token="hf_of_nobody")
    assert "leave `push_to_hub` out" in str(error.value) and "hf_of_nobody" not in str(error.value)


def test_checkpoint_is_pushed_with_the_code_and_the_card(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append(folder))
    pushed = []
    trainer = make(tmp_path / "out", save_strategy="steps", save_steps=1, max_steps=1)
    trainer.write_card = lambda folder: (folder / "README.md").write_text("card", encoding="utf-8")
    trainer.train()
    trainer._push_from_checkpoint(str(tmp_path / "out" / "checkpoint-1"))
    assert len(pushed) == 1 and {"modeling_dedn.py", "configuration_dedn.py", "README.md"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    trainer.create_model_card()
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "card"


@pytest.mark.parametrize("trainer_class", [DednTrainer, Trainer])
def test_an_adapter_alone_is_trained_and_saved(trainer_class, tmp_path):
    base = make_trainval_model(DATASET)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["region_value", "region_weight"]))
    trainer = make(tmp_path, trainer_class, given={"model": adapted}, save_strategy="epoch")
    trainer.train()
    saved = {file.name for file in (tmp_path / "checkpoint-10").iterdir()}
    assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
    after = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(parameter.any() for name, parameter in adapted.named_parameters() if "lora_B" in name)
    assert ("eval_H" in trainer.evaluate()) == (trainer_class is DednTrainer)
