"""Documents that can go stale don't: generated pages, links, the README's size and commands."""

import hashlib
import re
from pathlib import Path

import pytest
import typer
import yaml

from palace.cli.app import app
from palace.protocol import errors
from tests.support.documents.reference import PAGES, ROOT, all_errors, named_commands

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.dot"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_says_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text()

    assert written == PAGES[name](), "run: just reference"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_readme_is_short_and_shows_how_to_try_it() -> None:
    readme = (ROOT / "README.md").read_text()

    assert len(readme.splitlines()) <= 120
    assert "palace try" in readme


def commands(script: str) -> list[str]:
    """Return the lines of a script that do something."""
    lines = [line.strip() for line in script.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export "))]


def test_gates_run_the_readme_s_test_command_and_nothing_before_it() -> None:
    blocks = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    [command] = [block for block in blocks if block.endswith("just check")]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    for job in ("check", "macos"):
        runs = [step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step]
        assert runs == [command], job

    first, *others = commands((ROOT / ".ci" / "run").read_text())
    assert first == f"{command} || exit"
    assert others == [".venv/bin/just check-more"]
    deep = [step.get("run") for step in workflow["jobs"]["deep"]["steps"]]
    assert deep[-1] == command.replace("just check", "just check-more")


@pytest.mark.parametrize("source", PICTURES, ids=lambda path: path.stem)
def test_a_picture_was_made_from_its_source_as_it_is(source: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    assert digest in source.with_suffix(".svg").read_text(), "run: just pictures"


def test_files_that_the_docs_name_exist() -> None:
    pattern = re.compile(r"`((?:palace|tests|docs|bench|specs)/[\w./-]+\.(?:py|md|pml))`")
    for path in DOCUMENTS:
        for name in pattern.findall(path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


STOCKS_OWN = ("set-embedder",)  # `mempalace palace ...`
HIDDEN = ("--check", "--help", "--version")


def test_commands_and_options_that_the_docs_name_exist() -> None:
    app_commands = dict(named_commands(typer.main.get_command(app)))
    options = {
        name: {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
        for name, command in app_commands.items()
    }
    seen = 0
    for path in DOCUMENTS:
        text = path.read_text()
        scripts = re.findall(r"```sh[^\n]*\n(.*?)\n```", text, re.DOTALL)
        lines = [line for script in scripts for line in script.splitlines()]
        for said in [*re.findall(r"`([^`\n]+)`", text), *lines]:
            for words in re.findall(r"(?:^|; )palace ([a-z][^;#]*)", said):
                two = " ".join(words.split()[:2])
                name = two if two in options else two.partition(" ")[0]
                if name not in STOCKS_OWN:
                    assert name in options, f"{path.name}: {said}"
                    given = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", words)) - set(HIDDEN)
                    assert given <= options[name], f"{path.name}: {said}"
                    seen += 1
    assert seen > 200


def test_each_line_of_the_threat_model_names_tests_that_exist() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    for file, name in named:
        assert re.search(rf"(?m)^(?:async )?def {name}\(", (ROOT / file).read_text()), name

    held = text.partition("## Other agents")[2].partition("## Not held yet")[0]
    for row in re.findall(r"(?m)^\| (.*) \|$", held):
        assert "::" in row or row.endswith("| test"), row
    assert len(named) > 20


def test_every_error_has_a_code_and_a_name_of_its_own_and_says_what_it_means() -> None:
    kinds = all_errors()

    assert len({kind.wire_code for kind in kinds}) == len(kinds)
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert all(kind.retry in ("never", "same_request", "after_reconnect") for kind in kinds)
    assert all(kind.__doc__ for kind in kinds)
    assert issubclass(errors.Busy, errors.PalaceError)


def test_every_decision_has_its_parts() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        text = path.read_text()
        assert re.match(r"# \d{4}: ", text), path.name
        for part in ("**Context.**", "**Choice.**", "**What would change our mind.**"):
            assert part in text, path.name
        assert len(text.splitlines()) <= 60
