import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dedn_hf.evaluation
from dedn_hf.evaluation import gzsl_metrics

MODULE = Path(dedn_hf.evaluation.__file__).with_name("gzsl_accuracy.py")

# Run apart from this process: an empty cache, the hub switched off, and no connection allowed.
SCRIPT = """
import json
import socket
import sys

def refuse(*args, **kwargs):
    raise OSError("this test has no network")

socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse

import evaluate
import numpy as np

metric = evaluate.load(sys.argv[1])
stored = np.load(sys.argv[2])
logits, labels, seen = stored["logits"], stored["labels"], stored["seen"].tolist()
at_once = metric.compute(predictions=logits, references=labels, seen_class_ids=seen)
calibrated = metric.compute(predictions=logits, references=labels, seen_class_ids=seen, calibration=0.7)
for start in range(0, len(labels), 7):
    metric.add_batch(predictions=logits[start : start + 7], references=labels[start : start + 7])
in_batches = metric.compute(seen_class_ids=seen, calibration=0.7)
scores = [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [0.0, 2.0, 1.0]]
example = metric.compute(predictions=scores, references=[0, 1, 2, 2], seen_class_ids=[0, 1])
try:
    metric.compute(predictions=logits, references=labels)
    missing = ""
except TypeError as error:
    missing = str(error)
texts = [metric.description, metric.citation, metric.inputs_description]
print(json.dumps([at_once, calibrated, in_batches, example, missing, texts]))
"""


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 40)
    return generator.normal(size=(40, 5)) + np.eye(5)[labels], labels, [0, 1, 4]


def test_loads_offline_and_agrees_with_the_functions(problem, tmp_path):
    logits, labels, seen = problem
    np.savez(tmp_path / "problem.npz", logits=logits, labels=labels, seen=seen)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MODULE), str(tmp_path / "problem.npz")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    at_once, calibrated, in_batches, example, missing, texts = json.loads(result.stdout.splitlines()[-1])
    assert at_once == pytest.approx(gzsl_metrics(logits, labels, seen))
    assert calibrated == in_batches == pytest.approx(gzsl_metrics(logits, labels, seen, calibration=0.7))
    assert calibrated != at_once
    # The example of the docstring.
    assert example == {"T1": 100.0, "U": 50.0, "S": 100.0, "H": 66.66666666666667}
    assert "seen_class_ids" in missing
    description, citation, inputs = texts
    assert "seen" in description and "xian2019zero" in citation and "seen_class_ids" in inputs


def test_module_has_one_import_a_line():
    imports = [line for line in MODULE.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert imports and not any("," in line or line.endswith("(") for line in imports)
