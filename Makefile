# One command does all the set-up: `make demo`, `make test`; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Debian's interpreter where there is one: its dbus module loads into no other.
PYTHON ?= $(or $(wildcard /usr/bin/python3),python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Debian packages of the venv, the demo, the tests and the linters.
PACKAGES := attr btrfs-progs busybox-static cron dash dbus dnsmasq-base dosfstools \
  e2fsprogs faketime fish fuse3 fusefat fuseiso groff-base iproute2 libcap2-bin \
  network-manager openssl python3-dbus python3-dbusmock python3-gi python3-venv rsync \
  shellcheck squid strace systemd tinyproxy xfsprogs xorriso xz-utils zsh zstd

# What `make boot` takes besides.
BOOT_PACKAGES := arch-test busybox-static fdisk iproute2 mmdebstrap qemu-system-x86 \
  systemd-container

# Your own two versions for the demo and the bench; they are only read.
TREES = $(if $(TREE_A),--tree-a '$(TREE_A)') $(if $(TREE_B),--tree-b '$(TREE_B)')

SCRIPTS = $(shell grep -rlE '^\#!.*[/ ](ba|da)?sh$$' .ci cron debian dracut \
  nm-dispatcher systemd tests/machine 2>/dev/null)

.PHONY: help
help: ## list the commands
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

.PHONY: setup
setup: $(READY) ## make the virtual environment (every other command does it too)

# Nothing from Debian but dbus and gi, which no wheel offers: docs/adr/0001.
$(READY): pyproject.toml Makefile .ci/packages
	@.ci/packages $(PACKAGES)
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo 'python3-venv is missing: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Making $(VENV) (once)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check \
	  --editable '.[server,dev]'
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  for module in /usr/lib/python3/dist-packages/{dbus,_dbus_,gi}*; do \
	    case $$module in *-info) ;; *) \
	      [ ! -e "$$module" ] || ln -sfn "$$module" "$$site/";; esac; \
	  done
	@touch $@

.PHONY: test
test: $(READY) ## run the tests, but for samples of sweeps (ARGS='-k lease' for some)
	$(BIN)/pytest -q -n auto -m 'not slow' $(ARGS)

.PHONY: samples
samples: $(READY) ## some of what `make crash` tries, and others that cut and refuse
	$(BIN)/pytest -q -n auto -m slow $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff, import-linter, mypy, shellcheck
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	shellcheck $(SCRIPTS)

.PHONY: cover
cover: $(READY) ## run every test and hold the coverage to its bounds
	.ci/cover $(BIN)

.PHONY: bitrot
bitrot: $(READY) ## flip 1,000 bits of an installed build: all found, all healed
	$(BIN)/python -m tests.bitrot

.PHONY: crash
crash: $(READY) ## cut the power everywhere, kill, refuse every call: docs/crash-safety.md
	$(BIN)/python -m tests.crash
	$(BIN)/python -m tests.crash.kills
	$(BIN)/python -m tests.crash.block
	$(BIN)/python -m tests.crash.faults
	$(BIN)/python -m tests.crash.server

.PHONY: demo
demo: $(READY) ## a server, a laptop, an update and a rollback (TREE_A=, TREE_B=)
	@$(BIN)/python -m bench.demo $(TREES)

# A network of its own: the school's server and the machines see nobody else.
.PHONY: boot
boot: $(READY) ## boot machines that update, fail and go back (as root; FAST=1: no qemu)
	@.ci/packages $(BOOT_PACKAGES)
	@.ci/debian-tree build/boot
	@unshare --net --mount $(BIN)/python -m bench.boot $(if $(FAST),--fast)

.PHONY: bench
bench: $(READY) ## how a fleet asks, what a poll and an update cost, beside others
	$(BIN)/python -m bench.schedule
	$(BIN)/python -m bench.poll
	$(BIN)/python -m bench.update $(TREES)

FUZZED ?= answer order lease statement query manifest pack delta frame
MUTANTS ?= 1000000
SECONDS_EACH ?= 600

.PHONY: fuzz
fuzz: $(READY) ## fuzz the parsers for hours (FUZZED=, MUTANTS=, SECONDS_EACH=)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for name in $(FUZZED); do $(BIN)/python -m tests.fuzz.campaign $$name $(MUTANTS); done
	$(BIN)/python -m tests.fuzz.run_atheris $(SECONDS_EACH) $(FUZZED)

.PHONY: fuzzround
fuzzround: ## fuzz each parser for a few seconds
	$(MAKE) fuzz MUTANTS=1000 SECONDS_EACH=4

include share/install.mk

# Where the interpreter that runs on the laptop finds modules.
MODULES ?= $(shell $(SYSTEM_PYTHON) -c \
  'import sysconfig; print(sysconfig.get_path("purelib"))')

.PHONY: share
share: $(READY) ## build the man pages and the shells' completions
	@rm -rf build/share
	@$(BIN)/python -m share.build build/share

.PHONY: install
install: share install-files install-commands ## lay everything down below DESTDIR, without dpkg
	rm -rf build/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	install -d $(DESTDIR)$(MODULES)
	$(SYSTEM_PYTHON) -m zipfile -e build/wheel/*.whl $(DESTDIR)$(MODULES)

# What `install` would lay down is what is removed; /etc/olpc-update-query, the state and
# the builds stay.
.PHONY: uninstall
uninstall: ## remove what `make install` has laid down below DESTDIR
	rm -rf build/stage
	$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/build/stage >/dev/null
	cd build/stage && find . ! -type d -printf '$(DESTDIR)/%P\0' | xargs -0 rm -f
	find $(DESTDIR)$(MODULES)/olpc_update_query -name __pycache__ -prune \
	  -exec rm -rf {} + 2>/dev/null || true
	cd build/stage && find . -depth -type d -path '*olpc[_-]*' \
	  ! -path './etc/*' -printf '$(DESTDIR)/%P\0' | \
	  xargs -0 rmdir --ignore-fail-on-non-empty
	rm -rf build/stage

.PHONY: deb
deb: ## build the Debian packages, into build/deb
	.ci/deb

.PHONY: machine
machine: $(READY) deb ## boot a machine with the packages installed (OLPC_MACHINE=i386: 32 bits)
	@.ci/packages arch-test mmdebstrap systemd-container
	$(BIN)/pytest -q -n 0 tests/machine/boots.py $(ARGS)

.PHONY: browser
browser: $(READY) ## use the pages in a real browser; pictures in build/browser
	@.ci/packages chromium chromium-driver
	$(BIN)/pytest -q -n 0 tests/browser/pages.py $(ARGS)

.PHONY: nginx
nginx: $(READY) ## a site behind the real nginx, gunicorn and PostgreSQL (as root)
	@.ci/packages nginx-light postgresql
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[postgresql]'
	$(BIN)/pytest -q -n 0 tests/nginx/behind.py $(ARGS)

.PHONY: fifteen
fifteen: $(READY) deb ## a bare Debian to the first updated laptop, timed (as root)
	@.ci/packages arch-test mmdebstrap systemd-container
	@mkdir -p build/fifteen
	@[ -f build/fifteen/bare.tar ] || { rm -rf build/fifteen/bare.*; \
	  mmdebstrap --quiet --mode=root --format=tar --variant=minbase bookworm \
	    build/fifteen/bare.tar.new && \
	  mv build/fifteen/bare.tar.new build/fifteen/bare.tar; }
	$(BIN)/python -m bench.fifteen

.PHONY: load
load: $(READY) ## what a school's server bears: answers, waiting, memory
	$(BIN)/python -m bench.load

.PHONY: badlinks
badlinks: $(READY) ## an update over links that hardly work, counted on the wire
	$(BIN)/python -m bench.badlinks

.PHONY: clean
clean: ## remove the virtual environment, caches and scratch files
	rm -rf $(VENV) build dist *.egg-info .coverage* .mypy_cache .ruff_cache \
	  .pytest_cache .import_linter_cache .hypothesis
