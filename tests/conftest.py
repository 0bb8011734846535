"""Fixtures for all tests; pytest also puts this folder on the path, so that tests can import its helpers."""

import os

# Before transformers is imported: no test may depend on the internet.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from tiny_model import make_tiny_config, make_tiny_model

from dedn_hf import DednConfig, DednModel


@pytest.fixture
def tiny_config() -> DednConfig:
    return make_tiny_config()


@pytest.fixture
def tiny_model() -> DednModel:
    return make_tiny_model()
