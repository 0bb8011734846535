import json

import pytest
import torch
from benchmark_predict import format_benchmark, main, make_classifier
from tiny_extraction import save_tiny_backbone, save_tiny_images
from transformers import CLIPImageProcessor

from dedn_hf.cli.predict import read_image


@pytest.fixture
def backbone(tmp_path):
    folder = tmp_path / "backbone"
    save_tiny_backbone(folder)
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(folder)
    return folder


def test_classifier_has_the_size_of_cub(backbone, tmp_path):
    classifier = make_classifier(str(backbone))
    config = classifier.model.config
    assert (len(config.attribute_names), config.num_labels) == (312, 200)
    assert (config.feature_channels, config.grid_size) == (16, 8)
    save_tiny_images(tmp_path)
    (answer,) = classifier.prepare_call(top_k=3)([read_image(classifier, str(tmp_path / "0.jpg"))])
    assert len(answer["labels"]) == 3 and not torch.tensor([row["score"] for row in answer["labels"]]).isnan().any()


def test_figures_are_shown_with_their_spread():
    runs = [{"decoding": 300.0, "backbone": 50.0, "predict": rate, "ratio": rate / 50} for rate in (40.0, 45.0, 50.0)]
    lines = format_benchmark({"decoding": 300.0, "backbone": 50.0, "predict": 45.0, "ratio": 0.9, "runs": runs})
    assert lines.splitlines()[2].split() == ["predict", "45.0", "images/s", "(40.0", "to", "50.0)"]
    assert lines.splitlines()[3].split() == ["ratio", "0.900", "(0.800", "to", "1.000)"]


@pytest.mark.slow
def test_parts_and_whole_are_measured(backbone, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    save_tiny_images(folder)
    file = tmp_path / "figures.json"
    images = ["--images", str(folder), "--num_images", "5"]
    main(["--backbone", str(backbone), *images, "--repeats", "2", "--batch_size", "2", "--json", str(file)])
    figures = json.loads(file.read_text())
    assert figures["settings"]["images"] == 5 and figures["settings"]["batch_size"] == 2
    assert len(figures["runs"]) == 2
    for run in figures["runs"]:
        assert run["ratio"] == pytest.approx(run["predict"] / min(run["decoding"], run["backbone"]))
    assert "5 images, batches of 2" in capsys.readouterr().out


def test_folder_without_images(backbone, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="there are no images"):
        main(["--backbone", str(backbone), "--images", str(tmp_path / "empty")])
