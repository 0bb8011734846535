"""The command against a Hub on loopback, and what was published loaded again by somebody without this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import CommandFailed
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from dedn_hf import DednModel

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "hub"))

from loopback_hub import LoopbackHub  # noqa: E402
from model_folder import TOKEN, make_model_folder  # noqa: E402

NEEDED = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
NEEDED |= {
    "answers_dedn.py",
    "configuration_dedn.py",
    "images_dedn.py",
    "attentive_pooling_dedn.py",
    "backbone_dedn.py",
    "candidates_dedn.py",
    "class_fit_dedn.py",
    "modeling_dedn.py",
    "names_dedn.py",
    "pipeline_dedn.py",
    "ranks_dedn.py",
    "words_dedn.py",
}


@pytest.fixture
def model_folder(tmp_path):
    return make_model_folder(tmp_path / "model")


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        hub.add_token(TOKEN, "ada", organizations=["org"])
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Runs Python with an empty HF_HOME and the loopback Hub for the Hub."""

    def run(*arguments, home="home", **environment):
        hidden = ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_MODULES_CACHE")
        clean = {name: value for name, value in os.environ.items() if name not in hidden}
        clean |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / home), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=clean | environment, cwd=tmp_path, capture_output=True, text=True)

    return run


# A clean process: this package cannot be imported, there is no cache and no token. The code in the card is run as
# printed there, but for the commit, the image and the names of attributes.
LOAD_FROM_THE_HUB = """
import sys
sys.modules["dedn_hf"] = None
import json, re
from pathlib import Path
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForZeroShotImageClassification

repo_id, revision, folder = sys.argv[1:]
for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
    model = auto_class.from_pretrained(repo_id, trust_remote_code=True, revision=revision)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
with torch.no_grad():
    logits = model(torch.linspace(-1, 1, 3 * 24 * 24).reshape(1, 3, 24, 24)).logits
save_file({"logits": logits, **model.state_dict()}, Path(folder) / "loaded.safetensors")

codes = re.findall(r"```python\\n(.*?)```", ModelCard.load(repo_id).text, re.DOTALL)
assert len(codes) == 3
scope = {}
for code in codes:
    code = code.replace('revision = "main"', f"revision = {revision!r}").replace("bird.png", f"{folder}/bird.png")
    names = iter(model.config.attribute_names)
    code = re.sub(r'"has_\\w+::\\w+"', lambda _: json.dumps(next(names)), code)
    exec(code, scope)
"""


def test_publish_and_load_without_the_package(run, hub, model_folder, tmp_path):
    (model_folder / "optimizer.pt").write_bytes(b"0")
    push = run(
        "-m",
        "dedn_hf",
        "publish",
        "--model",
        model_folder,
        "--repo_id",
        "org/dedn-birds",
        home="publisher",
        HF_TOKEN=TOKEN,
    )
    assert push.returncode == 0, push.stderr
    (sha,) = set(re.findall(r"\b[0-9a-f]{40}\b", push.stdout))
    repository = hub.repositories["org/dedn-birds"]
    assert repository.branches == {"main": sha} and not repository.private
    assert repository.messages == ["initial commit", "Upload DEDN model"]
    assert set(repository.commits[sha]) == NEEDED | {".gitattributes"}
    assert f"{hub.endpoint}/org/dedn-birds/commit/{sha}" in push.stdout
    assert f'AutoModel.from_pretrained("org/dedn-birds", trust_remote_code=True, revision="{sha}")' in push.stdout

    # The token is nowhere, neither printed nor written.
    assert TOKEN not in push.stdout + push.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [path for path, file in repository.commits[sha].items() if TOKEN.encode() in file.content]

    image = Image.effect_noise((40, 32), 60).convert("RGB")
    image.save(tmp_path / "bird.png")
    load = run("-c", LOAD_FROM_THE_HUB, "org/dedn-birds", sha, tmp_path)
    assert load.returncode == 0, load.stderr
    loaded = load_file(tmp_path / "loaded.safetensors")
    model = DednModel.from_pretrained(model_folder)
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 3 * 24 * 24).reshape(1, 3, 24, 24)).logits
        pixel_values = AutoImageProcessor.from_pretrained(model_folder)(image, return_tensors="pt")["pixel_values"]
        best = model(pixel_values).logits.argmax().item()
    assert torch.equal(loaded.pop("logits"), expected)
    assert set(loaded) == set(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.items())
    name, answers, described = load.stdout.strip().splitlines()
    assert name == model.config.id2label[best]
    assert "attributes" in answers and name in answers and "Garden Lantern" in described


def test_dry_run_lists_what_would_go_and_asks_the_hub_nothing(dedn, hub, model_folder, capsys):
    (model_folder / "seed_0").mkdir()
    (model_folder / "optimizer.pt").write_bytes(b"0")
    dedn("publish", "--model", model_folder, "--repo_id", "org/dedn-birds", "--dry_run")
    out = capsys.readouterr().out
    listed = dict(reversed(line.split("  ")) for line in map(str.strip, out.splitlines()) if re.match(r"\d", line))
    assert set(listed) == NEEDED
    assert listed["config.json"] == f"{(model_folder / 'config.json').stat().st_size / 1e3:.1f} kB"
    assert f"Would go to org/dedn-birds: {len(NEEDED)} files, " in out
    assert "Would stay: optimizer.pt, seed_0/." in out and "takes pixel_values" in out
    assert not hub.requests


def test_a_wrong_token_is_told_in_one_line(run, hub, model_folder):
    wrong = "hf_" + "wrong" * 6
    process = run("-m", "dedn_hf", "publish", "--model", model_folder, "--repo_id", "org/dedn-birds", HF_TOKEN=wrong)
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("error: ") and "does not accept the token (401)" in line
    assert wrong not in line and not hub.repositories


def test_an_incomplete_folder_is_told_in_one_line(dedn, hub, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "a.B", "AutoModel": "a.C"}}))
    with pytest.raises(
        CommandFailed, match=r"error: .* is not complete, it has no README.md, model.safetensors, a.py"
    ):
        dedn("publish", "--model", tmp_path, "--repo_id", "org/dedn-birds")
    assert not hub.requests
