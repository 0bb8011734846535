import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, ResNetConfig, ResNetModel

from dedn_hf.data import extraction, store_writer
from dedn_hf.data.feature_maps import FeatureMapStore

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_features.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the script on four images without split and attributes, and returns its exit status."""
    cub = tmp_path / "data/CUB_200_2011"
    generator = np.random.default_rng(0)
    for i, name in enumerate(["001.Auk", "001.Auk", "002.Bunting", "002.Bunting"], 1):
        path = cub / f"images/{name}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(path, format="WEBP")
    (cub / "classes.txt").write_text("1 001.Auk\n2 002.Bunting\n")
    (cub / "images.txt").write_text("1 001.Auk/1.jpg\n2 001.Auk/2.jpg\n3 002.Bunting/3.jpg\n4 002.Bunting/4.jpg\n")
    (cub / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n")
    torch.manual_seed(0)
    backbone = tmp_path / "backbone"
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ).save_pretrained(backbone)
    CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(backbone)
    monkeypatch.setattr(store_writer, "SHARD_ROWS", 2)
    spec = importlib.util.spec_from_file_location("extract_features", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(**changes):
        arguments = {
            "dataset": "cub",
            "data_dir": tmp_path / "data",
            "backbone": backbone,
            "image_size": 32,
            "output_dir": tmp_path / "store",
            "num_workers": 0,
            "device": "cpu",
        }
        argv = [text for key, value in {**arguments, **changes}.items() for text in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *argv])
        script.main()

    return run


def test_store_of_images_without_split_or_attributes(run, tmp_path, capsys):
    run()
    store = FeatureMapStore(tmp_path / "store")
    assert store.image_ids.tolist() == [1, 2, 3, 4] and store.labels.tolist() == [0, 0, 1, 1]
    store.require(dataset="cub", class_names=["001.Auk", "002.Bunting"], backbone="backbone", image_size=32)
    assert "4 feature maps" in capsys.readouterr().out


def test_finished_store_is_verified(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(extraction, "_PixelValues", None)  # nothing may be computed
    run()
    file = tmp_path / "store/shard-00001.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SystemExit) as error:
        run()
    # A message as the code of SystemExit is printed to stderr, with exit status 1.
    assert isinstance(error.value.code, str) and "shard-00001.arrow" in error.value.code


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 64}, "image_size is 32, where 64 is asked for"),
        ({"data_dir": "nowhere"}, "lacks classes.txt"),
        ({"backbone": "./nowhere"}, "nowhere"),
    ],
)
def test_errors_without_traceback(run, changes, message):
    run()
    with pytest.raises(SystemExit) as error:
        run(**changes)
    assert str(error.value.code).startswith("error: ") and message in error.value.code
