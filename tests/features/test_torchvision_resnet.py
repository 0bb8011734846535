import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_extraction import make_state_dict

from dedn_hf.backbone_dedn import backbone_feature_map
from dedn_hf.features.torchvision_resnet import load_torchvision_resnet


def torchvision_feature_map(state, x):
    """What torchvision's ResNet computes before pooling: strides are in the 3×3 convolutions of a bottleneck."""

    def convolve(x, name, norm, stride=1):
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        statistics = (state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics, eps=1e-5)

    x = F.max_pool2d(F.relu(convolve(x, "conv1", "bn1", stride=2)), 3, stride=2, padding=1)
    for stage in range(1, 5):
        for block in range(len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})):
            name, stride, residual = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1, x
            if f"{name}.downsample.0.weight" in state:
                residual = convolve(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            if f"{name}.conv3.weight" in state:
                x = F.relu(convolve(x, f"{name}.conv1", f"{name}.bn1"))
                x = F.relu(convolve(x, f"{name}.conv2", f"{name}.bn2", stride))
                x = convolve(x, f"{name}.conv3", f"{name}.bn3")
            else:
                x = F.relu(convolve(x, f"{name}.conv1", f"{name}.bn1", stride))
                x = convolve(x, f"{name}.conv2", f"{name}.bn2")
            x = F.relu(x + residual)
    return x


@pytest.mark.parametrize("kind, widths", [("bottleneck", (4, 8, 8, 16)), ("basic", (8, 16, 24, 32))])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_feature_map_is_torchvisions(tmp_path, kind, widths, suffix):
    state = make_state_dict(kind, widths=widths)
    file = tmp_path / f"resnet{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    model = load_torchvision_resnet(file)
    assert not model.training
    assert (model.config.depths, model.config.layer_type) == ([2, 1, 3, 1], kind)
    pixel_values = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        feature_map = backbone_feature_map(model, pixel_values)
        expected = torchvision_feature_map(state, pixel_values)
    assert feature_map.shape == (2, 64 if kind == "bottleneck" else 32, 3, 2) and expected.std() > 0.1
    assert torch.equal(feature_map, expected)


def test_depths_and_names_of_resnet101(tmp_path):
    state = make_state_dict(depths=(3, 4, 23, 3), stem=64, widths=(4, 4, 4, 4))
    torch.save(state, tmp_path / "resnet101.pth")
    model = load_torchvision_resnet(tmp_path / "resnet101.pth")
    assert model.config.depths == [3, 4, 23, 3] and model.config.out_features == ["stage4"]
    # 101 layers with weights: the convolutions but those of shortcuts, and the classifier.
    assert sum(key.endswith("convolution.weight") and "shortcut" not in key for key in model.state_dict()) == 100


def test_file_without_counts_of_batches(tmp_path):
    """As the files of 2016 are."""
    state = {key: tensor for key, tensor in make_state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "resnet.pth")
    pixel_values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        feature_map = backbone_feature_map(load_torchvision_resnet(tmp_path / "resnet.pth"), pixel_values)
        assert torch.equal(feature_map, torchvision_feature_map(state, pixel_values))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda state: state.pop("layer3.2.bn2.running_var"),
            r"1 \(layer3\.2\.bn2\.running_var\) missing, none unknown",
        ),
        (
            lambda state: state.update({"layer2.0.se.weight": torch.ones(1)}),
            r"none missing, 1 \(layer2\.0\.se\.weight\) unk",
        ),
        (lambda state: state.pop("conv1.weight"), r"1 \(conv1\.weight\) missing"),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("layer")],
            r"layer1\.0\.conv1\.weight",
        ),
        (
            lambda state: state.update({"layer4.0.conv2.weight": torch.ones(32, 32, 3, 3)}),
            r"layer4\.0\.conv2\.weight has shape \(32, 32, 3, 3\) instead of \(16, 16, 3, 3\)",
        ),
    ],
)
def test_other_tensors_are_named(tmp_path, change, message):
    state = make_state_dict()
    change(state)
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=message):
        load_torchvision_resnet(tmp_path / "resnet.pth")


def test_files_that_are_no_state_dict(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no state dict .*nowhere\.pth"):
        load_torchvision_resnet(tmp_path / "nowhere.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")  # a pickled module could run code
    torch.save({"epoch": 3, "state_dict": make_state_dict()}, tmp_path / "checkpoint.pth")
    torch.save(make_state_dict(), tmp_path / "whole.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-1000])
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "text.pth").write_text("text")
    for name in ("model.pth", "checkpoint.pth", "truncated.pth", "text.safetensors", "text.pth"):
        with pytest.raises(ValueError, match=rf"{name} .*Save the state dict alone"):
            load_torchvision_resnet(tmp_path / name)
