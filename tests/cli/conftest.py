import pytest
from tiny_training import make_tiny_dataset, make_tiny_inputs

from dedn_hf.data import load
from dedn_hf.training import inputs


@pytest.fixture
def train(dedn, monkeypatch, tmp_path):
    """
    Runs `dedn train` in an empty folder, with the tiny data set in place of the one that is asked for; gives what was
    asked, which is also in `train.asked`.
    """
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        load,
        "load_gzsl_dataset",
        lambda name, *more, **options: asked.append((name, *more, options)) or make_tiny_dataset(name=name),
    )
    monkeypatch.setattr(
        inputs,
        "prepare_inputs",
        lambda dataset, *names, **options: asked.append((*names, *options.values())) or make_tiny_inputs(dataset),
    )

    def train(*arguments):
        asked.clear()
        dedn("train", "--use_cpu", "--disable_tqdm", "True", "--per_device_train_batch_size", "4", *arguments)
        return asked

    train.asked = asked
    return train
