# Everything runs from .venv, which is made on first use and kept until what the package needs changes.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench bench-peers clean

# python3 that .venv is made with; with ROS 2 it must be the one that ROS 2 was built for.
PYTHON ?= python3
BIN := .venv/bin

# A sourced ROS 2 brings its own rclpy; else it comes from PyPI.
ifneq (,$(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)))
ROS := $(ROS_DISTRO)
EXTRAS := sim,train,test
else
ROS := wheels
EXTRAS := ros,sim,train,test
endif
STAMP := .venv/.made-for-$(ROS)

# DDS stays on this machine, away from robots: a random domain, shared memory and loopback only.
ifneq (,$(filter humble iron jazzy,$(ROS)))
PROFILES := FASTRTPS_DEFAULT_PROFILES_FILE
else
PROFILES := FASTDDS_DEFAULT_PROFILES_FILE
endif
define ISOLATE
export ROS_DOMAIN_ID=$$((RANDOM % 100 + 1)) $(PROFILES)="$(CURDIR)/config/fastdds.xml"
$(if $(filter humble,$(ROS)),export ROS_LOCALHOST_ONLY=1,export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST)
echo "== DDS: this machine only, domain $$ROS_DOMAIN_ID, config/fastdds.xml"
endef

# Shared-memory segments of processes that were killed: nobody holds their lock any more.
define SWEEP
for lock in /dev/shm/fast{dds,rtps}_????????????????_el; do
  if [ -O "$$lock" ]; then flock --nonblock "$$lock" rm -f "$${lock%_el}" "$$lock" || true; fi
done
endef

help:
	echo 'make demo    a simulated robot and the policy over real ROS 2, in two processes; results in out/demo/'
	echo 'make test    every test'
	echo 'make lint    ruff (format and lint) and mypy'
	echo 'make bench   what this machine can do; results in out/bench/; BENCH=train and the like for one alone'
	echo 'make bench-peers   LeRobot 0.4.4 beside ours, in an environment of its own, .peers (6 GB)'
	echo 'make venv    .venv alone: done by the ones above when it is needed'
	echo 'make clean   remove .venv, caches, out/, what colcon built, left-over shared memory'

venv: $(STAMP)

# uv finds pyproject.toml, with the override for cv2, in the folder where it runs.
$(STAMP): setup.py setup.cfg package.xml pyproject.toml
	case '$(ROS)' in
	  wheels) echo '== No ROS 2 is sourced: it comes from PyPI (wheels of ROS 2 Kilted)'
	    wanted='3.10 to 3.13, for which there are wheels of ROS 2'
	    check='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ;;
	  *) echo '== ROS 2 $(ROS) is sourced: .venv uses its rclpy'
	    wanted='the one that ROS 2 $(ROS) was built for'
	    check='import sys, rclpy' ;;
	esac
	if ! $(PYTHON) -c "$$check" 2>/dev/null; then
	  found=$$($(PYTHON) --version 2>/dev/null || echo 'not there')
	  echo "make: $(PYTHON) is $$found, but .venv needs $$wanted." >&2
	  echo 'make: name one, for example: make $(MAKECMDGOALS) PYTHON=/usr/bin/python3.12' >&2
	  exit 1
	fi
	site=$(if $(filter-out wheels,$(ROS)),--system-site-packages)
	uv=$$(command -v uv || true)
	if [ ! -e $@ ]; then
	  echo "== Making .venv with $$($(PYTHON) --version)"
	  if [ -n "$$uv" ]; then
	    "$$uv" venv --quiet --clear --python '$(PYTHON)' $$site .venv
	  else
	    $(PYTHON) -m venv --clear $$site .venv
	  fi
	fi
	if [ -z "$$uv" ]; then
	  uv=$(BIN)/uv
	  [ -x $$uv ] || { echo '== Fetching uv into .venv'; $(BIN)/python -m pip install --quiet uv; }
	fi
	echo '== Installing vqbet_ros[$(EXTRAS)] into .venv (PyTorch is large: 3 GB on the first time)'
	# Compiled now, once: torch takes three times as long to import where nothing is.
	"$$uv" pip install --compile-bytecode --python $(BIN)/python --editable '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(SWEEP)
	$(BIN)/vqbet demo $(ARGS)

# Tests that need no ROS share the cores; of the others time counts, so each has the machine alone.
define TESTS
OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal test/test_repo.py test/unit
$(BIN)/python -m pytest test/ros test/launch
endef
test: $(STAMP)
	$(SWEEP)
	$(ISOLATE)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),$(TESTS))

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Any of vqbet's benches; ARGS is for all of them, so give it with one alone.
BENCH ?= inference train data record
bench: $(STAMP)
	$(SWEEP)
	for bench in $(BENCH); do
	  echo "== vqbet bench $$bench"
	  $(BIN)/vqbet bench $$bench --json out/bench/$$bench.json $(ARGS)
	done

# The peers need versions of their own of what both use; ours is installed beside them.
LEROBOT := 0.4.4
PEERS_STAMP := .peers/.made-with-lerobot-$(LEROBOT)
$(PEERS_STAMP): setup.py | $(STAMP)
	uv=$$(command -v uv || echo $(BIN)/uv)
	[ -x $$uv ] || $(BIN)/python -m pip install --quiet uv
	echo '== Making .peers with LeRobot $(LEROBOT)'
	"$$uv" venv --quiet --clear --python 3.11 .peers
	"$$uv" pip install --python .peers/bin/python 'lerobot[pusht]==$(LEROBOT)' --editable '.[onnx]'
	touch $@

bench-peers: $(PEERS_STAMP)
	for what in inference training; do
	  echo "== $$what"
	  .peers/bin/python benchmarks/peers_lerobot.py $$what --json out/bench/peers_$$what.json $(ARGS)
	done

clean:
	$(SWEEP)
	rm -rf .venv .peers out build install log .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
