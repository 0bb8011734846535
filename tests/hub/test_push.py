import json
import re

import pytest
import torch
from huggingface_hub import HfApi, constants
from model_folder import TOKEN
from safetensors.torch import load_file, save_file

from dedn_hf.hub import PublishingError, check_loading, files_to_push, push_to_hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def uploads(hub):
    return [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]


def test_a_push_is_one_commit_of_what_is_in_the_folder(api, hub, model_folder):
    commit = push_to_hub(model_folder, "birds", private=True, revision="v1", api=api)
    repository = hub.repositories["ada/birds"]
    assert repository.private and repository.branches["v1"] == commit.oid
    assert repository.messages == ["initial commit", "Upload DEDN model"]
    files = {name: file.content for name, file in repository.commits[commit.oid].items() if name != ".gitattributes"}
    card = files.pop("README.md").decode()
    assert 'repo_id = "ada/birds"' in card and "your-namespace" not in card
    assert "your-namespace" in (model_folder / "README.md").read_text()
    assert files == {name: (model_folder / name).read_bytes() for name in files_to_push(model_folder) if name in files}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} < set(files)
    assert {"configuration_dedn.py", "modeling_dedn.py"} < set(files)
    assert repository.commits[commit.oid]["model.safetensors"].lfs


@pytest.mark.parametrize(
    "token, repo_id, message",
    [
        (TOKEN, "stranger/birds", r"may not write to stranger/birds \(403\)"),
        ("hf_reader", "org/birds", r"may not write to org/birds \(403\)"),
        (TOKEN, "nobody/birds", r"has no nobody/birds that the token may see \(404\)"),
    ],
)
def test_nothing_is_uploaded_where_the_hub_refuses(hub, model_folder, monkeypatch, token, repo_id, message):
    checked = []
    monkeypatch.setattr("dedn_hf.hub.push.check_loading", checked.append)
    hub.add_token("hf_stranger", "stranger")
    hub.add_token("hf_reader", "ada", organizations=["org"], write=False)
    with pytest.raises(PublishingError, match=message) as refusal:
        push_to_hub(model_folder, repo_id, api=HfApi(endpoint=hub.endpoint, token=token))
    assert "\n" not in str(refusal.value) and token not in str(refusal.value)
    assert checked == [model_folder] and not uploads(hub) and not hub.repositories


def test_a_repository_of_others_is_not_written_to(hub, model_folder, monkeypatch):
    monkeypatch.setattr("dedn_hf.hub.push.check_loading", lambda folder: None)
    hub.add_token("hf_stranger", "stranger")
    HfApi(endpoint=hub.endpoint, token="hf_stranger").create_repo("stranger/birds")
    with pytest.raises(PublishingError, match=r"may not write to stranger/birds \(403\)"):
        push_to_hub(model_folder, "stranger/birds", api=HfApi(endpoint=hub.endpoint, token=TOKEN))
    assert not uploads(hub)


@pytest.fixture
def no_check(monkeypatch):
    def check(folder):
        raise AssertionError("was loaded although the Hub was not asked first")

    monkeypatch.setattr("dedn_hf.hub.push.check_loading", check)


def test_a_public_repository_does_not_take_a_private_model(api, hub, model_folder, no_check):
    api.create_repo("org/birds")
    with pytest.raises(PublishingError, match="org/birds exists and is public"):
        push_to_hub(model_folder, "org/birds", private=True, api=api)
    assert not uploads(hub)


def test_a_repository_id_that_cannot_be(api, hub, model_folder, no_check):
    with pytest.raises(PublishingError, match=r"Repo id must be in the form .*: 'org/birds/dedn'"):
        push_to_hub(model_folder, "org/birds/dedn", api=api)
    assert not hub.requests


def test_a_hub_that_is_out_of_order(api, hub, model_folder, no_check):
    hub.out_of_order = True
    with pytest.raises(PublishingError, match="answered 503: The Hub is being repaired"):
        push_to_hub(model_folder, "org/birds", api=api)


def test_a_wrong_token_is_told_in_one_line_before_anything_else(hub, model_folder, no_check):
    wrong = "hf_" + "wrong" * 6
    with pytest.raises(PublishingError, match=r"does not accept the token \(401\)") as refusal:
        push_to_hub(model_folder, "org/birds", api=HfApi(endpoint=hub.endpoint, token=wrong))
    assert "\n" not in str(refusal.value) and wrong not in str(refusal.value)
    assert hub.requests == ["GET /api/whoami-v2"]


def test_no_token(hub, model_folder, no_check, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PublishingError, match="no access token: log in with `hf auth login`"):
        push_to_hub(model_folder, "org/birds", api=HfApi(endpoint=hub.endpoint))


def test_a_hub_that_cannot_be_reached(hub, model_folder, no_check, monkeypatch):
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(PublishingError, match=r"127\.0\.0\.1:9 cannot be reached"):
        push_to_hub(model_folder, "org/birds", api=nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="offline mode is enabled"):
        push_to_hub(model_folder, "org/birds", api=nowhere)


# What goes


def test_only_the_model_goes(model_folder):
    before = set(files_to_push(model_folder))
    for name in ("seed_0/model.safetensors", "unfinished/final/model.safetensors", "checkpoint-3/config.json"):
        (model_folder / name).parent.mkdir(parents=True)
        (model_folder / name).write_bytes(b"0")
    for name in (
        "optimizer.pt",
        "optimizer.safetensors",
        "rng_state.pth",
        "training_args.bin",
        "pytorch_model.bin",
        "weights.pkl",
        "trainer_state.json",
        "config.json.tmp",
        ".env",
        "bird.jpg",
    ):
        (model_folder / name).write_bytes(b"0")
    assert set(files_to_push(model_folder)) == before
    for name in ("results.json", "training_log.json", "curve.png", "LICENSE"):
        (model_folder / name).write_text("{}")
        before.add(name)
    files = files_to_push(model_folder)
    assert set(files) == before and files["LICENSE"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "config.json",
        "configuration_dedn.py",
        "model.safetensors",
        "modeling_dedn.py",
        "pipeline_dedn.py",
        "preprocessor_config.json",
    ],
)
def test_an_incomplete_folder_is_refused(model_folder, name):
    (model_folder / name).unlink()
    with pytest.raises(PublishingError, match=f"is not complete, it has no {re.escape(name)}"):
        files_to_push(model_folder)


def test_a_missing_shard_and_a_missing_pipeline_are_named(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    change_config(model_folder, lambda config: config.update(custom_pipelines={"task": {"impl": "pipes.Pipe"}}))
    with pytest.raises(PublishingError, match=r"it has no model-00002-of-00002.safetensors, pipes.py"):
        files_to_push(model_folder)


def test_a_folder_without_remote_code_or_with_others_is_refused(model_folder):
    change_config(model_folder, lambda config: config["auto_map"].update(AutoModel="org/birds--modeling.Dedn"))
    with pytest.raises(PublishingError, match="code from another repository"):
        files_to_push(model_folder)
    change_config(model_folder, lambda config: config.pop("auto_map"))
    with pytest.raises(PublishingError, match="no `auto_map`"):
        files_to_push(model_folder)
    with pytest.raises(PublishingError, match="There is no folder"):
        files_to_push(model_folder / "nowhere")


def test_tokens_and_paths_of_this_machine_do_not_go(model_folder):
    change_config(model_folder, lambda config: config["backbone_config"].update(_name_or_path="/home/ada/resnet"))
    with pytest.raises(PublishingError, match=r"a path of this machine, /home/ada/resnet"):
        files_to_push(model_folder)
    change_config(model_folder, lambda config: config["backbone_config"].update(_name_or_path="org/resnet"))
    files_to_push(model_folder)
    (model_folder / "results.json").write_text(json.dumps({"command": f"python train.py --hub_token {TOKEN}"}))
    with pytest.raises(PublishingError, match=r"results.json holds what looks like an access token") as refusal:
        files_to_push(model_folder)
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize(
    "card, message",
    [
        ("# A model", "have no license, library_name, pipeline_tag, tags"),
        ("---\nlicense: [\n---\n# A model", "README.md: while parsing a flow node"),
        ("---\nlicense: mit\nlibrary_name: x\npipeline_tag: x\ntags: [x]\n---\n# {{ name }}", "holds '{{'"),
    ],
)
def test_a_card_that_the_hub_would_not_take(model_folder, card, message):
    (model_folder / "README.md").write_text(card)
    with pytest.raises(PublishingError, match=re.escape(message)):
        files_to_push(model_folder)


# Loading


def test_the_check_comes_before_anything_is_made_on_the_hub(api, hub, model_folder):
    code = model_folder / "modeling_dedn.py"
    code.write_text(code.read_text().replace("import math", "import math\nimport dedn_hf"))
    with pytest.raises(PublishingError, match=r"does not load without this package: .*dedn_hf") as refusal:
        push_to_hub(model_folder, "org/birds", api=api)
    assert "\n" not in str(refusal.value) and not hub.repositories


def test_code_that_the_model_imports_must_be_there(model_folder):
    (model_folder / "attentive_pooling_dedn.py").unlink()
    with pytest.raises(PublishingError, match=r"does not load without this package: .*attentive_pooling_dedn"):
        check_loading(model_folder)


def test_a_model_over_feature_maps_loads_too(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    report = check_loading(tmp_path / "model")
    assert report.items() >= {"classes": 5, "attributes": 7, "takes": "feature_map"}.items()
    assert report["parameters"] == tiny_model.num_parameters()


def _nan(state):
    state["coarse_expert.heads.0.region_value.weight"][0, 0] = float("nan")


def _undescribed(state):
    state["class_attributes"] = torch.zeros_like(state["class_attributes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (_nan, "region_value.weight holds values that are not finite"),
        (_undescribed, "classes have no attributes at all"),
        (lambda state: state.pop("fine_expert.heads.1.word_vectors"), r"missing_keys \['fine_expert.heads.1.word_v"),
    ],
)
def test_damaged_weights(model_folder, change, message):
    change_weights(model_folder, change)
    with pytest.raises(PublishingError, match=f"does not load without this package: .*{message}"):
        check_loading(model_folder)


@pytest.mark.slow
def test_half_precision_is_not_published(model_folder):
    change_config(model_folder, lambda config: config.update(dtype="float16"))
    with pytest.raises(PublishingError, match=r"is torch.float16; publish float32"):
        check_loading(model_folder)
