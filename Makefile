# Everything a fresh machine needs is here: `make quickstart` and `make test` make their own environment first.
# Python 3.10 to 3.13 with its venv module is assumed; nothing else is taken from the system.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: quickstart test test-fast test-versions test-torchcodec lint types wheel samples miniature clean

quickstart: $(VENV)/.ready
	$(RUN) examples/quickstart.py

test: $(VENV)/.ready
	$(RUN) -m pytest

# The inner loop: no training, no other processes, no encoding of large media.
test-fast: $(VENV)/.ready
	$(RUN) -m pytest -x -q tests/modules tests/data tests/test_parity.py tests/test_encoding.py \
	    --ignore tests/modules/media --ignore tests/modules/test_media.py

# The decoder objects that `datasets` yields, stock Sentence Transformers and mteb's own wrapper on files: they need
# torchcodec (with torchaudio, for mteb), and that needs FFmpeg (Debian: ffmpeg). Kept apart, so that all other tests show
# that wheels alone suffice.
test-torchcodec: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --no-deps --upgrade --target build/torchcodec "torchcodec>=0.17" torchaudio
	PYTHONPATH=build/torchcodec $(RUN) -m pytest tests/test_torchcodec.py

# What touches upstream, with the lowest versions that setup.cfg admits, and with the newest transformers, for which
# adapters wait on PEFT.
UPSTREAM = tests/test_upstream.py tests/test_parity.py tests/test_published.py tests/modules/test_chat_template.py
NEWEST = transformers==5.24.*

test-versions: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet "uv>=0.9"
	$(VENV)/bin/uv venv --quiet --clear --python $(RUN) build/lowest
	$(VENV)/bin/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct ".[dev]"
	PYTHONPATH=. build/lowest/bin/python -m pytest -q $(UPSTREAM)
	$(VENV)/bin/pip install --quiet --no-deps --upgrade --target build/newest "$(NEWEST)"
	PYTHONPATH=build/newest:. $(RUN) -m pytest -q $(UPSTREAM) -k "not trained_of_it"

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports setup.cfg

types: $(VENV)/.ready
	$(VENV)/bin/mypy

wheel: $(VENV)/.ready
	rm -rf dist
	$(RUN) -m build --wheel --outdir dist
	$(RUN) scripts/check_wheel.py dist/*.whl

# The sample files and the shipped checkpoint are committed; these make them again.
samples: $(VENV)/.ready
	$(RUN) scripts/make_samples.py

miniature: $(VENV)/.ready
	$(RUN) scripts/make_miniature.py

$(VENV)/.ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
