# Needs Python 3.11 or newer (with its venv module) and make; everything else is installed into .venv.

# Most tests wait for other processes most of the time; a file's tests share what they start.
TEST_PROCESSES ?= 6
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# A version that every large cloud offers.
KUBERNETES := 1.34
CHECKOV := 3.3.30
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The tests start hundreds of processes: what one has compiled the others need not.
unexport PYTHONDONTWRITEBYTECODE

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: .venv/.tools ## install the service and the developers' tools into .venv

demo: .venv/.service ## see the main job done against the sandbox: DEMO_ARGS="…" is passed on
	$(BIN)/submitter demo $(DEMO_ARGS)

test: setup ## run every test, in TEST_PROCESSES=6 side by side: PYTEST_ARGS="…" is passed on
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: setup .venv/.infra ## check format, style, types, imports and the infrastructure files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .github infra render.yaml .yamllint
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/hadolint infra/Dockerfile
	$(BIN)/cfn-lint infra/cloudformation/receiver.yaml
	@if command -v kubectl >/dev/null; then $(MAKE) --no-print-directory overlays; \
		else echo "kubectl is not installed: the Kubernetes overlays are not checked"; fi

# Every field of the overlays, compared with Kubernetes' own schemas.
overlays: .venv/.infra
	@mkdir -p build
	for overlay in embedded distributed; do \
		kubectl kustomize infra/kubernetes/overlays/$$overlay > build/$$overlay.yaml && \
		$(BIN)/kubernetes-validate --strict --quiet -k $(KUBERNETES) build/$$overlay.yaml || exit 1; done

checkov: ## check the AWS template against checkov's rules, in a venv of its own: it pins an old boto3
	"$(PYTHON)" -m venv build/checkov
	build/checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==$(CHECKOV)
	build/checkov/bin/checkov --compact --quiet --skip-download --framework cloudformation --file infra/cloudformation/receiver.yaml

check: lint test ## lint, then test

docs: setup ## rewrite the parts of docs/ that are generated from the code
	$(BIN)/python tests/support/reference_pages.py

bench: setup ## measure the service beside its peers: BENCH_ARGS="…" is passed on
	$(INSTALL) --group bench
	$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

prove: setup ## break the service in every way for 3 minutes, and see what it keeps: PROVE_MINUTES=, PROVE_ARGS="…", ENGINE=distributed
	$(if $(filter distributed,$(ENGINE)),$(if $(PROVE_ARGS),,$(BIN)/python tests/prove/chaos.py))
	$(if $(PROVE_ARGS),,PROVE_MINUTES=$(or $(PROVE_MINUTES),3) $(BIN)/python tests/prove/searches.py)
	PROVE_MINUTES=$(or $(PROVE_MINUTES),3) $(BIN)/python tests/prove/$(if $(filter distributed,$(ENGINE)),distributed,run).py $(PROVE_ARGS)

package-test: setup ## build sdist and wheel, and use the wheel with every supported Python found
	$(BIN)/python tests/package/run.py

image-test: setup ## build the image and run it as a hardened container; needs Debian 12, root, buildah, podman
	$(BIN)/python tests/image/run.py

advisories: setup ## look the pinned versions up among known vulnerabilities; needs the network
	$(BIN)/python tests/support/advisories.py

constraints: ## pin the newest versions that pyproject.toml allows
	"$(PYTHON)" -m venv --clear build/newest
	build/newest/bin/python -m pip install --quiet 'pip>=25.1'
	build/newest/bin/python -m pip install --quiet -e '.[postgres,openai,otel,mcp]' --group dev --group bench --group infra
	{ grep '^#' constraints.txt; build/newest/bin/python -m pip freeze --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## remove .venv and all caches; data/ stays
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two stamps: installed once, and again only when what is to be installed has changed.
.venv/.service: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or newer, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: install a newer one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(INSTALL) -e '.[postgres,openai,otel,mcp]'
	@touch $@

.venv/.tools: .venv/.service
	$(INSTALL) 'pip>=25.1' # the first that knows dependency groups
	$(INSTALL) --group dev
	@touch $@

.venv/.infra: .venv/.tools
	$(INSTALL) --group infra
	@touch $@

.PHONY: help setup demo test lint overlays checkov check docs bench prove package-test image-test advisories constraints clean
