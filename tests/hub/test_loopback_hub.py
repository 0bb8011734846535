"""The test server answers huggingface_hub as the Hub does, so that tests against it mean something."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from model_folder import TOKEN

WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def sha(api):
    api.create_repo("org/birds", private=True)
    files = {"model.safetensors": WEIGHTS, "config.json": b"{}", "notes/a.md": b"a"}
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit("org/birds", operations, commit_message="first").oid


def download(hub, tmp_path, name, **kwargs):
    arguments = {"endpoint": hub.endpoint, "token": TOKEN, "cache_dir": tmp_path / "cache"} | kwargs
    with open(hf_hub_download("org/birds", name, **arguments), "rb") as file:
        return file.read()


def test_what_is_committed_can_be_listed_and_downloaded(api, hub, sha, tmp_path):
    assert download(hub, tmp_path, "model.safetensors", revision=sha) == WEIGHTS
    assert download(hub, tmp_path, "notes/a.md") == b"a"
    assert api.model_info("org/birds").sha == sha and api.model_info("org/birds").private
    tree = {entry.path: entry for entry in api.list_repo_tree("org/birds")}
    assert set(tree) == {".gitattributes", "config.json", "model.safetensors", "notes"}
    assert tree["model.safetensors"].lfs.size == len(WEIGHTS) and tree["config.json"].lfs is None
    assert "notes/a.md" in {entry.path for entry in api.list_repo_tree("org/birds", recursive=True)}
    assert [branch.name for branch in api.list_repo_refs("org/birds").branches] == ["main"]


def test_an_interrupted_download_goes_on_by_range(hub, sha, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what is kept of a download is whole chunks
    hub.interrupt_next_download = True
    assert download(hub, tmp_path, "model.safetensors") == WEIGHTS
    (requested,) = hub.ranges
    assert requested == f"bytes={len(WEIGHTS) // 2}-"


def test_the_same_content_is_neither_uploaded_nor_committed_twice(api, hub, sha):
    hub.requests.clear()
    operations = [CommitOperationAdd("model.safetensors", WEIGHTS), CommitOperationAdd("config.json", b"{}")]
    assert api.create_commit("org/birds", operations, commit_message="again").oid == sha
    assert not any("/commit/" in request or request.startswith("PUT") for request in hub.requests)


def test_branches_are_apart(api, hub, sha, tmp_path):
    api.create_branch("org/birds", branch="v1/tests")
    commit = api.create_commit(
        "org/birds", [CommitOperationAdd("config.json", b"[]")], commit_message="second", revision="v1/tests"
    )
    assert download(hub, tmp_path, "config.json", revision="v1/tests") == b"[]"
    assert download(hub, tmp_path, "config.json", revision=commit.oid) == b"[]"
    assert download(hub, tmp_path, "config.json") == b"{}"


def test_refusals_are_the_hubs(api, hub, sha, tmp_path):
    with pytest.raises(RemoteEntryNotFoundError):
        download(hub, tmp_path, "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        download(hub, tmp_path, "config.json", revision="0" * 40)
    with pytest.raises((RepositoryNotFoundError, LocalEntryNotFoundError)):
        download(hub, tmp_path, "config.json", token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/fishes")
    hub.add_token("hf_stranger", "stranger")
    hub.add_token("hf_reader", "ada", organizations=["org"], write=False)
    for token, repo_id, status in (
        ("hf_" + "x" * 30, "ada/birds", 401),
        (TOKEN, "stranger/birds", 403),
        ("hf_reader", "ada/birds", 403),
        (TOKEN, "nobody/birds", 404),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            HfApi(endpoint=hub.endpoint, token=token).create_repo(repo_id)
        assert refusal.value.response.status_code == status
    with pytest.raises(ValueError, match="license"):
        api.create_commit(
            "org/birds", [CommitOperationAdd("README.md", b"---\nlicense: mine\n---\n")], commit_message="card"
        )
