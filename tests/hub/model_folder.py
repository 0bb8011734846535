"""A model folder as training leaves it, small enough to be pushed in tests."""

import torch
from tiny_model import make_tiny_model
from transformers import CLIPImageProcessorPil, ResNetConfig

from dedn_hf.hub import render_model_card, save_model_card

TOKEN = "hf_" + "a1B2c3D4" * 4


def make_model_folder(folder):
    """A model that takes images of 24 × 24 pixels, its image processor and its card."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    make_tiny_model(backbone_config=backbone).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24).save_pretrained(folder)
    save_model_card(render_model_card(None, "synthetic_birds"), folder / "README.md")
    return folder
