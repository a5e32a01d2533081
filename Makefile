# `make demo`: set up, show what the loss saves, train a small CLIP with it. `make test`: set up, run every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.installed
NATIVE := $(wildcard csrc/*/*)

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

# The peers that the tests compare with come without their dependencies, which would replace torch by a CUDA build; what
# they need besides torch follows. torchvision 0.28 is the release for torch 2.13. The tests skip where a peer is absent.
# torch comes first and alone: the extension is built against it, without build isolation, which would download it again.
$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy "setuptools>=77" wheel ninja
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps open_clip_torch timm "torchvision==0.28.*" openai-clip \
		pytorch-lightning lightning-utilities torchmetrics
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ftfy regex tqdm safetensors sentencepiece "transformers>=5" \
		"sentence-transformers[train]>=6" pandas webdataset
	touch $(STAMP)

demo: setup
	$(BIN)/python -m clipfast demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two test files at a time; `python -m pytest` alone runs one after another. Threads that wait must not spin beside others.
test: lint
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

bench: setup
	$(BIN)/python -m clipfast bench --sizes 1024,4096,8192,16384 --json benchmarks/results/latest.json --plot benchmarks/results/latest.png

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache clipfast/compute/*.so
