"""What people do with configs and loaded models of transformers: it works here, or is refused by name."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from tiny_model import make_tiny_config, make_tiny_model
from transformers import AutoConfig, AutoModel, ResNetConfig, Trainer, TrainingArguments

from dedn_hf import DednConfig, DednModel, DednPrediction

OWN = ["jay", "wren", "owl", "swift", "crow"]
FIVE = [f"class {index}" for index in range(5)]
SEVEN = [f"class {index}" for index in range(7)]


def by_id(names):
    return dict(enumerate(names))


def by_name(names):
    return {name: index for index, name in enumerate(names)}


def check_agrees(model, names):
    """Config, buffers and scores are of the same classes."""
    config = model.config
    assert config.id2label == by_id(names) and config.label2id == by_name(names)
    assert config.num_labels == len(names) == len(model.class_attributes)
    assert model.seen_classes.nonzero().flatten().tolist() == sorted(config.seen_class_ids)
    assert {names[index] for index in config.seen_class_ids} <= set(config.trained_class_names)
    assert model(feature_map=torch.ones(1, 6, 3, 3)).logits.shape == (1, len(names))


@pytest.fixture
def feature_map():
    return torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_tiny_model().save_pretrained(path)
    return path


# Classes on loading


@pytest.mark.parametrize("loader", [DednModel, AutoModel])
@pytest.mark.parametrize(
    "given, names",
    [
        ({"num_labels": 5}, OWN),
        ({"id2label": by_id(FIVE)}, FIVE),
        ({"label2id": by_name(FIVE)}, FIVE),
        ({"id2label": by_id(FIVE), "label2id": by_name(FIVE)}, FIVE),
        ({"id2label": by_id(FIVE), "num_labels": 5}, FIVE),
        ({"id2label": {str(index): name for index, name in enumerate(FIVE)}}, FIVE),
        ({"ignore_mismatched_sizes": True}, OWN),
    ],
)
def test_classes_can_be_renamed_on_loading(folder, feature_map, loader, given, names):
    model = loader.from_pretrained(folder, **given)
    check_agrees(model, names)
    expected = make_tiny_model()(feature_map=feature_map).logits
    torch.testing.assert_close(model(feature_map=feature_map).logits, expected)


def test_a_renamed_class_is_still_one_that_the_model_was_trained_on(folder):
    model = DednModel.from_pretrained(folder, id2label=by_id(FIVE))
    model.set_classes([*FIVE, "heron"], torch.rand(6, 7))
    assert model.config.seen_class_ids == [0, 1, 3]


@pytest.mark.parametrize("given", [{"num_labels": 7}, {"num_labels": 3}, {"id2label": by_id(SEVEN)}])
def test_other_classes_are_refused_on_loading(folder, given):
    with pytest.raises(ValueError, match=r"`class_attributes` has shape \(5, 7\).*`set_classes\("):
        DednModel.from_pretrained(folder, **given)


@pytest.mark.parametrize(
    "given",
    [
        *({"num_labels": 7}, {"num_labels": 3}, {"label2id": by_name([*OWN, "heron"])}),
        {"id2label": by_id(["001.Jay", "WREN", *OWN[2:], "heron"])},
    ],
)
def test_other_classes_are_none_until_they_are_described(folder, feature_map, given):
    model = DednModel.from_pretrained(folder, **given, ignore_mismatched_sizes=True)
    names = list(model.config.id2label.values())
    message = rf"nothing of {len(names)} of its {len(names)} classes \({names[0]}, .*`set_classes\("
    for call in (model, model.predict):
        with pytest.raises(ValueError, match=message):
            call(feature_map=feature_map)
    with pytest.raises(ValueError, match=message):
        model.train()(feature_map=feature_map, labels=torch.zeros(4, dtype=torch.long))
    # Those of one call are described in the call.
    assert model(feature_map=feature_map, class_attributes=torch.rand(2, 7)).logits.shape == (4, 2)
    model.eval().set_classes(names, torch.rand(len(names), 7))
    check_agrees(model, names)
    seen = [index for index, name in enumerate(names) if name in ("jay", "wren", "swift", "001.Jay", "WREN")]
    assert model.config.seen_class_ids == seen


@pytest.mark.parametrize(
    "given, message",
    [
        ({"id2label": by_id(["Wren", "001.Jay", *OWN[2:]])}, r"`id2label` gives 'Wren' another place.*`set_classes`"),
        ({"id2label": by_id(["wren", "jay", *OWN[2:]])}, r"`id2label` gives 'wren' another place.*`set_classes`"),
        ({"id2label": by_id(FIVE), "label2id": by_name(OWN)}, r"do not agree about '(class 0|jay)'.*Leave `label2id`"),
        ({"id2label": by_id(FIVE), "num_labels": 4}, r"`num_labels` is 4, but `id2label` names 5"),
        (
            {"attribute_names": ["attribute 1", "attribute 0", *"cdefg"]},
            r"`attribute_names` gives 'attribute 1' another",
        ),
        ({"attribute_names": ["a", "b"]}, r"each of the 2 attributes"),
        ({"attribute_groups": {"a": [0, 1, 2], "b": [3, 4, 5, 6]}}, r"do not fit its config: `fine_expert.*\(2, 4\)"),
        # As large as the model's own, which only the order of attributes tells apart.
        (
            {"attribute_groups": {"wing": [0, 1], "tail": [2, 4], "body": [6, 3, 5]}},
            r"trained with other `attribute_gr",
        ),
        (
            {"feature_channels": 8},
            r"do not fit its config: `coarse_expert\.heads\.0\.",
        ),
        ({"seen_class_ids": [0, 9]}, r"`seen_class_ids` holds \[9\], but there are 5 classes"),
        ({"backbone_config": "resnet"}, r"`backbone_config` must be the config of a vision model.*'resnet'"),
        ({"region_mix": "0.5"}, r"`region_mix` must be a finite number, but it is '0\.5'"),
    ],
)
def test_changes_on_loading_that_cannot_be(folder, given, message):
    with pytest.raises(ValueError, match=message):
        DednModel.from_pretrained(folder, **given)


def test_other_groups_are_refused_whatever_is_ignored(folder):
    with pytest.raises(ValueError, match="trained with other `attribute_groups`"):
        DednModel.from_pretrained(
            folder, attribute_groups={"a": [0, 1, 2], "b": [3, 4, 5, 6]}, ignore_mismatched_sizes=True
        )


def test_seen_classes_follow_the_config_on_loading(folder, feature_map):
    model = DednModel.from_pretrained(folder, seen_class_ids=[0, 1, 2])
    check_agrees(model, OWN)
    expected = make_tiny_model()
    expected.set_classes(OWN, expected.class_attributes, seen=[True, True, True, False, False])
    torch.testing.assert_close(model(feature_map=feature_map).logits, expected(feature_map=feature_map).logits)


def test_order_in_which_groups_are_given_on_loading_does_not_matter(folder, feature_map):
    groups = dict(reversed(make_tiny_config().attribute_groups.items()))
    model = DednModel.from_pretrained(folder, attribute_groups=groups)
    expected = make_tiny_model()(feature_map=feature_map).logits
    torch.testing.assert_close(model(feature_map=feature_map).logits, expected)


# A config that is changed and saved


def change_and_load(tmp_path, setting, value, of_model):
    """Saves a model whose config is changed, in it or in its folder, and loads it."""
    model = make_tiny_model()
    if of_model:
        setattr(model.config, setting, value)
        model.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path)
        config = DednConfig.from_pretrained(tmp_path)
        setattr(config, setting, value)
        config.save_pretrained(tmp_path)
    return DednModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("of_model", [True, False])
@pytest.mark.parametrize("setting, value", [("id2label", by_id(FIVE)), ("label2id", by_name(FIVE))])
def test_renaming_classes_in_a_config(tmp_path, setting, value, of_model):
    check_agrees(change_and_load(tmp_path, setting, value, of_model), FIVE)


def test_renaming_a_class_from_inside(tmp_path):
    model = make_tiny_model()
    model.config.id2label[0] = "heron"
    assert model.config.label2id["heron"] == 0 and "jay" not in model.config.label2id
    model.save_pretrained(tmp_path)
    check_agrees(DednModel.from_pretrained(tmp_path), ["heron", *OWN[1:]])


def test_renaming_attributes_in_a_config(tmp_path):
    names = list("abcdefg")
    assert change_and_load(tmp_path, "attribute_names", names, True).config.attribute_names == names


@pytest.mark.parametrize("of_model", [True, False])
@pytest.mark.parametrize(
    "setting, value",
    [
        ("num_labels", 3),
        ("num_labels", 7),
        ("id2label", by_id(SEVEN)),
        ("attribute_names", ["a", "b"]),
        ("attribute_groups", {"a": [0, 1, 2], "b": [3, 4, 5, 6]}),
        ("attribute_groups", {"a": [0]}),
        ("seen_class_ids", [0, 9]),
        ("region_mix", float("nan")),
    ],
)
def test_changes_of_a_config_that_the_weights_do_not_follow(tmp_path, setting, value, of_model):
    names = r"classes|`attribute_groups`|do not fit its config|`seen_class_ids`|`config.seen_class_ids`|`region_mix`"
    with pytest.raises(ValueError, match=names):
        change_and_load(tmp_path, setting, value, of_model)


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("num_labels", 7, r"names 7 classes and 7 attributes, but the model has 5 classes.*`set_classes`"),
        ("attribute_names", ["a"], r"5 classes and 1 attributes, but the model has 5 classes with 7"),
        ("seen_class_ids", [0], r"`config.seen_class_ids` was changed.*`set_classes\("),
    ],
)
def test_a_model_whose_config_was_changed_does_not_predict(tiny_model, feature_map, setting, value, message):
    setattr(tiny_model.config, setting, value)
    with pytest.raises(ValueError, match=message):
        tiny_model(feature_map=feature_map)


def test_a_config_that_two_models_share(feature_map):
    config = make_tiny_config()
    one, other = DednModel(config).eval(), DednModel(config).eval()
    one.set_classes(["heron"], torch.rand(1, 7))
    assert one(feature_map=feature_map).logits.shape == (4, 1)
    with pytest.raises(ValueError, match="names 1 classes and 7 attributes, but the model has 5"):
        other(feature_map=feature_map)


def test_what_is_of_all_classes_and_attributes_stays_so():
    config = DednConfig()
    config.num_labels = 5
    config.attribute_names = list("abc")
    assert config.seen_class_ids == [0, 1, 2, 3, 4] and config.attribute_groups == {"all": [0, 1, 2]}
    config.num_labels = 3
    assert config.seen_class_ids == [0, 1, 2]
    model = DednModel(config)
    model.set_classes(list(config.id2label.values()), torch.rand(3, 3))
    assert model.config.seen_class_ids == [0, 1, 2]


def test_groups_with_numbers_for_names_keep_their_order(tmp_path):
    config = make_tiny_config(attribute_groups={index: [position] for position, index in enumerate(range(5, 12))})
    config.save_pretrained(tmp_path)
    assert list(DednConfig.from_pretrained(tmp_path).attribute_groups.items()) == list(config.attribute_groups.items())


# Models that know nothing of their classes


def test_a_new_model_predicts_nothing_before_it_knows_its_classes(feature_map, tmp_path):
    model = DednModel(make_tiny_config()).eval()
    for run in (
        model,
        model.predict,
        torch.compile(model, backend="eager"),
        lambda feature_map: torch.export.export(model, (), {"feature_map": feature_map}),
    ):
        with pytest.raises(ValueError, match=r"nothing of 5 of its 5 classes \(jay, wren, owl,.*`set_classes\("):
            run(feature_map=feature_map)
    # It can be saved, and is the same when it comes back.
    model.save_pretrained(tmp_path)
    loaded = DednModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`set_classes\("):
        loaded(feature_map=feature_map)
    loaded.set_classes(OWN, torch.rand(5, 7))
    assert loaded(feature_map=feature_map).logits.std(dim=0).min() > 0


def test_class_attributes_that_come_by_a_state_dict(tiny_model, feature_map):
    model = DednModel(make_tiny_config()).eval()
    model.load_state_dict(tiny_model.state_dict())
    assert torch.equal(model(feature_map=feature_map).logits, tiny_model(feature_map=feature_map).logits)
    state = tiny_model.state_dict() | {"class_attributes": torch.zeros(5, 7)}
    model.load_state_dict(state)
    with pytest.raises(ValueError, match="nothing of 5 of its 5 classes"):
        model(feature_map=feature_map)


def test_class_attributes_that_are_written_into_the_buffer(feature_map):
    model = DednModel(make_tiny_config()).eval()
    model.class_attributes[:4] = torch.rand(4, 7)
    with pytest.raises(ValueError, match=r"nothing of 1 of its 5 classes \(crow\)"):
        model(feature_map=feature_map)
    model.class_attributes[4] = 1
    assert model(feature_map=feature_map).logits.shape == (4, 5)


@pytest.mark.parametrize(
    "names, rows, message",
    [
        (["a", "b"], torch.tensor([[1.0] * 7, [0.0] * 7]), r"Nothing is known of 1 classes \(b\)"),
        (["a", "b"], torch.tensor([[1.0] * 7, [-1.0] * 7]), r"Nothing is known of 1 classes \(b\)"),
        (["a"], torch.full((1, 7), torch.nan), r"not finite"),
        ([], torch.zeros(0, 7), r"one class at least"),
        ("ab", torch.rand(2, 7), r"a list of texts, but there is 'ab'"),
        ([1, 2], torch.rand(2, 7), r"a list of texts, but there is 1"),
        (["a"], [["much"] * 7], r"`class_attributes` must be a matrix of numbers"),
        (["a", "b"], [[1.0] * 7, [1.0] * 6], r"`class_attributes` must be a matrix of numbers"),
    ],
)
def test_classes_that_cannot_be(tiny_model, names, rows, message):
    before = tiny_model.config.to_dict(), tiny_model.class_attributes
    with pytest.raises(ValueError, match=message):
        tiny_model.set_classes(names, rows)
    assert tiny_model.config.to_dict() == before[0] and tiny_model.class_attributes is before[1]


# What a config is given


@pytest.mark.parametrize(
    "given, message",
    [
        ({"id2label": OWN}, r"`id2label` must be a dict.*`dict\(enumerate\(names\)\)`"),
        ({"id2label": {0: "a", 2: "b"}}, r"0, 1, … without a gap.*\[0, 2\]"),
        ({"id2label": {"a": 0, "b": 1}}, r"whole numbers, but they are \['a', 'b'\]"),
        ({"id2label": {}}, r"one class at least"),
        ({"id2label": by_id([*OWN[:4], "jay"])}, r"\['jay'\] more than once"),
        ({"id2label": by_id(range(5))}, r"`id2label` must hold names, which are texts, but there is 0"),
        ({"id2label": None, "label2id": {"a": 0, "b": 0}}, r"0, 1, … without a gap"),
        ({"label2id": by_name([*OWN[::-1]])}, r"do not agree about 'jay'"),
        ({"num_labels": 4}, r"`num_labels` is 4, but `id2label` names 5"),
        ({"num_labels": 0, "id2label": None}, r"`num_labels` must be a whole number from 1 up, but it is 0"),
        ({"num_labels": "3", "id2label": None}, r"`num_labels`.*'3'"),
        ({"seen_class_ids": [0, 0, 1]}, r"`seen_class_ids` holds \[0\] more than once"),
        ({"seen_class_ids": [True, False, True, True, True]}, r"`seen_class_ids` must be ids.*True"),
        ({"seen_class_ids": "01"}, r"`seen_class_ids` must be ids.*'01'"),
        ({"trained_class_names": "jay"}, r"`trained_class_names` must hold names.*'jay'"),
        ({"attribute_names": "abc"}, r"`attribute_names` must hold names.*'abc'"),
        ({"attribute_names": ["a", *"abcdef"]}, r"`attribute_names` holds \['a'\] more than once"),
        ({"attribute_groups": ["x"]}, r"`attribute_groups` must be a dict"),
        ({"attribute_groups": {"a": 5}}, r"`attribute_groups` must be ids.*5"),
        ({"backbone_config": "resnet"}, r"`backbone_config` must be the config.*'resnet'.*AutoConfig"),
        ({"backbone_config": {"depths": [1]}}, r"with a `model_type`"),
        ({"backbone_config": {"model_type": "nonsense"}}, r"`model_type` 'nonsense', which the installed"),
        ({"freeze_backbone": "no"}, r"`freeze_backbone` must be True or False, but it is 'no'"),
        ({"normalize_features": None}, r"`normalize_features` must be True or False, but it is None"),
        ({"region_value_std": -1.0}, r"`region_value_std` cannot be negative, but it is -1.0"),
        ({"distillation_weight": -1.0}, r"`distillation_weight` is a weight and cannot be negative"),
        *(
            ({name: value}, rf"`{name}` must be a whole number from 1 up, but it is {re.escape(repr(value))}")
            for name in ("feature_channels", "grid_size", "word_vector_size", "region_value_rank")
            for value in ("8", 0, -1, 8.0, True)
        ),
        *(
            ({name: value}, rf"`{name}` must be a finite number, but it is {re.escape(repr(value))}")
            for name in ("class_bias", "calibration", "target_margin", "alignment_weight", "coarse_mix", "score_scale")
            for value in (float("nan"), float("inf"), "1", True)
        ),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make_tiny_config(**given)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400
    # The same where they are set afterwards.
    config = make_tiny_config()
    if given.keys().isdisjoint({"id2label", "label2id", "num_labels", "backbone_config"}):
        with pytest.raises(ValueError, match=message):
            for name, value in given.items():
                setattr(config, name, value)
            DednModel(config)


def test_a_misspelt_setting_is_told(folder):
    with pytest.raises(TypeError, match=r"no setting `attributes_names`\. Do you mean `attribute_names`"):
        make_tiny_config(attributes_names=["a"])
    assert make_tiny_config(our_note="kept").our_note == "kept"
    for loader in (AutoConfig, DednModel):
        with pytest.raises(TypeError, match=r"no setting `num_label`\. Do you mean `num_labels`"):
            loader.from_pretrained(folder, num_label=5)


def test_a_model_of_another_config():
    with pytest.raises(ValueError, match="made from a DednConfig, but this is a ResNetConfig"):
        DednModel(ResNetConfig())


def test_numpy_and_torch_settings_are_saved(tmp_path):
    config = make_tiny_config(
        feature_channels=np.int64(6),
        class_bias=np.float32(0.5),
        seen_class_ids=torch.tensor([0, 1]),
        attribute_names=np.array(list("abcdefg")),
    )
    config.save_pretrained(tmp_path)
    loaded = DednConfig.from_pretrained(tmp_path)
    assert loaded == config and loaded.seen_class_ids == [0, 1] and loaded.class_bias == 0.5


# There and back


@pytest.mark.parametrize("config", [DednConfig(), make_tiny_config(), make_tiny_config(id2label=by_id(SEVEN))])
def test_configs_are_the_same_after_any_round_trip(config, tmp_path):
    config.save_pretrained(tmp_path)
    for again in (
        copy.deepcopy(config),
        DednConfig.from_dict(config.to_dict()),
        DednConfig(**config.to_dict()),
        DednConfig.from_dict(json.loads(config.to_json_string())),
        DednConfig.from_dict(json.loads(config.to_json_string(use_diff=False))),
        DednConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
    ):
        assert again == config and again.to_dict()["label2id"] == config.label2id
        assert list(again.id2label.items()) == list(config.id2label.items())


def test_configs_that_differ_are_not_the_same():
    config = make_tiny_config()
    for setting, value in {
        "feature_channels": 8,
        "id2label": by_id(FIVE),
        "seen_class_ids": [0],
        "calibration": 1.0,
    }.items():
        assert make_tiny_config(**{setting: value}) != config
    assert config != "a config"


# What a config asks of the output


@pytest.mark.parametrize("attn_implementation", [None, "blockwise"])
def test_output_attentions_of_a_config(folder, feature_map, tmp_path, attn_implementation):
    config = AutoConfig.from_pretrained(folder, output_attentions=True)
    # Without asking whether the model has it.
    config._attn_implementation_internal = attn_implementation
    config.save_pretrained(tmp_path)
    assert DednConfig.from_pretrained(tmp_path).output_attentions
    model = DednModel.from_pretrained(folder, output_attentions=True)
    assert model(feature_map=feature_map).attentions["coarse"].shape == (4, 7, 3, 3)
    assert model.predict(feature_map=feature_map).attentions["mixed"].shape == (4, 7, 3, 3)
    assert model(feature_map=feature_map, output_attentions=False).attentions is None
    assert model.predict(feature_map=feature_map, output_attentions=False).attentions is None


def test_return_dict_of_a_config(folder, feature_map):
    model = DednModel.from_pretrained(folder, return_dict=False)
    output = model(feature_map=feature_map)
    assert isinstance(output, tuple) and output[0].shape == (4, 5)
    expected = model(feature_map=feature_map, return_dict=True)
    assert torch.equal(output[0], expected.logits)
    prediction = model.predict(feature_map=feature_map)
    assert isinstance(prediction, DednPrediction) and torch.equal(prediction.logits, expected.logits)


def test_a_trainer_with_what_a_config_asks_of_the_output(tmp_path):
    model = make_tiny_model(return_dict=False, output_attentions=True)
    data = [{"feature_map": torch.rand(6, 3, 3), "labels": index % 2} for index in range(4)]
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, args, train_dataset=data)
    trainer.train()
    prediction = trainer.predict(data)
    assert prediction.predictions[0].shape == (4, 5) and prediction.metrics["test_loss"] > 0


@pytest.mark.parametrize("dtype", ["0", "float33", "nn", "load"])
def test_a_dtype_that_is_none(tmp_path, dtype):
    make_tiny_config().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
    with pytest.raises(ValueError, match=f"`dtype` must be a type of numbers of torch.*{dtype!r}"):
        DednConfig.from_pretrained(tmp_path)
