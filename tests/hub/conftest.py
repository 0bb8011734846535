import pytest
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from model_folder import TOKEN, make_model_folder


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process may use, where ada may write to her own namespace and to org's."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LoopbackHub() as hub:
        hub.add_token(TOKEN, "ada", organizations=["org"])
        yield hub


@pytest.fixture
def model_folder(tmp_path):
    return make_model_folder(tmp_path / "model")
