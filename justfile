# The only entrance: `just` lists what can be done. Every recipe does its own set-up.

python := ".venv/bin/python"

_default:
    @just --list

# Make the virtual environment, once.
setup:
    test -x {{python}} || python3 -m venv .venv
    .venv/bin/pip install -q -c constraints.txt -e ".[dev]"

# What the long tests and the survival runs need beside it.
setup-long: setup
    .venv/bin/pip install -q -c constraints.txt -e ".[dev,long]"

# The whole story on embedded servers, in under a minute.
demo *folder: setup
    .venv/bin/jsjobs demo {{folder}}

# Embedded servers and a worker for the example, until Ctrl-C.
dev: setup
    .venv/bin/jsjobs dev examples/files/app.py:jobs

# The tests, on real servers; random ones draw from `--seed`, which each run prints at its end.
test *args: setup
    .venv/bin/pytest {{args}}

# What takes minutes: faults under load, clusters of three servers, thousands of races, every command of the docs.
test-long *args: setup-long
    .venv/bin/pytest -m long -n 2 {{args}}

# The Node.js client tests; they need npm's registry.
test-node: setup
    {{python}} tests/node/run.py

# Style, types and layers.
lint: setup
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/lint-imports

# The image's requirements with their hashes, after pyproject.toml or constraints.txt has changed.
lock: setup
    .venv/bin/pip install -q uv
    .venv/bin/uv pip compile -q --generate-hashes --universal --python-version 3.13 -c constraints.txt --no-header \
        --no-annotate --extra uvloop pyproject.toml -o deploy/requirements.txt
    echo hatchling | .venv/bin/uv pip compile -q --generate-hashes --universal --python-version 3.13 -c constraints.txt \
        --no-header --no-annotate - -o deploy/requirements-build.txt

# Everything that CI checks.
check: setup
    .venv/bin/pytest --cov --cov-report= -n 3
    .venv/bin/coverage report --fail-under=90
    just test-long
    just test-node
    just lint

# Tables and plots of docs/benchmarks.md: against bare nats-py loops and other libraries; `just bench --quick` only prints.
bench *args: setup
    .venv/bin/pip install -q -c constraints.txt -e ".[dev,bench]"
    {{python}} benchmarks/run.py {{args}}

# A million mutated inputs to everything that reads what comes from outside, then hostile traffic to a real server; minutes.
fuzz *args: setup
    {{python}} tests/fuzz/fuzz_targets_run.py {{args}}

# A cheap look for a regression: rates beside bare loops with generous bounds, and calls and memory per job; under a minute.
check-speed: setup
    {{python}} benchmarks/check_speed.py

# Jobs under faults, and a checker of what was recorded: docs/survival.md. `just survival --servers 3 --minutes 30 --seed 7`.
survival *args: setup-long
    PYTHONPATH=tests {{python}} -m survival {{args}}

# nats-server is killed until it leaves a shard asleep, which must then go on by itself; minutes, by chance.
stalled-shard: setup
    .venv/bin/pytest -n 0 -m chance tests/system/test_stalled_shard.py

# Workers and server killed six times, then silence, in which all jobs must end: `just survival-quiet --runs 20 --seed 7`.
survival-quiet *args: setup-long
    PYTHONPATH=tests {{python}} -m survival.quiet {{args}}

# An hour of steady load, and whether memory, tasks, connections or files grow: docs/survival.md. `just soak --minutes 60`.
soak *args: setup-long
    PYTHONPATH=tests {{python}} -m survival.soak {{args}}

# Faults put into a copy of the code, one at a time: each must be noticed by the tests named beside it. `just mutants --some 10 --seed 7`.
mutants *args: setup
    PYTHONPATH=tests {{python}} -m mutants {{args}}

# Format the sources.
format: setup
    .venv/bin/ruff format
    .venv/bin/ruff check --fix
