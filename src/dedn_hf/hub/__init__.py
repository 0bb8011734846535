"""Publishing: model cards, and the way to the Hub."""

from .model_card import render_model_card, save_model_card, validate_model_card, write_model_card
from .push import PublishingError, check_loading, files_to_push, push_to_hub

__all__ = [
    "PublishingError",
    "check_loading",
    "files_to_push",
    "push_to_hub",
    "render_model_card",
    "save_model_card",
    "validate_model_card",
    "write_model_card",
]
