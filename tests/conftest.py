"""Fixtures for all tests; pytest also puts this folder on the path, so that tests can import its helpers."""

import os

# Before transformers is imported: no test may depend on the internet.
os.environ["HF_HUB_OFFLINE"] = "1"
# As a command does where nobody watches.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import gc
from functools import partial
from pathlib import Path

import pytest
from command_line import run_command
from launching import launch_script, pretend_speeds
from tiny_model import make_tiny_config, make_tiny_model

from dedn_hf import DednConfig, DednModel


@pytest.fixture(autouse=True, scope="session")
def _short_garbage_collection():
    # The Trainer collects garbage when it starts, which takes half a second over all that is imported.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _own_assets(tmp_path_factory):
    """What is known of decoded images is not kept beyond the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", tmp_path_factory.mktemp("assets"))
        yield


@pytest.fixture(autouse=True)
def speeds(monkeypatch) -> dict:
    """What the machine says of bfloat16, for no test to depend on it, see [`pretend_speeds`]."""
    speeds = {"native": False, "float32": 10.0, "bfloat16": 10.0, "timed": []}
    pretend_speeds(speeds, monkeypatch.setattr)
    return speeds


@pytest.fixture(autouse=True)
def allocator_as_it_is(monkeypatch):
    """What a command does to its process would change what later tests measure."""
    monkeypatch.setattr("dedn_hf.cli.keep_freed_memory", lambda: None)


@pytest.fixture
def dedn(capsys, monkeypatch):
    """Runs a command, see [`run_command`]."""
    return partial(run_command, capsys, monkeypatch)


@pytest.fixture
def tiny_config() -> DednConfig:
    return make_tiny_config()


@pytest.fixture
def tiny_model() -> DednModel:
    return make_tiny_model()


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """Skips where two processes cannot talk to each other at all, by torch's own means."""
    try:
        launch_script(
            Path(__file__).with_name("all_reduce.py"),
            num_processes=2,
            folder=tmp_path_factory.mktemp("two_processes"),
            timeout=120,
        )
    except AssertionError as error:
        pytest.skip(f"two processes cannot talk to each other on this machine: {error}")
