import subprocess
import sys

import pytest

from dedn_hf.registration import DEFAULT_MODEL, TASK

FOLDER = repr(str(DEFAULT_MODEL))
# Neither comes before the other by chance: isort puts dedn_hf first, habit transformers.
BEFORE, AFTER = "import dedn_hf\nfrom transformers import {0}\n", "from transformers import {0}\nimport dedn_hf\n"


def run(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    loaded = run("import sys, dedn_hf; print(*sys.modules)").split()
    for module in ("torch", "transformers", "numpy", "datasets", "evaluate", "matplotlib", "dedn_hf.modeling_dedn"):
        assert module not in loaded


def test_looking_for_a_module_is_not_importing_it():
    code = "import dedn_hf; from importlib.util import find_spec; find_spec('transformers.pipelines'); "
    assert run(code + f"from transformers import pipeline; print(type(pipeline({TASK!r})).__module__)") == (
        "dedn_hf.pipeline_dedn"
    )


@pytest.mark.parametrize("order", [BEFORE, AFTER])
@pytest.mark.parametrize(
    "name, call, expected",
    [
        ("AutoConfig", f"AutoConfig.from_pretrained({FOLDER})", "configuration_dedn"),
        ("AutoModel", f"AutoModel.from_pretrained({FOLDER})", "modeling_dedn"),
        ("pipeline", f"pipeline({TASK!r})", "pipeline_dedn"),
    ],
)
def test_transformers_knows_the_model(order, name, call, expected):
    assert run(order.format(name) + f"print(type({call}).__module__)") == f"dedn_hf.{expected}"


@pytest.mark.parametrize("module", ["dedn_hf.configuration_dedn", "dedn_hf.modeling_dedn", "dedn_hf.pipeline_dedn"])
def test_whichever_module_is_imported_first(module):
    """Each of them imports the registry that waits for it."""
    code = f"import {module}; from transformers import pipeline; print(type(pipeline({TASK!r}).model).__name__)"
    assert run(code) == "DednModel"


def test_a_saved_model_takes_its_code_along(tmp_path):
    run(f"import dedn_hf; dedn_hf.DednModel.from_pretrained({FOLDER}).save_pretrained({str(tmp_path)!r})")
    saved = {file.name for file in tmp_path.glob("*.py")}
    names = ("configuration", "attentive_pooling", "modeling", "pipeline")
    assert saved == {f"{name}_dedn.py" for name in names}
