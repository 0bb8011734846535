# Two commands for a fresh machine with Python ≥ 3.11: `make demo` and `make test`.
PYTHON ?= python3
# Torch goes in first. For the smaller CPU-only build on Linux:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN = .venv/bin
OUTPUT = outputs/synthetic_birds

.PHONY: demo test test-all test-demo test-timm lint format clean

# With PHOTO=photo.jpg the last lines name the bird of a photo, too, by the model that comes with the package.
demo: .venv/installed
	@test -z '$(PHOTO)' || test -f '$(PHOTO)' || { echo 'error: there is no photo PHOTO=$(PHOTO)' >&2; exit 2; }
	$(BIN)/dedn train --output_dir $(OUTPUT) --overwrite_output_dir
	$(BIN)/dedn evaluate --model $(OUTPUT) --dataset synthetic_birds --output_dir $(OUTPUT)/evaluation
	$(BIN)/dedn explain --model $(OUTPUT) --dataset synthetic_birds --split test_unseen --index 200 \
		--output $(OUTPUT)/evaluation/explanation.png
	@echo
	@if test -n '$(PHOTO)'; then $(BIN)/dedn predict '$(PHOTO)' --attributes 5; \
	else echo 'And a bird on a photo of yours: $(BIN)/dedn predict photo.jpg, or make demo PHOTO=photo.jpg'; fi

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

# The slow tests and those on real CUB (skipped where it is not found), too.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "slow or real_data or not slow"

# timm backbones, in an environment of their own: 5 GB.
test-timm: .venv-timm/installed
	OMP_NUM_THREADS=1 .venv-timm/bin/pytest tests/test_timm.py tests/test_backbone_dedn.py tests/features/test_extraction.py

# The page of `dedn demo` in a browser, in an environment of its own: Gradio takes no Pillow 13 and no tomlkit 0.15 yet.
test-demo: .venv-demo/installed
	OMP_NUM_THREADS=1 .venv-demo/bin/pytest -m "slow or not slow" tests/test_demo.py tests/test_demo_page.py \
		tests/test_demo_attacks.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-demo .venv-timm

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 …')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

.venv-demo/installed: pyproject.toml constraints.txt
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet $(TORCH)
	sed 's/^pillow==.*/pillow==12.3.0/; s/^tomlkit==.*/tomlkit==0.14.0/' constraints.txt > .venv-demo/constraints.txt
	.venv-demo/bin/python -m pip install --quiet --constraint .venv-demo/constraints.txt --editable ".[demo]" \
		'playwright>=1.50' 'pytest>=8' 'pytest-timeout>=2.4'
	touch $@

# PyPI's torchvision goes with PyPI's own torch: with === it is that one, and no CPU build of the same version.
.venv-timm/installed: pyproject.toml constraints.txt
	test -x .venv-timm/bin/python || $(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet torch===2.13.0
	.venv-timm/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test,timm]"
	touch $@
