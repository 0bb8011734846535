"""DEDN, the Dual Expert Distillation Network, for generalized zero-shot learning with Hugging Face libraries."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from .configuration_dedn import DednConfig
from .modeling_dedn import DednModel, DednOutput

AutoConfig.register("dedn", DednConfig)
AutoModel.register(DednConfig, DednModel)
AutoModelForZeroShotImageClassification.register(DednConfig, DednModel)

__version__ = "0.1.0"
__all__ = ["DednConfig", "DednModel", "DednOutput"]
