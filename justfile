# Tools come from the environment that `just` itself was installed into.
export PATH := parent_directory(just_executable()) + ":" + env("PATH")

# List the recipes.
default:
    @just --list --justfile {{justfile()}}

# Everything that a change must pass: format, lint, types, tests.
check: format-check lint types test

# Show what the formatter would change.
format-check:
    ruff format --check --diff .

# Format.
format:
    ruff format .
    ruff check --fix --select I .

# Lint.
lint:
    ruff check .

# Strict types.
types:
    mypy

# All tests, or those named.
test *arguments:
    python -m pytest {{arguments}}

# The tests that start no process and load no engine.
quick:
    python -m pytest tests/protocol tests/host tests/broker tests/test_*.py

# Measure beside floors and peers (minutes); prints a Markdown table.
bench *arguments:
    python bench/main_job.py {{arguments}}

# Write the generated parts of docs/ anew.
reference:
    python -m tests.support.reference
