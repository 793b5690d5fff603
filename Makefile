PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export LIVERSEG_STUDY_DIR ?= $(patsubst %/,%,$(dir $(wildcard ../shared/liver_ct/README.md)))

.PHONY: lock
lock: ## Resolve the dependency locks again (needs uv)
	@for want in base: worker:worker "dev:worker,dev" gpu:gpu; do \
	  name=$${want%%:*}; extras=$$(echo $${want#*:} | tr , '\n' | sed 's/^/--extra /;/^--extra $$/d'); \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $$extras \
	    pyproject.toml -o requirements/$$name.txt || exit 1; done
