"""Publishing a model folder on the Hub, as one commit, after it was checked."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, validate_repo_id

from ..files import read_json
from .model_card import UNKNOWN_NAMESPACE, validate_model_card

LOADING_CHECK = Path(__file__).with_name("loading_check.py")
# Everything else stays: checkpoints, optimizer states, pickles, temporary files, and all folders.
PUBLISHED_FILES = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "results.json",
    "training_log.json",
    "*.py",
    "*.md",
    "*.png",
    "LICENSE*",
)
# Their text is shown to everybody, so it is searched for what must not be.
_TEXT = (".json", ".py", ".md")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


class PublishingError(ValueError):
    """What stands in the way of publishing a model, and the way out, in one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def files_to_push(folder: str | os.PathLike) -> dict[str, int]:
    """
    What of a model folder goes to the Hub.

    Args:
        folder (`str` or `os.PathLike`):
            A folder that training or `save_pretrained` has written.

    Returns:
        `dict[str, int]`: file name → size in bytes. Folders and files that are no part of a model stay behind.

    Raises:
        PublishingError: If a file is missing that a model on the Hub needs, a text holds a token or a path of this
            machine, or the model card would not be taken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishingError(f"There is no folder {folder}. Name one that training or `save_pretrained` has written.")
    files = {
        file.name: file.stat().st_size
        for file in sorted(folder.iterdir())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in PUBLISHED_FILES)
    }
    _check_complete(folder, files)
    for name in files:
        if name.endswith(_TEXT) and _TOKEN.search((folder / name).read_text(encoding="utf-8")):
            raise PublishingError(f"{folder / name} holds what looks like an access token. Remove it, and revoke it.")
    try:
        validate_model_card(ModelCard.load(folder / "README.md"))
    except (ValueError, yaml.YAMLError) as error:
        raise PublishingError(f"{folder / 'README.md'}: {error}") from error
    return files


def _check_complete(folder: Path, files: dict[str, int]):
    missing = [name for name in ("config.json", "README.md") if name not in files]
    if "model.safetensors.index.json" in files:
        index = read_json(folder / "model.safetensors.index.json")
        missing += sorted(set(index["weight_map"].values()) - set(files))
    elif "model.safetensors" not in files:
        missing.append("model.safetensors")
    if "config.json" in files:
        config = read_json(folder / "config.json")
        if "AutoConfig" not in config.get("auto_map", {}) or "AutoModel" not in config.get("auto_map", {}):
            raise PublishingError(
                f"{folder / 'config.json'} has no `auto_map` for AutoConfig and AutoModel, so that nobody could load "
                "the model without this package. Save it with `DednModel.save_pretrained`."
            )
        references = [*config["auto_map"].values()]
        references += [task["impl"] for task in (config.get("custom_pipelines") or {}).values()]
        elsewhere = [reference for reference in references if "--" in reference]
        if elsewhere:
            raise PublishingError(
                f"{folder / 'config.json'} takes its code from another repository: {elsewhere}. Load the model and "
                "save it again with `save_pretrained`, which puts the code beside it."
            )
        missing += sorted({reference.split(".")[0] + ".py" for reference in references} - set(files))
        backbone = config.get("backbone_config")
        if backbone is not None and not {"preprocessor_config.json", "processor_config.json"} & set(files):
            missing.append("preprocessor_config.json")
        if os.path.isabs((backbone or {}).get("_name_or_path") or ""):
            raise PublishingError(
                f"{folder / 'config.json'} names a path of this machine, {backbone['_name_or_path']}, as "
                "`_name_or_path` of `backbone_config`. Remove that line."
            )
    if missing:
        raise PublishingError(
            f"{folder} is not complete, it has no {', '.join(missing)}. Write the model with `save_pretrained`, the "
            "image processor with its own, and the card with `render_model_card`."
        )


def check_loading(folder: str | os.PathLike) -> dict:
    """
    Loads a model folder in a process of its own in which this package cannot be imported, offline and with an empty
    cache, and runs it on zeros.

    Args:
        folder (`str` or `os.PathLike`):
            The model folder. The code in it is run.

    Returns:
        `dict`: `parameters`, `classes`, `attributes`, what the model `takes`, and its `pipelines`.

    Raises:
        PublishingError: If it does not load or does not work; says why.
    """
    with tempfile.TemporaryDirectory() as home:
        hidden = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_MODULES_CACHE")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        process = subprocess.run(
            # -P: else the check's own folder, which is this package's, would be searched for modules.
            [sys.executable, "-P", str(LOADING_CHECK), str(Path(folder).resolve())],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode != 0:
        *_, reason = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise PublishingError(f"{folder} does not load without this package: {reason}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    api: HfApi | None = None,
) -> CommitInfo:
    """
    Publishes a model folder in one commit. Nothing is uploaded, and no repository made, before it was checked.

    The token is the one of `hf auth login` or the environment variable `HF_TOKEN`.

    Args:
        folder (`str` or `os.PathLike`):
            The model folder, see [`files_to_push`].
        repo_id (`str`):
            `"namespace/name"`; a name alone is in the namespace of the token's owner. Made if it does not exist.
        private (`bool`, *optional*, defaults to `False`):
            Whether nobody else may see it.
        revision (`str`, *optional*, defaults to `"main"`):
            The branch to commit to; made if it does not exist.
        api (`HfApi`, *optional*):
            The Hub, for one that is not the default.

    Returns:
        `CommitInfo`: its `oid` is what to load as `revision`.

    Raises:
        PublishingError: If the folder does not pass the checks, the Hub cannot be reached, or it refuses.
    """
    folder, api = Path(folder), api or HfApi()
    files = files_to_push(folder)
    with _hub_errors_in_one_line(api, repo_id):
        validate_repo_id(repo_id)
        owner = api.whoami()["name"]
        if "/" not in repo_id:
            repo_id = f"{owner}/{repo_id}"
        exists = api.repo_exists(repo_id)
        if private and exists and not api.model_info(repo_id).private:
            raise PublishingError(
                f"{repo_id} exists and is public, so that --private cannot be kept. Choose another --repo_id, or make "
                "it private in its settings first."
            )
    check_loading(folder)
    with _hub_errors_in_one_line(api, repo_id):
        if not exists:
            api.create_repo(repo_id, private=private or None)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # Not upload_folder, which may make several commits.
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, _content(folder / name, repo_id)) for name in files],
            commit_message="Upload DEDN model",
            revision=revision,
        )


def _content(file: Path, repo_id: str) -> Path | bytes:
    if file.name != "README.md":
        return file
    card = file.read_text(encoding="utf-8")
    return re.sub(rf"\b{UNKNOWN_NAMESPACE}/[\w.-]+", repo_id, card).encode()


@contextlib.contextmanager
def _hub_errors_in_one_line(api: HfApi, repo_id: str):
    try:
        yield
    except PublishingError:
        raise
    except LocalTokenNotFoundError as error:
        raise PublishingError("There is no access token: log in with `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            message = (
                f"{api.endpoint} does not accept the token (401). Make one that may write at "
                f"{api.endpoint}/settings/tokens, then `hf auth login`, or set HF_TOKEN."
            )
        elif status == 403:
            message = f"The token may not write to {repo_id} (403). Use one that may, or a --repo_id of your own."
        elif status == 404:
            message = f"{api.endpoint} has no {repo_id} that the token may see (404). Check the --repo_id."
        else:
            message = f"{api.endpoint} answered {status}: {error.server_message or error.response.reason_phrase}"
        raise PublishingError(message) from error
    except (httpx.TransportError, OfflineModeIsEnabled) as error:
        raise PublishingError(f"{api.endpoint} cannot be reached: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise PublishingError(f"{error} {error.__cause__ or ''}") from error
