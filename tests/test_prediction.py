"""An image's labels, attribute scores and attention come from one place, whoever asks for them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import make_tiny_model
from transformers import CLIPImageProcessorPil, ResNetConfig, pipeline

from dedn_hf.evaluation.explanation import explain_image
from dedn_hf.evaluation.report import predict_examples
from dedn_hf.images_dedn import attention_in_image

BACKBONE = ResNetConfig(
    embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
)


@pytest.mark.parametrize("calibration", [None, 0.4])
def test_model_evaluation_pipeline_explanation_and_command_say_the_same(calibration, dedn, tmp_path):
    model = make_tiny_model(backbone_config=BACKBONE, calibration=calibration, coarse_mix=0.6)
    model.set_attribute_calibration(torch.stack([torch.linspace(0.2, 0.5, 7), torch.linspace(-1, 1, 7)]))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24, resample=2)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    names, attribute_names = list(model.config.id2label.values()), model.config.attribute_names

    prediction = model.predict(pixel_values, output_attentions=True)
    scores = prediction.logits[0].softmax(dim=-1)
    attention = attention_in_image(prediction.attentions["mixed"][0], processor, *image.size).numpy()

    predictions = predict_examples(model, [{"pixel_values": pixel_values[0], "labels": 0}])
    assert np.array_equal(predictions.logits, prediction.logits)
    assert np.array_equal(predictions.attribute_scores, prediction.attribute_scores)
    assert np.array_equal(predictions.expert_scores, prediction.expert_scores)

    classifier = pipeline("zero-shot-attribute-classification", model=model, image_processor=processor, device="cpu")
    result = classifier(image, attention="image")
    assert [entry["label"] for entry in result["labels"]] == [
        names[index] for index in scores.argsort(descending=True)
    ]
    assert {entry["label"]: entry["score"] for entry in result["labels"]} == dict(zip(names, scores.tolist()))
    assert {entry["label"] for entry in result["attributes"]} == set(attribute_names)
    for entry in result["attributes"]:
        index = attribute_names.index(entry["label"])
        assert entry["score"] == prediction.attribute_probabilities[0, index].item()
        assert entry["contribution"] == prediction.contributions[0, index].item()
        assert np.array_equal(entry["attention"], attention[index])

    explanation = explain_image(classifier, image, top_attributes=7)
    assert explanation.classes == [(entry["label"], entry["score"], entry["seen"]) for entry in result["labels"]]
    assert len(explanation.attributes) == 7
    for evidence in explanation.attributes:
        index = attribute_names.index(re.sub("^(no|less) ", "", evidence.words))
        assert evidence.contribution == prediction.contributions[0, index].item()
        assert np.array_equal(evidence.attention, attention[index])

    classifier.save_pretrained(tmp_path / "model")
    image.save(tmp_path / "bird.png")
    options = ["--top_k", 5, "--attributes", "all", "--device", "cpu", "--output", tmp_path / "bird.jsonl"]
    dedn("predict", tmp_path / "bird.png", "--model", tmp_path / "model", *options)
    row = json.loads((tmp_path / "bird.jsonl").read_text(encoding="utf-8"))
    for rank, entry in enumerate(result["labels"], start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        assert row[f"label{suffix}"] == entry["label"] and row[f"seen{suffix}"] == entry["seen"]
        assert row[f"score{suffix}"] == pytest.approx(entry["score"], abs=1e-6)
    for entry in result["attributes"]:
        assert row[entry["label"]] == pytest.approx(entry["score"], abs=1e-6)
