"""What is put around a model, or in the place of its modules: adapters, offloading, quantisation."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from real_data import DATA_DIR
from synthetic_model import SYNTHETIC_MODEL
from tiny_model import make_tiny_config, make_tiny_model
from transformers import AutoModel, CLIPImageProcessorPil, ResNetConfig, pipeline

from dedn_hf import DednModel, load_gzsl_dataset
from dedn_hf.evaluation import gzsl_metrics
from dedn_hf.registration import DEFAULT_MODEL

MATRICES = ["region_value", "region_value_out", "region_weight", "channel_value", "channel_weight"]
LABELS = torch.tensor([0, 3, 1, 0])
BACKBONE = ResNetConfig(
    embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
)


@pytest.fixture
def model():
    """With a backbone that has batch normalisation, and a matrix of low rank."""
    described = make_tiny_model(region_value_rank=2)
    model = DednModel(make_tiny_config(region_value_rank=2, backbone_config=BACKBONE, freeze_backbone=False))
    model.load_state_dict(described.state_dict(), strict=False)
    return model.eval()


@pytest.fixture
def pixel_values():
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, pixel_values):
    """What is given at the second call, as at the first."""
    first, second = (model(pixel_values).logits for _ in range(2))
    assert torch.equal(first, second)
    return second


# PEFT


def _train(model, pixel_values):
    trained = {name: parameter.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    model.train()
    for _ in range(3):
        model(pixel_values=pixel_values, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    after = dict(model.named_parameters())
    return [name for name, before in trained.items() if not torch.equal(before, after[name])]


def test_lora_trains_saves_loads_and_merges(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path / "base")
    model = DednModel.from_pretrained(tmp_path / "base")
    untrained, state = logits(model, pixel_values), copy.deepcopy(model.state_dict())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=MATRICES))
    torch.testing.assert_close(logits(adapted, pixel_values), untrained)
    moved = _train(adapted, pixel_values)
    assert len(moved) == 2 * 5 * 4 and all("lora_" in name for name in moved)  # of four heads with five matrices
    trained = logits(adapted, pixel_values)
    assert (trained - untrained).abs().max() > 0.01
    with adapted.disable_adapter():
        torch.testing.assert_close(logits(adapted, pixel_values), untrained)

    adapted.save_pretrained(tmp_path / "adapter")
    for loaded in (
        PeftModel.from_pretrained(DednModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter"),
        AutoModel.from_pretrained(tmp_path / "adapter"),
    ):
        torch.testing.assert_close(logits(loaded.eval(), pixel_values), trained)

    merged = adapted.merge_and_unload()
    assert type(merged) is DednModel and set(merged.state_dict()) == set(state)
    torch.testing.assert_close(logits(merged, pixel_values), trained)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "merged"), pixel_values), trained)


def test_merging_in_place_is_seen_at_once(model, pixel_values):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=MATRICES, init_lora_weights=False))
    expected = logits(adapted, pixel_values)
    with adapted.disable_adapter():
        without = logits(adapted, pixel_values)
    adapted.merge_adapter()
    torch.testing.assert_close(logits(adapted, pixel_values), expected)
    adapted.unmerge_adapter()
    torch.testing.assert_close(logits(adapted.unload(), pixel_values), without)


def test_an_adapter_of_transformers_own(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=2, target_modules=MATRICES, init_lora_weights=False))
    expected = logits(model.eval(), pixel_values)
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "adapter"), pixel_values), expected)


# Offloading


@pytest.mark.parametrize("offload", [cpu_offload, disk_offload], ids=["cpu", "disk"])
def test_offloaded_models_give_the_same(offload, model, pixel_values, tmp_path):
    expected = logits(model, pixel_values)
    predicted = model.predict(pixel_values).attribute_probabilities
    offload(model, *([tmp_path] if offload is disk_offload else []))
    assert all(parameter.is_meta for parameter in model.coarse_expert.parameters())
    torch.testing.assert_close(logits(model, pixel_values), expected)
    torch.testing.assert_close(model.predict(pixel_values).attribute_probabilities, predicted)


def test_a_map_of_devices(model, pixel_values, tmp_path):
    expected = logits(model, pixel_values)
    model.save_pretrained(tmp_path / "model")
    buffers = {name: "cpu" for name, _ in model.named_buffers(recurse=False)}
    for device_map, options in (
        ("cpu", {}),
        ("auto", {"max_memory": {"cpu": "4KB"}}),
        ({"backbone": "disk", "coarse_expert": "cpu", "fine_expert": "disk", **buffers}, {}),
        ({"backbone": "cpu", "coarse_expert": "disk", "fine_expert": "cpu", **buffers}, {}),
    ):
        loaded = AutoModel.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload", **options
        )
        if device_map != "cpu":
            assert any(parameter.is_meta for parameter in loaded.parameters())
        torch.testing.assert_close(logits(loaded, pixel_values), expected)
        loaded.save_pretrained(tmp_path / "again")
        torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "again"), pixel_values), expected)


def test_a_pipeline_of_an_offloaded_model(model, pixel_values, tmp_path):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24)
    image = Image.new("RGB", (30, 40), "red")
    make = partial(pipeline, "zero-shot-attribute-classification", image_processor=processor)
    expected = [label["label"] for label in make(model=model)(image)["labels"]]
    model.save_pretrained(tmp_path / "model")
    buffers = {name: "cpu" for name, _ in model.named_buffers(recurse=False)}
    options = {"offload_folder": tmp_path / "offload"}
    device_map = {"backbone": "cpu", "coarse_expert": "disk", "fine_expert": "disk", **buffers}
    loaded = AutoModel.from_pretrained(tmp_path / "model", device_map=device_map, **options)
    for _ in range(2):
        assert [label["label"] for label in make(model=loaded)(image)["labels"]] == expected
    loaded = AutoModel.from_pretrained(tmp_path / "model", device_map={**device_map, "backbone": "disk"}, **options)
    for offloaded in (loaded, cpu_offload(model)):
        with pytest.raises(ValueError, match=r"offloaded.*`from_pretrained\(device_map=…\)`.*not 'disk'"):
            make(model=offloaded)


def test_offloaded_buffers(model, pixel_values):
    cpu_offload(model, offload_buffers=True)
    with pytest.raises(ValueError, match=r"class attributes.*meta device.*`offload_buffers`"):
        model.predict(pixel_values)


# Quantisation and lower precision


@pytest.fixture(scope="module")
def birds():
    """All 1,700 test images of the synthetic birds, ready for their model, and their classes."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(SYNTHETIC_MODEL)
    splits = load_gzsl_dataset("synthetic_birds").splits
    splits = [splits["test_unseen"], splits["test_seen"]]
    pixel_values = [processor(images=list(split["image"]), return_tensors="pt")["pixel_values"] for split in splits]
    return torch.cat(pixel_values), np.concatenate([split["label"] for split in splits])


@torch.no_grad()
def score(model, pixel_values, batch_size=100):
    return torch.cat([model(batch.to(model.dtype)).logits.float() for batch in pixel_values.split(batch_size)])


@pytest.fixture(scope="module")
def float_scores(birds):
    return score(AutoModel.from_pretrained(SYNTHETIC_MODEL), birds[0])


def _t1(scores, labels):
    return gzsl_metrics(scores.numpy(), labels, AutoModel.from_pretrained(SYNTHETIC_MODEL).config.seen_class_ids)["T1"]


@pytest.mark.slow
def test_dynamic_quantisation_shrinks_the_file_and_keeps_t1(birds, float_scores, tmp_path):
    model = AutoModel.from_pretrained(SYNTHETIC_MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # upstream's, which names torchao
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    experts = sum(p.numel() for e in (model.coarse_expert, model.fine_expert) for p in e.parameters())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.save(quantized.state_dict(), tmp_path / "quantized.pt")
    saved = (tmp_path / "model.pt").stat().st_size - (tmp_path / "quantized.pt").stat().st_size
    assert saved > 0.6 * 4 * experts
    scores = score(quantized, birds[0])
    assert 0 < (scores - float_scores).abs().max() < 0.5
    assert abs(_t1(scores, birds[1]) - _t1(float_scores, birds[1])) <= 2


def _check_top_classes(scores, expected, labels):
    """The same top class on all but close calls, and these are few: lower precision changes 6 to 19 of 1,700."""
    differ = scores.argmax(dim=1) != expected.argmax(dim=1)
    error = (scores - expected).abs().max()
    first, second = expected.topk(2).values.T
    assert 0 < error < 0.5
    assert not (differ & (first - second > error)).any()
    assert differ.float().mean() < 0.02
    assert abs(_t1(scores, labels) - _t1(expected, labels)) <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, birds, float_scores, tmp_path):
    halved = AutoModel.from_pretrained(SYNTHETIC_MODEL, dtype=dtype)
    _check_top_classes(score(halved, birds[0]), float_scores, birds[1])
    halved.save_pretrained(tmp_path)
    size, whole = (folder / "model.safetensors" for folder in (tmp_path, SYNTHETIC_MODEL))
    assert size.stat().st_size < 0.55 * whole.stat().st_size
    again = AutoModel.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(score(again, birds[0][:100]), score(halved, birds[0][:100]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, birds, float_scores):
    model = AutoModel.from_pretrained(SYNTHETIC_MODEL)
    with torch.autocast("cpu", dtype):
        scores = score(model, birds[0])
    _check_top_classes(scores, float_scores, birds[1])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["eager", "one by one", "compiled", "exported", "eager exported", "onnx", "double"])
def test_other_ways_in_float32(way, birds, float_scores, tmp_path):
    model = AutoModel.from_pretrained(SYNTHETIC_MODEL)
    pixel_values = birds[0][torch.arange(200) * len(birds[0]) // 200]
    expected = float_scores[torch.arange(200) * len(birds[0]) // 200]
    if way == "eager":
        scores = score(AutoModel.from_pretrained(SYNTHETIC_MODEL, attn_implementation="eager"), pixel_values)
    elif way == "one by one":
        scores = torch.cat([score(model, image[None]) for image in pixel_values])
    elif way == "compiled":
        with torch.no_grad():
            scores = torch.compile(model, fullgraph=True, backend="aot_eager")(pixel_values).logits
    elif way.endswith("exported"):
        model.set_attn_implementation("eager" if way == "eager exported" else "blockwise")
        exported = torch.export.export(model, (pixel_values[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        scores = exported.module()(pixel_values)["logits"]
    elif way == "onnx":
        import onnxruntime

        from dedn_hf.export import export_onnx

        export_onnx(model, tmp_path / "model.onnx", image_size=pixel_values.shape[-1])
        inputs = (pixel_values, model.class_attributes, model.seen_classes)
        inputs = dict(zip(("images", "class_attributes", "seen_classes"), (value.numpy() for value in inputs)))
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        scores = torch.from_numpy(session.run(["logits"], inputs)[0])
    else:
        scores = score(model.double(), pixel_values)
    assert torch.equal(scores.argmax(dim=1), expected.argmax(dim=1))
    torch.testing.assert_close(scores.float(), expected, atol=1e-4, rtol=1e-4)


# The same of the model in the box, on photographs


@pytest.fixture(scope="module")
def photos():
    """Two photos of each unseen class of CUB, ready for the model in the box, and their classes."""
    from transformers import AutoImageProcessor

    if not DATA_DIR.is_dir():
        pytest.skip(f"CUB is not in {DATA_DIR}")
    split = load_gzsl_dataset("cub", DATA_DIR, word_vectors="random").splits["test_unseen"]
    labels = np.array(split["label"])
    chosen = np.concatenate([np.flatnonzero(labels == label)[:2] for label in np.unique(labels)])
    processor = AutoImageProcessor.from_pretrained(DEFAULT_MODEL)
    images = [image.convert("RGB") for image in split.select(chosen)["image"]]
    return processor(images=images, return_tensors="pt")["pixel_values"], labels[chosen]


@pytest.fixture(scope="module")
def photo_scores(photos):
    return score(AutoModel.from_pretrained(DEFAULT_MODEL), photos[0], batch_size=10)


def _unseen_accuracy(scores, labels):
    """Among unseen classes, over images; the labels of CUB are the model's."""
    seen = AutoModel.from_pretrained(DEFAULT_MODEL).config.seen_class_ids
    among_unseen = scores.index_fill(1, torch.tensor(seen), -float("inf"))
    return 100 * (among_unseen.argmax(dim=1).numpy() == labels).mean()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("way", ["float16", "bfloat16", "int8"])
def test_the_model_in_the_box_in_lower_precision(way, photos, photo_scores, tmp_path):
    if way == "int8":
        model = AutoModel.from_pretrained(DEFAULT_MODEL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        with torch.no_grad():
            scores = torch.cat([model(batch).logits for batch in photos[0].split(10)])
    else:
        model = AutoModel.from_pretrained(DEFAULT_MODEL, dtype=getattr(torch, way))
        model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").stat().st_size <= 30e6
        scores = score(AutoModel.from_pretrained(tmp_path), photos[0], batch_size=10)
    assert 0 < (scores - photo_scores).abs().max() < 2
    assert (scores.argmax(dim=1) != photo_scores.argmax(dim=1)).float().mean() <= 0.1
    assert abs(_unseen_accuracy(scores, photos[1]) - _unseen_accuracy(photo_scores, photos[1])) <= 3
