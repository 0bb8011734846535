"""What makes `AutoModel` and `pipeline` know the model once this package is imported, whichever is imported first."""

import sys
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

DEFAULT_MODEL = Path(__file__).with_name("default_model")
TASK = "zero-shot-attribute-classification"


def _register_config():
    from transformers import AutoConfig

    from .configuration_dedn import DednConfig

    AutoConfig.register("dedn", DednConfig)
    # Saving then copies the files that define them, for `trust_remote_code=True` where this package is not installed.
    DednConfig.register_for_auto_class()


def _register_model():
    from transformers import AutoModel, AutoModelForImageClassification, AutoModelForZeroShotImageClassification

    from .modeling_dedn import DednConfig, DednModel

    for auto_class in (AutoModel, AutoModelForImageClassification, AutoModelForZeroShotImageClassification):
        auto_class.register(DednConfig, DednModel)
    DednModel.register_for_auto_class("AutoModel")


class _NoTokenizer:
    """What `AutoTokenizer` finds: `pipeline("zero-shot-image-classification", model=…)` asks for one first of all."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        raise ValueError(
            f"{pretrained_model_name_or_path} has no tokenizer, for a DednModel reads no text: its classes are "
            f'described by attributes. For a pipeline, write `pipeline("{TASK}", model=…)`.'
        )


def _register_tokenizer():
    from transformers import AutoTokenizer

    from .configuration_dedn import DednConfig

    AutoTokenizer.register(DednConfig, _NoTokenizer)


def _register_pipeline():
    from transformers import AutoModelForZeroShotImageClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipeline_dedn import ZeroShotAttributeClassificationPipeline

    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ZeroShotAttributeClassificationPipeline,
        pt_model=AutoModelForZeroShotImageClassification,
        default={"model": (str(DEFAULT_MODEL), None)},
    )


# Module of transformers that has a registry, how something of ours is registered there, and modules of ours that this
# imports and that import transformers themselves.
_REGISTRATIONS = (
    ("transformers.models.auto.configuration_auto", _register_config, "dedn_hf.configuration_dedn"),
    ("transformers.models.auto.modeling_auto", _register_model, "dedn_hf.modeling_dedn", "dedn_hf.backbone_dedn"),
    ("transformers.models.auto.tokenization_auto", _register_tokenizer, "dedn_hf.configuration_dedn"),
    ("transformers.pipelines", _register_pipeline, "dedn_hf.pipeline_dedn"),
)


class _AfterImport(MetaPathFinder):
    """Registers as soon as a registry is imported; if one of ours is what imports it, once that is imported, too."""

    def __init__(self):
        self.running, self.registered = set(), set()

    def find_spec(self, name, path=None, target=None):
        if name in self.running or not any(name in (theirs, *ours) for theirs, _, *ours in _REGISTRATIONS):
            return None
        with self._running(name):  # else the search would come back here
            spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_register(module):
            with self._running(name):
                execute(module)
            self.register()

        spec.loader.exec_module = execute_and_register
        return spec

    @contextmanager
    def _running(self, name: str):
        self.running.add(name)
        try:
            yield
        finally:
            self.running.discard(name)

    def register(self):
        for theirs, register, *ours in _REGISTRATIONS:
            ready = theirs in sys.modules and not {theirs, *ours} & self.running
            if ready and theirs not in self.registered:
                self.registered.add(theirs)
                register()


def register_when_transformers_is_imported():
    """Registers the model and its pipeline now where transformers is imported already, else as soon as it is."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()
