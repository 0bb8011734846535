# Two commands for a fresh machine with Python ≥ 3.11: `make demo` and `make test`.
PYTHON ?= python3
# Torch goes in first. For the smaller CPU-only build on Linux:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN = .venv/bin
OUTPUT = outputs/synthetic_birds

.PHONY: demo default-model test test-all test-timm lint format clean

demo: .venv/installed
	$(BIN)/dedn train --output_dir $(OUTPUT) --overwrite_output_dir
	$(BIN)/dedn evaluate --model $(OUTPUT) --dataset synthetic_birds --output_dir $(OUTPUT)/evaluation
	$(BIN)/dedn explain --model $(OUTPUT) --dataset synthetic_birds --split test_unseen --index 200 \
		--output $(OUTPUT)/evaluation/explanation.png

# The demo's model becomes the one that travels with the package, and its figures those of its card.
default-model: demo
	cp $(OUTPUT)/config.json $(OUTPUT)/model.safetensors $(OUTPUT)/preprocessor_config.json src/dedn_hf/default_model/
	cp $(OUTPUT)/results.json model_cards/results/synthetic-birds.json
	cp $(OUTPUT)/evaluation/explanation.png docs/explanation.png
	$(BIN)/python scripts/lab/render_model_cards.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

# The slow tests and those on real CUB (skipped where it is not found), too.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "slow or real_data or not slow"

# timm backbones, in an environment of their own: 5 GB.
test-timm: .venv-timm/installed
	OMP_NUM_THREADS=1 .venv-timm/bin/pytest tests/test_timm.py tests/test_backbone_dedn.py tests/features/test_extraction.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-timm

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 …')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# PyPI's torchvision goes with PyPI's own torch: with === it is that one, and no CPU build of the same version.
.venv-timm/installed: pyproject.toml constraints.txt
	test -x .venv-timm/bin/python || $(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet torch===2.13.0
	.venv-timm/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test,timm]"
	touch $@
