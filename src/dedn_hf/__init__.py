"""
DEDN, the Dual Expert Distillation Network, for generalized zero-shot learning with Hugging Face libraries.

Importing this package makes transformers know the model and its pipeline. It imports neither transformers nor torch by
itself: a command's `--help` does not wait for them.
"""

from importlib import import_module
from importlib.metadata import version

from .registration import register_when_transformers_is_imported

__version__ = version("dedn-hf")

# Imported when they are first asked for.
_LAZY = {
    "DednConfig": ".configuration_dedn",
    "DednModel": ".modeling_dedn",
    "DednOutput": ".modeling_dedn",
    "DednPrediction": ".modeling_dedn",
    "DednTrainer": ".training",
    "DednTrainingArguments": ".training",
    "ZeroShotAttributeClassificationPipeline": ".pipeline_dedn",
    "load_gzsl_dataset": ".data",
}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


register_when_transformers_is_imported()

__all__ = list(_LAZY)
