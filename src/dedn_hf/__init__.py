"""DEDN, the Dual Expert Distillation Network, for generalized zero-shot learning with Hugging Face libraries."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from .configuration_dedn import DednConfig
from .modeling_dedn import DednModel, DednOutput

AutoConfig.register("dedn", DednConfig)
AutoModel.register(DednConfig, DednModel)
AutoModelForZeroShotImageClassification.register(DednConfig, DednModel)

# Saving then copies the files that define them, for `trust_remote_code=True` where this package is not installed.
DednConfig.register_for_auto_class()
DednModel.register_for_auto_class("AutoModel")

__version__ = "0.1.0"
__all__ = ["DednConfig", "DednModel", "DednOutput"]
