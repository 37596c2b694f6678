# Two commands matter: `make study` and `make test`. Both set everything up first; a second call installs nothing.
#   make install                    set the environment up and stop
#   make study                      train the embedded default study and write its report (overrides: ARGS="replicates=2")
#   make test                       the test suite: CPU, no network; one thread, which small networks like best
#   make check                      lint, format and strict types
#   make notebook                   execute the notebooks, on the records of `make study` and of the commands that they name
#   make lock                       resolve requirements.lock anew
#   make study TORCH_BACKEND=cpu    the CPU-only torch (about 0.2 GB instead of 3 GB); also for test and check
PYTHON ?= python3
TORCH_BACKEND ?=
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
UV_VERSION := 0.13.9
# uv from PATH if there is one, else a private copy beside the environment.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: study install test check format notebook lock clean
.DELETE_ON_ERROR:

study: $(STAMP)
	$(BIN)/study run data_scaling $(ARGS)

install: $(STAMP)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: $(STAMP)
	$(BIN)/jupyter-execute notebooks/curves.ipynb notebooks/curve_to_cause.ipynb

lock: | .uv/bin/uv
	.uv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-header --no-annotate --upgrade -o requirements.lock

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv==$(UV_VERSION)

# The last line finds libraries that do not fit together, and spares the first study gigabytes from a cold disk.
$(STAMP): requirements.lock pyproject.toml | $(filter .uv/bin/uv,$(UV))
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}: call make with PYTHON=...")'
	test -x $(BIN)/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
ifeq ($(TORCH_BACKEND),)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
else
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --torch-backend $(TORCH_BACKEND) --no-verify-hashes --constraint requirements.lock ".[dev]"
endif
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "import studies.train, studies.report.write, datasets, hydra, wandb"
	touch $@

clean:
	rm -rf .venv .uv build dist .pytest_cache .mypy_cache .ruff_cache
