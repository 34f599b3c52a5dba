# The habits of this project, in one place. `make demo` and `make test` need only Python >= 3.10.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What pip does is shown to people, and kept out of logs
PIP := $(BIN)/pip install $(shell test -t 2 || echo --quiet) --constraint constraints.txt --editable
FUZZ_SECONDS ?= 60
FUZZ_CORPUS ?= build/fuzz

.PHONY: demo test lint docs bare floors newest web-test s3-test serve-test ray-test spark-test triton-test arm-test image fuzz faults gpu-rehearsal release clean

# Installed once; again when the requirements change.
$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "Installing torch and what the demo needs into $(VENV), once: minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) '.[demo]'
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "Installing what the tests need into $(VENV), once"
	$(PIP) '.[demo,test,lint,rtx]'
	touch $@

demo: $(VENV)/.demo  ## make data, train, export, predict, measure: about 3 minutes on 2 cores
	$(BIN)/python -m examples.quality.demo

test: $(VENV)/.installed  ## all tests, on the CPU
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.installed  ## format, lint, types and Dockerfiles
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.jetson

image: $(VENV)/.installed  ## build docker/Dockerfile and use it: needs docker or buildah; BASE=IMAGE
	$(BIN)/python .ci/image.py $(if $(BASE),--base $(BASE))

docs: $(VENV)-docs/.installed  ## the documentation, in build/site; a broken link or name fails
	$(VENV)-docs/bin/zensical build --strict --clean

$(VENV)-docs/.installed: pyproject.toml constraints.txt  # Python >= 3.11; seconds, without torch
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	touch $@

bare: $(VENV)/.installed  ## the runtime's tests on the wheel with [cpu] only, without POSIX's names
	$(BIN)/python .ci/wheel_tests.py --constraint --without-posix

floors: $(VENV)/.installed  ## the same with them, on the oldest requirements declared, Python 3.10
	$(BIN)/python .ci/wheel_tests.py --floors 3.10

newest: $(VENV)/.installed  ## the same on the newest requirements, Python 3.13
	$(BIN)/python .ci/wheel_tests.py 3.13 $(WHEEL_TESTS)

web-test: $(VENV)/.installed  ## the page of --web in a real Chromium, against numclip-run: 2 minutes
	$(BIN)/pip install --quiet playwright
	NUMCLIP_WEB_TEST=1 $(BIN)/python -m pytest -q -s tests/export/test_web_browser.py

s3-test: $(VENV)-s3/.installed  ## object stores against a server of S3 (moto), with faults: 2 minutes
	$(VENV)-s3/bin/python -m pytest -q tests/remote

$(VENV)-s3/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-s3
	$(VENV)-s3/bin/pip install --quiet --constraint constraints.txt --editable '.[cpu,parquet,remote]' s3fs 'moto[server,s3]' pytest requests
	touch $@

serve-test: $(VENV)/.installed  ## the server: 500 malformed requests, and its page in a real Chromium
	$(BIN)/pip install --quiet playwright
	NUMCLIP_WEB_TEST=1 NUMCLIP_SERVE_TEST=1 $(BIN)/python -m pytest -q -s tests/serve

# Ray reports to no one here, and sees no other machine where a network of its own can be made
ray-test: $(VENV)-ray/.installed  ## --engine ray on a real Ray, with machines that are killed: minutes
	$(shell unshare --net true 2>/dev/null && echo unshare --net sh -c "'ip link set lo up; exec \"\$$@\"'" sh) \
	  $(VENV)-ray/bin/python -m pytest -q tests/runtime/jobs/test_ray.py tests/runtime/jobs/test_worker.py

spark-test: $(VENV)-spark/.installed  ## the mapper in a real Spark: needs Java 17; a minute
	$(VENV)-spark/bin/python -m pytest -q tests/runtime/jobs/test_spark.py tests/runtime/jobs/test_worker.py

$(VENV)-ray/.installed $(VENV)-spark/.installed: $(VENV)-%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/pip install --quiet --constraint constraints.txt --editable '.[cpu,remote,$*]' aiohttp pandas pytest
	touch $@

triton-test: $(VENV)-triton/.installed  ## a real tritonserver against numclip-run: 2 minutes, 500 MB
	NUMCLIP_TRITON_TEST=1 $(VENV)-triton/bin/python -m pytest -q -s tests/triton

# nvidia-pytriton wants an older numpy, so nothing else shares this environment
$(VENV)-triton/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-triton
	$(VENV)-triton/bin/pip install --quiet --editable '.[cpu]' pytest nvidia-pytriton==0.7.0 'tritonclient[grpc,http]==2.73.0'
	touch $@

arm-test: $(VENV)/.installed  ## the runtime on emulated ARM CPUs: hours; needs Debian and gcc-aarch64-linux-gnu
	$(BIN)/python .ci/arm.py values
	$(BIN)/python .ci/arm.py tests

fuzz: $(VENV)/.installed  ## each reader of foreign files, FUZZ_SECONDS each (atheris: Python >= 3.11)
	$(PIP) '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) --corpus $(FUZZ_CORPUS)

faults: $(VENV)/.installed  ## failing system calls, 200 kills, small limits, hostile files: half an hour
	$(BIN)/python -m tests.faults.bombs
	$(BIN)/python -m tests.faults.run --kills 200 --json build/faults.json

gpu-rehearsal: $(VENV)/.installed  ## benchmarks/gpu_proof.py on the CPU, with a stand-in for the driver: minutes
	$(BIN)/python benchmarks/gpu_proof.py --rehearse --minutes 60 --out build/gpu-rehearsal

release: $(VENV)/.installed  ## wheel and sdist in dist/, checked in clean environments; REHEARSE=1
	$(PIP) '.[release]'
	$(BIN)/python .ci/release.py $(if $(REHEARSE),--rehearse)

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-ray $(VENV)-spark $(VENV)-s3 $(VENV)-triton $(VENV)-bare $(VENV)-floors $(VENV)-newest demo dist build
