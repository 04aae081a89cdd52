"""What a build reads, by a real directory: each file, its mode, and nothing that isn't copied."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from images.inputs import (
    Ignored,
    NotUnderstood,
    arguments,
    instructions,
    overridden,
    read_files,
    sources,
)
from images.references import Resolved
from images.tag import image_tag

ROOT = Path(__file__).parent.parent.parent
COPIED = (
    *(".dockerignore", "Dockerfile.base", "LICENSE", "README.md", "docs", "images", "palace"),
    "pyproject.toml",
)


def copy_tree(to: Path) -> Path:
    """Copy what a build may read of this tree, and the command that hashes it."""
    to.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, to / name)
    return to


def command_tag(tree: Path, cwd: Path, **environ: str) -> str:
    """Return what the command prints, in an environment of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "images", "tag"],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def tag(tree: Path) -> str:
    defaults = arguments((tree / "Dockerfile.base").read_text())
    references = {name: Resolved(value) for name, value in defaults.items()}
    return image_tag(read_files(tree), references, lambda: "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "tree")


def add_line(name: str) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        with (tree / name).open("a") as file:
            file.write("\n# changed\n")

    return change


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new))

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    "the Dockerfile": add_line("Dockerfile.base"),
    "what is ignored": add_line(".dockerignore"),
    "the entry point": add_line("images/entry.py"),
    "the health check": add_line("images/health.py"),
    "what is taken of Debian": add_line("images/distroless.py"),
    "a step": add_line("images/steps/install"),
    "a step's mode": lambda tree: (tree / "images/steps/install").chmod(0o644),
    "a lock": add_line("images/locks/engine.txt"),
    "the package": add_line("palace/cli/__init__.py"),
    "its metadata": add_line("pyproject.toml"),
    "a text in it": add_line("docs/design.md"),
    "the licence": add_line("LICENSE"),
    "a new file": lambda tree: (tree / "palace/new.py").write_text(""),
    "a file less": lambda tree: (tree / "palace/settings/catalogue.py").unlink(),
    "another name": lambda tree: (tree / "palace/cli/__init__.py").rename(tree / "palace/cli2.py"),
    "a link": lambda tree: (tree / "palace/link").symlink_to("cli/__init__.py"),
    "a user's number": replace("Dockerfile.base", "PALACE_UID=1000", "PALACE_UID=1001"),
    "a base image": replace("Dockerfile.base", "@sha256:a2", "@sha256:b2"),
    "a moment": replace("Dockerfile.base", "SNAPSHOT=2026", "SNAPSHOT=2025"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_thing_that_is_copied_changes_the_tag(name: str, tree: Path) -> None:
    before = tag(tree)
    CHANGES[name](tree)

    assert tag(tree) != before


def test_a_link_counts_by_where_it_leads(tree: Path) -> None:
    (tree / "palace/link").symlink_to("cli/__init__.py")
    before = tag(tree)
    (tree / "palace/link").unlink()
    (tree / "palace/link").symlink_to("env.py")

    assert tag(tree) != before


def test_nothing_else_changes_it(tree: Path, tmp_path: Path) -> None:
    before = tag(tree)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & ~0o022)
    (tree / "palace/__pycache__").mkdir()
    (tree / "palace/__pycache__/cli.cpython-313.pyc").write_bytes(b"compiled")
    (tree / "palace/empty").mkdir()
    (tree / "docs/decisions/0001-new.md").write_text("not copied")
    (tree / "tests").mkdir()
    (tree / "tests/test_new.py").write_text("not copied")
    (tree / ".git").mkdir()
    (tree / ".git/HEAD").write_text("ref: refs/heads/other")

    assert tag(tree) == before
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(tree.rglob("*"), reverse=True):  # made in another order, elsewhere
        target = again / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copy(path, target)
    assert tag(again) == before


def test_the_command_prints_it_from_anywhere_and_whatever_the_environment(
    tree: Path, tmp_path: Path
) -> None:
    odd = {"HOME": "/nonexistent", "LANG": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    odd |= {"PALACE_UID": "5", "SOURCE_DATE_EPOCH": "5", "PYTHONDONTWRITEBYTECODE": ""}

    tags = {command_tag(tree, tree), command_tag(tree, tmp_path, **odd), tag(tree)}

    assert len(tags) == 1


def test_a_file_that_is_to_be_copied_must_be_there(tree: Path) -> None:
    (tree / "LICENSE").unlink()

    with pytest.raises(FileNotFoundError):
        read_files(tree)


@pytest.mark.parametrize("name", ["shim", "full", "distroless"])
def test_an_image_runs_as_the_builds_user_on_files_of_roots(name: str) -> None:
    found = instructions((ROOT / "Dockerfile.base").read_text())
    (stage,) = (
        one.stage for one in found if one.name == "FROM" and one.text.endswith(f" AS {name}")
    )
    its = [one for one in found if one.stage == stage]

    users = [one.text for one in its if one.name == "USER"]
    assert users == ["${PALACE_UID}:${PALACE_GID}"]
    copies = [one.text for one in its if one.name == "COPY"]
    assert copies
    assert not [text for text in copies if "--chown" in text or "--chmod" in text]
    packages = (ROOT / "images/steps/packages").read_text()
    assert "compileall" in packages.splitlines()[-1]


def test_what_a_container_runs_needs_no_environment_that_a_second_process_lacks() -> None:
    """`docker exec` has the image's own, and nothing of what the entry point has exported."""
    lines = (ROOT / "images/entry.py").read_text().splitlines()
    changes = [line.strip() for line in lines if re.search(r"environ(\[.*\] = |\.(?!get))", line)]

    assert changes == [
        'os.environ.setdefault("PALACE_IDLE_S", "0")',
        'os.environ["HOME"] = home = found',
        'os.environ["TMPDIR"] = f"{home}/tmp"',
    ]


def test_all_that_the_dockerfile_takes_from_here_is_known() -> None:
    assert sources((ROOT / "Dockerfile.base").read_text()) == [
        *("LICENSE", "README.md", "docs/design.md", "images/distroless.py"),
        *("images/entry.py", "images/health.py", "images/light.py", "images/locks"),
        *("images/steps", "palace", "pyproject.toml"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nADD x /x",
        "FROM a\nCOPY *.py /x",
        "FROM a\nCOPY ../x /x",
        'FROM a\nCOPY ["x", "/x"]',
        "FROM a\nRUN <<END\ntrue\nEND",
        "FROM a\nCOPY <<END /x\nEND",
        "FROM a\nRUN --mount=type=cache,target=/c true",
    ],
)
def test_what_could_hide_a_file_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        sources(text)


def test_sources_are_found_in_every_form_that_is_understood() -> None:
    text = (
        "FROM a AS b\n# COPY no /no\ncopy --chmod=0755 one two/ /x/\nCOPY --from=b three /x\n"
        "RUN --mount=type=bind,source=four,target=/f \\\n    # a comment between\n"
        "    --mount=type=bind,from=b,source=five,target=/g --mount=type=secret,id=s true\n"
    )

    assert sources(text) == ["four", "one", "two"]
    assert [each.line for each in instructions(text)] == [1, 3, 4, 5]


def test_a_default_inside_a_stage_is_refused() -> None:
    assert arguments('ARG A=1\nARG B=\nARG C="x y"\nFROM a\nARG A') == {
        "A": "1",
        "B": "",
        "C": "x y",
    }
    for text in ("FROM a\nARG A=1", "FROM a\nARG A", "ARG A=1\nFROM a\nARG A=2"):
        with pytest.raises(NotUnderstood):
            arguments(text)


@pytest.mark.parametrize("text", ["# syntax=docker/dockerfile:1\nFROM a", "FROM a\nRUN true \\"])
def test_other_languages_and_half_a_file_are_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        instructions(text)


def test_patterns_of_dockerignore_are_those_that_are_understood() -> None:
    ignored = Ignored.read("# a comment\n\n**/__pycache__\n**/*.pyc\n")

    assert ignored.covers("palace/__pycache__/x")
    assert ignored.covers("palace/x.pyc")
    assert not ignored.covers("palace/pyc.py")
    for pattern in ("*.py", "docs", "!x", "/a", "**/a/b", "**/a*"):
        with pytest.raises(NotUnderstood):
            Ignored.read(pattern)


def test_arguments_that_the_dockerfile_has_not_are_refused() -> None:
    assert overridden({"A": "1", "B": "2"}, {"B": "3"}) == {"A": "1", "B": "3"}
    with pytest.raises(NotUnderstood, match="no argument C"):
        overridden({"A": "1"}, {"C": "3"})
