import json

import pytest
from tiny_model import make_tiny_config
from transformers import AutoConfig, ResNetConfig

from dedn_hf import DednConfig


def test_round_trip(tmp_path):
    # Names out of alphabetical order, and more than ten classes: neither order may follow the JSON's sorted keys.
    config = make_tiny_config(
        backbone_config=ResNetConfig(embedding_size=4, hidden_sizes=[6], depths=[1], out_features=["stage1"]),
        id2label={index: f"class {index}" for index in range(12)},
        seen_class_ids=[0, 2, 11],
        calibration=0.7,
        region_value_rank=2,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, DednConfig)
    original, loaded_fields = config.to_dict(), loaded.to_dict()
    assert (
        loaded_fields.pop("backbone_config")["hidden_sizes"] == original.pop("backbone_config")["hidden_sizes"] == [6]
    )
    original.pop("_name_or_path", None), loaded_fields.pop("_name_or_path", None)
    assert loaded_fields == original
    assert isinstance(loaded.backbone_config, ResNetConfig) and loaded.backbone_config.out_features == ["stage1"]
    assert list(loaded.attribute_groups) == list(config.attribute_groups)
    assert list(loaded.id2label.items()) == [(index, f"class {index}") for index in range(12)]
    assert loaded.trained_class_names == ["class 0", "class 2", "class 11"]
    assert json.loads((tmp_path / "config.json").read_text())["label2id"]["class 11"] == 11


def test_the_order_in_which_groups_are_given_does_not_matter():
    groups = make_tiny_config().attribute_groups
    again = make_tiny_config(attribute_groups=dict(reversed(groups.items())))
    assert list(again.attribute_groups.items()) == list(groups.items())


def test_defaults():
    config = DednConfig(attribute_names=["a", "b"], num_labels=3)
    assert config.attribute_groups == {"all": [0, 1]}
    assert config.seen_class_ids == [0, 1, 2]
    assert config.freeze_backbone and config.calibration is None
    assert DednConfig().attribute_names == []


def test_trained_classes_are_the_seen_ones_and_those_that_are_told():
    assert make_tiny_config().trained_class_names == ["jay", "wren", "swift"]
    assert make_tiny_config(trained_class_names=["emu"]).trained_class_names == ["emu", "jay", "wren", "swift"]


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"a": [0, 1, 2], "b": [4, 5, 6]}, r"each of the 7 attributes.*6 indices: missing \[3\]"),
        ({"a": [0, 1, 2, 3], "b": [3, 4, 5, 6]}, r"8 indices: missing \[\], more than once \[3\]"),
        ({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]}, r"beyond the attributes \[7\]"),
        ({"a": [0, 1, 2, 3], "b": [4, 5, -1]}, r"missing \[6\].*beyond the attributes \[-1\]"),
    ],
)
def test_groups_that_are_no_partition(groups, message):
    with pytest.raises(ValueError, match=message):
        make_tiny_config(attribute_groups=groups)


@pytest.mark.parametrize("ids, strangers", [([0, 5], r"\[5\]"), ([-1, 2], r"\[-1\]")])
def test_seen_classes_that_do_not_exist(ids, strangers):
    with pytest.raises(ValueError, match=rf"{strangers}, but there are 5 classes.*id2label"):
        make_tiny_config(seen_class_ids=ids)


@pytest.mark.parametrize("name", ["region_mix", "coarse_mix"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_mixes_are_shares(name, value):
    with pytest.raises(ValueError, match=rf"`{name}`.*{value}"):
        make_tiny_config(**{name: value})


def test_gamma_is_the_calibration_in_effect():
    config = make_tiny_config(class_bias=0.7)
    assert config.gamma == 1.4 and "gamma" not in config.to_dict()
    config.calibration = 0.0
    assert config.gamma == 0


def test_class_parents_are_saved(tmp_path):
    parents = {"jay": "Corvidae", "crow": "Corvidae", "Corvidae": "Passeriformes"}
    config = make_tiny_config(class_parents=parents)
    config.save_pretrained(tmp_path)
    assert DednConfig.from_pretrained(tmp_path).class_parents == config.class_parents == parents
    assert make_tiny_config().class_parents == {}
    assert DednConfig.from_pretrained(tmp_path, class_parents={"owl": "Strigidae"}).class_parents == {
        "owl": "Strigidae"
    }


@pytest.mark.parametrize(
    "parents, message",
    [
        ({"jay": "jay"}, "circle: 'jay' → 'jay'"),
        ({"jay": "A", "A": "B", "crow": "A", "B": "A"}, "circle: 'A' → 'B' → 'A'"),
        (["jay"], "must be a dict"),
        ({"jay": ["Corvidae"]}, r"there is \['Corvidae'\]"),
        ({"jay": " "}, "there is ' '"),
        ({0: "Corvidae"}, "there is 0"),
    ],
)
def test_wrong_class_parents(parents, message):
    with pytest.raises(ValueError, match=f"`class_parents`.*{message}"):
        make_tiny_config(class_parents=parents)
    config = make_tiny_config()
    config.class_parents = parents
    with pytest.raises(ValueError, match="`class_parents`"):
        config.validate()


def test_a_class_that_is_renamed_keeps_its_parent(tmp_path):
    make_tiny_config(class_parents={"jay": "crow", "crow": "Corvidae"}).save_pretrained(tmp_path)
    names = ["Eichelhäher", "Zaunkönig", "Eule", "Segler", "Krähe"]
    config = DednConfig.from_pretrained(tmp_path, id2label=dict(enumerate(names)))
    assert config.class_parents == {"Eichelhäher": "Krähe", "Krähe": "Corvidae"}


def test_terms_of_attributes(tmp_path):
    terms = {"beak": ["attribute 1"], "corolla": ("petal", "attribute 2")}
    config = make_tiny_config(attribute_terms=terms)
    config.save_pretrained(tmp_path)
    assert DednConfig.from_pretrained(tmp_path).attribute_terms == {
        "beak": ["attribute 1"],
        "corolla": ["petal", "attribute 2"],
    }
    names = [f"feature {index}" for index in range(7)]
    renamed = DednConfig.from_pretrained(tmp_path, attribute_names=names)
    assert renamed.attribute_terms == {"beak": ["feature 1"], "corolla": ["petal", "feature 2"]}
    assert make_tiny_config().attribute_terms == {}


@pytest.mark.parametrize(
    "terms, message",
    [
        (["beak"], "`attribute_terms` must be a dict of a word"),
        ({3: ["a"]}, "`attribute_terms` must be a dict of a word"),
        ({"beak": "bill"}, r"`attribute_terms\['beak'\]` must hold names, .* but there is 'bill'"),
        ({"beak": [3]}, r"`attribute_terms\['beak'\]` must hold names"),
        ({"beak": []}, "`attribute_terms` reads 'beak' as nothing"),
        ({" ": ["bill"]}, "`attribute_terms` reads ' ' as nothing"),
    ],
)
def test_terms_that_are_none(terms, message):
    with pytest.raises(ValueError, match=message):
        make_tiny_config(attribute_terms=terms)
