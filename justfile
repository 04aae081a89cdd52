# Tools come from the environment that `just` itself was installed into.
export PATH := parent_directory(just_executable()) + ":" + env("PATH")

# List the recipes.
default:
    @just --list --justfile {{justfile()}}

# Everything that a change must pass: what tests use is set up, then format, lint, types, tests.
check: setup format-check lint types test

# What a gate adds to `check`, both at once: most of it waits.
check-more: setup
    #!/usr/bin/env bash
    set -uo pipefail
    python -m tests.support.machines.bare & bare=$! # it prints when it ends
    trap 'kill "$bare" 2> /dev/null' EXIT
    just --no-deps check-deep
    deep=$?
    wait "$bare" && exit "$deep"

# More kills, the model with all its mutants.
check-deep: setup
    #!/usr/bin/env bash
    set -uo pipefail
    # Both at once: they wait more than they compute.
    python -m tests.model.check --profile deep --cores 3 & model=$!
    trap 'kill "$model" 2> /dev/null' EXIT # a shell lets ctrl-C through to what it waits for alone
    PALACE_TEST_PROFILE=deep python -m pytest -n 2 --dist loadfile --durations=15 --durations-min=5 \
        tests/process/test_kills.py tests/process/test_steps.py tests/process/test_world_storm.py \
        tests/promises/test_promises.py tests/engine/test_seams.py tests/test_contributing.py
    tests=$?
    wait "$model" && exit "$tests"

# Conversations in real hosts, fetched from the npm registry; PALACE_TEST_HOSTS=newest: their newest.
check-hosts:
    PALACE_TEST_PROFILE=deep python -m pytest -s \
        tests/process/test_real_hosts.py tests/process/test_mcp_conformance.py

# What milvus-lite keeps, by the tests of all backends (minutes); first: pip install --editable '.[engine,dev,milvus]'.
check-milvus:
    python -c 'import milvus_lite, pymilvus'
    PALACE_TEST_PROFILE=deep python -m pytest -n 2 --dist loadfile -k milvus \
        tests/engine/test_conformance.py tests/engine/durability/test_foreign.py
    python -m pytest -n 2 --dist loadfile -k milvus \
        tests/engine tests/process/test_kills.py

# The tests that use spin, sshd and the like, on a machine that seems to have none of them.
check-bare:
    python -m tests.support.machines.bare

# Install the system packages that tests use, where that is allowed; name those that are absent.
setup *arguments:
    @python -m tests.support.machines.setup {{arguments}}

# Show what the formatter would change.
format-check:
    ruff format --check --diff .

# Format.
format:
    ruff format .
    ruff check --fix --select I .

# Lint, and spell.
lint:
    ruff check .
    codespell

# Strict types.
types:
    mypy

# All tests, or those named, three files at a time: many wait for what others do.
test *arguments:
    python -m pytest -n 3 --dist loadfile --durations=25 --durations-min=5 {{arguments}}

# The tests that start no process and load no engine.
quick:
    python -m pytest tests/protocol tests/memory tests/settings tests/kernel tests/ownership tests/client tests/transport tests/broker tests/test_*.py

# The invariant suite with its floors: model, specs, simulation, kills; `just model-check deep` is what a gate runs, `full` the whole.
model-check profile="quick":
    python -m tests.model.check --profile {{profile}}

# Every broken protocol, by whom it was caught, and in how many steps.
broken-protocols:
    python -m tests.model.mutants

# Small slips in the code that no test notices: in what differs from main, in rooms that are named, or `--full`.
mutants *arguments:
    python -m tests.mutation {{arguments}}

# Try the slips that must turn a promise's tests red: those that are new or changed, named, or `--all`.
promises *arguments:
    python -m tests.promises {{arguments}}

# Simulate with new seeds until stopped.
soak:
    python -m tests.sim --soak

# Fuzz what strangers, guests and lent files can write: `just fuzz wire journal --seconds 600`; with no names all, an hour each.
fuzz *arguments:
    python -m tests.security.fuzz {{arguments}}

# Three minutes of what stock, hosts and people do to a palace in use; --seed N repeats one.
world-storm *arguments:
    python -m tests.process.world_storm {{arguments}}

# Measure beside floors and peers (minutes); prints a Markdown table.
bench *arguments:
    python -m bench.main_job {{arguments}}
    python -m bench.throughput {{arguments}}

# Measure what the journal costs: on beside off, and with a slow disk.
bench-journal *arguments:
    python -m bench.journal {{arguments}}

# Measure what opening a journal costs as it grows, and what large members cost in it (minutes).
bench-opening *arguments:
    python -m bench.opening {{arguments}}

# Measure the first reply on a large palace that stock has filled, beside stock's (many minutes).
bench-first-reply *arguments:
    python -m bench.first_reply {{arguments}}

# Measure a guest over TLS beside a neighbour.
bench-guests *arguments:
    python -m bench.guests {{arguments}}

# What a client waits for server/discover, whatever is the matter with the palace.
bench-discover *arguments:
    python -m bench.discover {{arguments}}

# What a canary costs: the time from a kill to the next reply, and its memory.
bench-deaths *arguments:
    python -m bench.deaths {{arguments}}

# Measure what taking secrets out of a text costs, ordinary and hostile ones.
bench-redaction *arguments:
    python -m bench.redaction {{arguments}}

# Measure commits beside add_drawer, and searches over three namespaces beside stock's.
bench-memories *arguments:
    python -m bench.memories {{arguments}}

# Measure a pull of another palace's drawers, and what accepting them costs.
bench-candidates *arguments:
    python -m bench.candidates {{arguments}}

# Drawers that PostgreSQL keeps, beside stock on the same server and a bare psycopg.
bench-backends *arguments:
    python -m bench.backends {{arguments}}

# Measure what honest clients wait for while others attack, beside peace; `--each`: also one by one.
bench-hostile *arguments:
    python -m bench.hostile {{arguments}}

# Measure the memory contract's socket beside MCP's path, and what honest clients wait meanwhile.
bench-contract *arguments:
    python -m bench.contract {{arguments}}

# Refuse a change of palace/ since BASE that tells users nothing (changelog.d/README.md).
changelog-check base="origin/main":
    git diff --quiet {{base}}...HEAD -- palace || towncrier check --compare-with {{base}}

# Show what a release would be; `just release VERSION --now` makes it.
release version *mode:
    .ci/release {{version}} {{mode}}

# Install what a release has built with pip, pipx and uv, each time afresh, and try it.
try-release directory *ways:
    .ci/try-release {{directory}} {{ways}}

# Pin all packages of development again (needs the package index).
lock:
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
        --no-header --no-emit-index-url --no-annotate pyproject.toml --extra engine --extra dev --extra fuzz --extra mutants \
        --output-file requirements-dev.lock

# The tag of the container images: it changes with whatever goes into them; NAME=VALUE for others.
image-tag *arguments:
    @python -m images tag {{arguments}}

# Remove what builds have made: releases, and the packages, images and keys of image-apko.
clean:
    rm -rf dist build

# What Dockerfile.base pins beside today's; `--write` pins that.
image-refs *arguments:
    @python -m images refs {{arguments}}

# Pin all packages of the images again (needs uv, and the package index).
image-lock:
    images/lock

# Build an image with a Docker engine: shim, full or distroless.
image target *options:
    docker build --file Dockerfile.base --target {{target}} --tag palace-{{target}} {{options}} .

# Build an image by melange and apko, which have to be installed (docs/images.md says what was run).
image-apko *steps:
    images/apko/build {{steps}}

# Write the generated parts of docs/ again.
reference:
    python -m tests.support.documents.reference

# Make docs/screens.md from a real run.
screens:
    python -m tests.support.documents.screens

# Draw docs/pictures from their sources (needs graphviz).
pictures:
    for source in docs/pictures/*.dot; do \
        (dot -Tsvg "$source"; printf '<!-- %s, sha256 %s -->\n' "$source" "$(sha256sum < "$source" | cut -c1-64)") > "${source%.dot}.svg"; \
    done
