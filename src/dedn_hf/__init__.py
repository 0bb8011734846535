"""DEDN, the Dual Expert Distillation Network, for generalized zero-shot learning with Hugging Face libraries."""

from importlib import import_module
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_dedn import DednConfig
from .modeling_dedn import DednModel, DednOutput, DednPrediction
from .pipeline_dedn import ZeroShotAttributeClassificationPipeline

AutoConfig.register("dedn", DednConfig)
AutoModel.register(DednConfig, DednModel)
AutoModelForZeroShotImageClassification.register(DednConfig, DednModel)
PIPELINE_REGISTRY.register_pipeline(
    "zero-shot-attribute-classification",
    pipeline_class=ZeroShotAttributeClassificationPipeline,
    pt_model=AutoModelForZeroShotImageClassification,
    default={"model": (str(Path(__file__).with_name("default_model")), None)},
)

# Saving then copies the files that define them, for `trust_remote_code=True` where this package is not installed.
DednConfig.register_for_auto_class()
DednModel.register_for_auto_class("AutoModel")

# Imported when they are first asked for, since they need libraries that take long to import.
_LAZY = {"DednTrainer": ".training", "DednTrainingArguments": ".training", "load_gzsl_dataset": ".data"}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__version__ = "0.1.0"
__all__ = [
    "DednConfig",
    "DednModel",
    "DednOutput",
    "DednPrediction",
    "DednTrainer",
    "DednTrainingArguments",
    "ZeroShotAttributeClassificationPipeline",
    "load_gzsl_dataset",
]
