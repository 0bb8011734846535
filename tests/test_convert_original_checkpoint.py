import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import CommandFailed
from golden_cases import VARIANTS, check_agreement, golden_model, golden_settings, load_case, original_state
from safetensors.torch import load_file, save_file
from transformers import MobileNetV2Config, MobileNetV2Model, ResNetBackbone, ResNetConfig

from dedn_hf import DednModel
from dedn_hf.convert_original_checkpoint import (
    convert_original_checkpoint,
    convert_state_dict,
    load_original_state_dict,
    read_class_names,
)

SEEN = [0, 1, 3, 4, 6, 7, 9, 10]


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a golden state with changes to it, where `None` removes a key."""

    def write(variant="awa2", **changes):
        state = original_state(variant) | changes
        path = tmp_path / "original.safetensors"
        save_file({key: value for key, value in state.items() if value is not None}, path)
        return path

    return write


# A clean process: this package cannot be imported, there is no cache and no internet.
LOAD_WITHOUT_THE_PACKAGE = """
import sys
sys.modules["dedn_hf"] = None
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from golden_cases import VARIANTS, load_case, run_case
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForZeroShotImageClassification

folder = Path(sys.argv[2])
for variant in VARIANTS:
    model = AutoModel.from_pretrained(folder / variant, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.") and not model.training
    save_file(run_case(model, load_case(variant)[0]), folder / f"{variant}-results.safetensors")
model.eval().save_pretrained(folder / "again")
model = AutoModelForZeroShotImageClassification.from_pretrained(folder / "again", trust_remote_code=True)
save_file(run_case(model, load_case(variant)[0]), folder / "again-results.safetensors")
model.eval().save_pretrained(folder / "once more")
"""


def test_converted_checkpoints_give_the_golden_numbers_without_the_package(dedn, tmp_path):
    for variant in VARIANTS:
        state = original_state(variant)
        if variant == "sun":
            torch.save(state, tmp_path / "sun.pt")
        else:
            save_file(state, tmp_path / f"{variant}.safetensors")
        original = tmp_path / ("sun.pt" if variant == "sun" else f"{variant}.safetensors")
        arguments = ["--original", original, "--variant", variant, "--seen_classes", ",".join(map(str, SEEN))]
        arguments += ["--output_dir", tmp_path / variant, "--config_overrides", json.dumps(golden_settings(variant))]
        dedn("convert", *arguments)
    subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_THE_PACKAGE, str(Path(__file__).parent), str(tmp_path)],
        env=os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        check=True,
    )
    for variant in VARIANTS:
        check_agreement(load_file(tmp_path / f"{variant}-results.safetensors"), load_case(variant)[0])
    check_agreement(load_file(tmp_path / "again-results.safetensors"), load_case("awa2")[0])
    expected = {
        "AutoConfig": "configuration_dedn.DednConfig",
        "AutoModel": "modeling_dedn.DednModel",
        "AutoModelForImageClassification": "modeling_dedn.DednModel",
        "AutoModelForZeroShotImageClassification": "modeling_dedn.DednModel",
    }
    for folder in ("awa2", "again", "once more"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["auto_map"] == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_are_the_released_ones_and_sizes_the_checkpoints(variant):
    config = convert_state_dict(original_state(variant), variant, SEEN).config
    assert (config.feature_channels, config.grid_size, config.word_vector_size) == (24, 3, 10)
    assert config.region_value_rank == (6 if variant == "sun" else None)
    assert config.region_mix == {"cub": 0.8, "sun": 0.95, "awa2": 0.8}[variant]
    assert config.coarse_mix == {"cub": 0.9, "sun": 0.3, "awa2": 0.5}[variant]
    assert config.self_calibration_weight == {"cub": 0, "sun": 0, "awa2": 0.11}[variant]
    assert config.class_bias == 1 and config.backbone_config is None
    assert config.seen_class_ids == SEEN
    assert config.trained_class_names == [f"class {index}" for index in SEEN]
    assert config.attribute_names[0] == "attribute 1"
    assert config.id2label[11] == "class 11" and config.num_labels == 12


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_and_buffer_is_the_golden_models(variant):
    expected, _ = golden_model(variant)
    model = convert_state_dict(original_state(variant), variant, SEEN)
    assert set(model.state_dict()) == set(expected.state_dict())
    for name, value in expected.state_dict().items():
        actual = model.state_dict()[name]
        if name == "class_attributes":  # which a checkpoint has normalised
            value = torch.nn.functional.normalize(value, dim=-1)
            torch.testing.assert_close(actual, value)
        else:
            assert torch.equal(actual, value), name


def test_a_class_bias_other_than_one():
    for variant, margins in (("awa2", (0.6, 0.6)), ("cub", (2, 1))):
        state = original_state(variant) | {"bias": torch.tensor(0.6)}
        config = convert_state_dict(state, variant, SEEN).config
        assert config.class_bias == pytest.approx(0.6)
        assert (config.target_margin, config.seen_margin) == pytest.approx(margins)


def test_weight_ce_is_not_needed(checkpoint, tmp_path):
    convert_original_checkpoint(checkpoint(weight_ce=None), "awa2", SEEN, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("line", ["{id:03d}.Great_Auk_{letter}", "{id} {id:03d}.Great_Auk_{letter}"])
def test_official_names_of_classes_become_readable(checkpoint, tmp_path, line):
    lines = [line.format(id=index + 1, letter="abcdefghijkl"[index]) for index in range(12)]
    (tmp_path / "classes.txt").write_text("\n".join(lines) + "\n")
    names = read_class_names(tmp_path / "classes.txt")
    model = convert_original_checkpoint(checkpoint(), "awa2", SEEN, tmp_path / "out", class_names=names)
    assert list(model.config.id2label.values()) == [f"Great Auk {letter}" for letter in "abcdefghijkl"]


def test_written_files(dedn, checkpoint, tmp_path, capsys):
    names = [f"animal {index}" for index in range(12)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    out = tmp_path / "deep" / "out"
    overrides = {"attribute_names": [f"trait {index}" for index in range(85)], "calibration": 1.5}
    arguments = ["--original", checkpoint(), "--variant", "awa2", "--seen_classes", ",".join(map(str, SEEN))]
    arguments += ["--output_dir", out, "--class_names", tmp_path / "names.txt"]
    dedn("convert", *arguments, "--config_overrides", json.dumps(overrides))
    assert {file.name for file in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "configuration_dedn.py",
        "modeling_dedn.py",
    }
    assert [file.name for file in out.parent.iterdir()] == ["out"]  # nothing temporary is left
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in out.iterdir())
    assert out.stat().st_mode & 0o555 == 0o555
    assert all(value.dtype != torch.float64 for value in load_file(out / "model.safetensors").values())
    config = DednModel.from_pretrained(out).config
    assert list(config.id2label.values()) == names and config.calibration == 1.5
    assert config.attribute_names == overrides["attribute_names"]
    assert "85 attributes, 12 classes (8 seen), feature maps of 24 × 3 × 3, no backbone" in capsys.readouterr().out


def test_an_empty_output_folder_is_taken(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    convert_original_checkpoint(checkpoint(), "awa2", SEEN, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("kind", ["resnet", "mobilenet_v2"])
def test_backbone(kind, checkpoint, tmp_path):
    torch.manual_seed(0)
    if kind == "resnet":
        config = ResNetConfig(embedding_size=4, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
        backbone, changes = ResNetBackbone(config), {}
    else:
        backbone = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1, image_size=64, output_stride=8))
        wide = {key: torch.randn(10, 1280) for key in original_state("awa2") if key.endswith(("H_1", "H_2"))}
        changes = wide
    backbone.save_pretrained(tmp_path / "backbone")
    out = tmp_path / "out"
    convert_original_checkpoint(checkpoint(**changes), "awa2", SEEN, out, backbone=tmp_path / "backbone")
    model, report = DednModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    state = backbone.state_dict()
    assert set(model.backbone.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.state_dict().items())
    assert model(torch.randn(2, 3, 24, 24)).logits.shape == (2, 12)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


# Errors: each before anything is written


@pytest.fixture
def convert(tmp_path):
    def call(original, variant="awa2", seen_classes=SEEN, **arguments):
        convert_original_checkpoint(original, variant, seen_classes, tmp_path / "out", **arguments)

    yield call
    assert not (tmp_path / "out").exists()


def test_seen_classes_that_differ(convert, checkpoint):
    with pytest.raises(ValueError, match=r"12 classes.*\[2\] are given as seen.*\[9, 10\] are seen there.*from 0"):
        convert(checkpoint(), seen_classes=[0, 1, 2, 3, 4, 6, 7])


def test_wrong_variant(convert, checkpoint):
    with pytest.raises(ValueError, match=r"\[18, 15, 38, 14\].*'cub'.*\[112, 87, .*of variant 'awa2'"):
        convert(checkpoint(), variant="cub")


def test_groups_that_are_not_the_released_ones(convert, checkpoint):
    state = original_state("sun")
    meant = [("Snet0.V", 38), ("Snet1.V", 27), ("Snet2.V", 17), ("Snet3.V", 20)]
    with pytest.raises(ValueError, match=r"\[38, 27, 17, 20\].*\[64, 27, 9, 2\].*Override `attribute_groups`"):
        convert(checkpoint("sun", **{key: state["GNet.V"][:rows].clone() for key, rows in meant}), variant="sun")


def test_groups_can_be_overridden():
    state = original_state("sun")
    sizes = {"function": 38, "element": 27, "environment": 17, "other": 20}
    for index, rows in enumerate(sizes.values()):
        state[f"Snet{index}.V"] = torch.randn(rows, 10)
    groups = {
        "function": list(range(38)),
        "element": list(range(38, 65)),
        "environment": [*range(65, 74), *range(77, 85)],
        "other": [74, 75, 76, *range(85, 102)],
    }
    model = convert_state_dict(state, "sun", SEEN, {"attribute_groups": groups})
    assert model.config.attribute_groups == groups
    order = [index for indices in groups.values() for index in indices]
    torch.testing.assert_close(model.class_attributes[:, order], state["att"])
    other = model.fine_expert.heads[list(model.config.attribute_groups).index("other")]
    assert torch.equal(other.word_vectors, state["Snet3.V"])


def test_missing_and_unexpected_keys(convert, checkpoint):
    with pytest.raises(
        ValueError, match=r"missing keys \['GNet.H_2', 'Snet3.V', 'bias'\], unexpected keys \['extra'\]"
    ):
        convert(checkpoint(**{"GNet.H_2": None, "Snet3.V": None, "bias": None, "extra": torch.zeros(1)}))


def test_low_rank_checkpoint_as_another_variant(convert, checkpoint):
    changes = {f"{head}.H_5": torch.zeros(10, 9) for head in ("GNet", "Snet0", "Snet1", "Snet2", "Snet3")}
    with pytest.raises(ValueError, match=r"missing keys \[\], unexpected keys \['GNet.H_5', 'Snet0.H_5'"):
        convert(checkpoint(**changes))


def test_nested_state_dict(convert, tmp_path):
    torch.save({"state_dict": original_state("awa2"), "epoch": 3}, tmp_path / "nested.pt")
    with pytest.raises(
        ValueError, match=r"missing keys \['GNet.H_1'.*unexpected keys \['epoch', 'state_dict'\].*deeper"
    ):
        convert(tmp_path / "nested.pt")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_file_with_code_is_refused_and_not_run(convert, tmp_path):
    torch.save({"att": Payload(tmp_path / "ran")}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code.pt is no file of tensors alone.*state dict alone"):
        convert(tmp_path / "code.pt")
    assert not (tmp_path / "ran").exists()


def test_file_that_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list where a state dict should be"):
        load_original_state_dict(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_original_state_dict(tmp_path / "none.pt")


def test_number_of_class_names(convert, checkpoint):
    with pytest.raises(ValueError, match="11 class names, but the checkpoint has 12 classes"):
        convert(checkpoint(), class_names=[f"animal {index}" for index in range(11)])


def test_number_of_attribute_names(convert, checkpoint):
    with pytest.raises(ValueError, match="2 names, but the checkpoint has 85 attributes"):
        convert(checkpoint(), config_overrides={"attribute_names": ["red", "blue"]})


@pytest.mark.parametrize(
    "name, closest", [("regionmix", "region_mix"), ("self_calibration", "self_calibration_weight")]
)
def test_unknown_override(convert, checkpoint, name, closest):
    with pytest.raises(ValueError, match=f"'{name}' is no field of DednConfig.*closest is '{closest}'"):
        convert(checkpoint(), config_overrides={name: 0.5})


@pytest.mark.parametrize("name", ["backbone_config", "id2label"])
def test_override_that_has_an_argument_of_its_own(convert, checkpoint, name):
    with pytest.raises(
        ValueError, match=f"'{name}' is no field.*Class names and backbone have arguments of their own"
    ):
        convert(checkpoint(), config_overrides={name: {}})


def test_override_of_a_size(convert, checkpoint):
    with pytest.raises(ValueError, match="`grid_size` is overridden with 7, but the checkpoint was trained with 3"):
        convert(checkpoint(), config_overrides={"grid_size": 7})


@pytest.mark.parametrize(
    "key, shape, message",
    [
        ("Snet1.H_1", (10, 23), r"`Snet1.H_1` has shape \(10, 23\).*should have \(10, 24\)"),
        ("GNet.H_4", (10, 8), "8 regions, which are no square grid"),
    ],
)
def test_damaged_checkpoint(convert, checkpoint, key, shape, message):
    with pytest.raises(ValueError, match=message):
        convert(checkpoint(**{key: torch.zeros(shape)}))


def test_backbone_with_other_channels(convert, checkpoint, tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"feature maps of 8 channels, but the checkpoint was trained on 24"):
        convert(checkpoint(), backbone=tmp_path / "backbone")
    with pytest.raises(FileNotFoundError, match=r"no backbone folder .*elsewhere"):
        convert(checkpoint(), backbone=tmp_path / "elsewhere")


def test_unknown_variant(convert, checkpoint):
    with pytest.raises(ValueError, match="'synthetic_birds'; choose one of cub, sun, awa2"):
        convert(checkpoint(), variant="synthetic_birds")


def test_output_folder_that_is_not_empty(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out exists and is no empty folder"):
        convert_original_checkpoint(checkpoint(), "awa2", SEEN, out)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seen_classes", "0,1"], "[3, 4, 6, 7, 9, 10] are seen there but not given"),
        (["--seen_classes", "0,one"], "invalid class_ids value: '0,one'"),
        (["--config_overrides", "[1]"], "invalid json_object value: '[1]'"),
        (["--config_overrides", "{'a'"], "invalid json_object value"),
        (["--variant", "flo"], "no released variant 'flo'; choose one of cub, sun"),
        (["--class_names", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_command_tells_errors_in_one_line(dedn, checkpoint, tmp_path, arguments, message):
    usual = ["--original", str(checkpoint()), "--variant", "awa2", "--seen_classes", ",".join(map(str, SEEN))]
    with pytest.raises(CommandFailed) as error:
        dedn("convert", *usual, "--output_dir", tmp_path / "out", *arguments)
    assert error.value.status == 2
    assert message in str(error.value) and str(error.value).count("\n") == 1
    assert not (tmp_path / "out").exists()
