"""What contributors rely on: hooks that are the recipes, fragments, a release, a lock file."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from images.light import make_light
from tests.support.faults.killing import is_deep, is_full
from tests.support.machines.needs import need_command

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
NAME = {"GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e"}
NAME |= {"GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "e"}
COPIED = (
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "docs", "changelog.d", "contract"),
    *("images", "Dockerfile.base", ".dockerignore", "tests/contract", "tests/__init__.py"),
)


def run(directory: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | NAME | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(
        words, cwd=directory, env=environ, capture_output=True, text=True, check=False
    )


def git(directory: Path, *words: str) -> str:
    done = run(directory, "git", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(directory: Path, path: str, text: str) -> None:
    (directory / path).write_text(text)
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with what a release is made of, and `check` that says that it was run."""
    need_command("git")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    for fragment in (tmp_path / "changelog.d").glob("*.*.md"):
        fragment.unlink()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci" / "release")
    (tmp_path / "palace").mkdir()
    recipes = (ROOT / "justfile").read_text()
    recipes = re.sub(r"\ncheck: .*\n", "\ncheck:\n    touch .git/checked\n", recipes)
    recipes = recipes.replace("    .ci/try-release ", "    test ! -e .git/fails && ls ")
    (tmp_path / "justfile").write_text(recipes)
    (tmp_path / ".gitignore").write_text("dist/\n__pycache__/\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    commit(tmp_path, "palace/__init__.py", '"""One."""\n\n__version__ = "0.1.0"\n')
    git(tmp_path, "checkout", "--quiet", "-b", "topic")
    return tmp_path


def test_hooks_are_the_fast_recipes_of_check() -> None:
    dumped = run(ROOT, BIN / "just", "--dump", "--dump-format", "json").stdout
    check = [part["recipe"] for part in json.loads(dumped)["recipes"]["check"]["dependencies"]]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [local] = config["repos"]

    assert (check[0], check[-1]) == ("setup", "test")
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [
        f".venv/bin/just {recipe}" for recipe in check[1:-1]
    ]
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in local["hooks"])


def test_hooks_are_of_pre_commit_s_schema() -> None:
    done = run(ROOT, BIN / "pre-commit", "validate-config", ".pre-commit-config.yaml")

    assert done.returncode == 0, done.stdout


def test_what_was_built_is_cleaned_away_and_nothing_else(repository: Path) -> None:
    for path in ("dist/apko/melange.rsa", "dist/0.1.0/a.whl", "build/lib/a.py"):
        (repository / path).parent.mkdir(parents=True)
        (repository / path).touch()
    before = git(repository, "ls-files")

    assert run(repository, BIN / "just", "clean").returncode == 0
    assert not [name for name in ("dist", "build") if (repository / name).exists()]
    assert git(repository, "ls-files", "--deleted") == ""
    assert git(repository, "ls-files") == before


def test_a_change_of_the_package_wants_a_fragment(repository: Path) -> None:
    check = (BIN / "just", "changelog-check", "main")
    commit(repository, "README.md", "told in another way")
    assert run(repository, *check).returncode == 0

    commit(repository, "palace/new.py", '"""New."""\n')
    refused = run(repository, *check)
    assert refused.returncode == 1
    assert "No new newsfragments found" in refused.stdout + refused.stderr

    commit(repository, "changelog.d/new.feature.md", "There is something new.\n")
    assert run(repository, *check).returncode == 0


def test_a_fragment_of_no_known_kind_is_none(repository: Path) -> None:
    commit(repository, "palace/new.py", '"""New."""\n')
    commit(repository, "changelog.d/new.novelty.md", "There is something new.\n")

    assert run(repository, BIN / "just", "changelog-check", "main").returncode == 1


def test_fragments_have_kinds_that_a_release_knows() -> None:
    names = [path.name for path in (ROOT / "changelog.d").iterdir()]
    fragments = set(names) - {"README.md", "template.md.jinja"}

    for name in fragments:
        assert re.fullmatch(r"[a-z0-9-]+\.(?:break|feature|fix|docs)\.md", name), name


@pytest.mark.process
@pytest.mark.skipif(not is_deep(), reason="builds a release: PALACE_TEST_PROFILE=deep")
def test_a_release_is_shown_first_and_then_made(repository: Path) -> None:
    commit(repository, "changelog.d/old-way.break.md", "Say `new` instead of `old`.\n")
    commit(repository, "changelog.d/two.fix.md", "One thing works.\n")
    commit(repository, "changelog.d/unseen.docs.md", "")
    before = git(repository, "rev-parse", "HEAD")

    shown = run(repository, BIN / "just", "release", "0.2.0")
    assert shown.returncode == 0, shown.stderr
    assert "## 0.2.0" in shown.stdout
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "HEAD") == before
    assert not (repository / ".git" / "checked").exists()

    made = run(repository, BIN / "just", "release", "0.2.0", "--now")
    assert made.returncode == 0, made.stdout + made.stderr
    assert (repository / ".git" / "checked").exists()
    assert '__version__ = "0.2.0"' in (repository / "palace" / "__init__.py").read_text()
    section = (
        r"## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n"
        r"### Breaking changes\n\n- Say `new` instead of `old`\.\n\n"
        r"### Fixed\n\n- One thing works\.\n\n## 0\.1\.0\n"
    )
    assert re.search(section, (repository / "CHANGELOG.md").read_text())
    assert [path.name for path in (repository / "changelog.d").glob("*.*.md")] == []
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "v0.2.0^{commit}") == git(repository, "rev-parse", "HEAD")
    assert git(repository, "log", "-1", "--format=%s") == "Release 0.2.0"
    dist = repository / "dist" / "0.2.0"
    wheel = zipfile.ZipFile(dist / "palace_broker-0.2.0-py3-none-any.whl")
    assert "palace/__init__.py" in wheel.namelist()
    contract = (ROOT / "contract" / "VERSION").read_text().strip()
    assert {path.name for path in dist.iterdir()} == {
        *("palace_broker-0.2.0-py3-none-any.whl", "palace_broker-0.2.0.tar.gz"),
        "palace_shim-0.2.0-py3-none-any.whl",
        *(f"palace_contract-{contract}-py3-none-any.whl", f"palace_contract-{contract}.tar.gz"),
        *(f"palace-contract-{contract}.tgz", "images.txt", "SHA256SUMS"),
    }
    assert re.fullmatch(
        r"palace-shim:([0-9a-f]{20})\npalace-full:\1\npalace-distroless:\1\n",
        (dist / "images.txt").read_text(),
    )
    assert run(dist, "sha256sum", "--check", "--strict", "SHA256SUMS").returncode == 0
    assert "git push --atomic origin HEAD v0.2.0" in made.stdout


@pytest.mark.process
@pytest.mark.skipif(not is_deep(), reason="builds a release: PALACE_TEST_PROFILE=deep")
def test_a_release_that_can_not_be_installed_leaves_nothing_behind(repository: Path) -> None:
    commit(repository, "changelog.d/two.fix.md", "One thing works.\n")
    (repository / ".git" / "fails").touch()
    made = run(repository, BIN / "just", "release", "0.2.0", "--now")

    assert made.returncode != 0
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag") == ""
    assert git(repository, "log", "-1", "--format=%s") == "changelog.d/two.fix.md"
    assert list((repository / "dist").iterdir()) == []


STUB = """#!/bin/sh
case "$(basename "$0") $*" in
  *"python -m build"*) mkdir -p "$6" && touch "$6/built" ;;
  *"python -m images tag") echo t ;;
  *towncrier*) git rm --quiet changelog.d/*.*.md && echo told > CHANGELOG.md ;;
esac
"""


@pytest.mark.process
def test_a_release_whose_tag_fails_leaves_no_commit_and_can_be_made_again(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With nothing checked, and nothing built: stubs have the names of what does that."""
    commit(repository, "changelog.d/two.fix.md", "One thing works.\n")
    before = git(repository, "rev-parse", "HEAD")
    stubs = tmp_path_factory.mktemp("stubs")
    for name in ("just", "python", "npm", "towncrier"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    made = ("env", f"PATH={stubs}:{os.environ['PATH']}", ".ci/release", "0.2.0", "--now")
    git(repository, "config", "tag.gpgSign", "true")
    git(repository, "config", "gpg.program", "false")
    failed = run(repository, *made)

    assert failed.returncode != 0
    assert "tag" in failed.stderr, "it came that far"
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag") == ""
    assert list((repository / "dist").iterdir()) == []

    git(repository, "config", "tag.gpgSign", "false")
    again = run(repository, *made)
    assert again.returncode == 0, again.stderr
    assert git(repository, "rev-parse", "v0.2.0^{commit}") == git(repository, "rev-parse", "HEAD")
    assert git(repository, "rev-parse", "HEAD^") == before
    assert (repository / "dist" / "0.2.0" / "images.txt").exists()


@pytest.mark.process
@pytest.mark.skipif(not is_full(), reason="installs palace four times: PALACE_TEST_PROFILE=full")
def test_what_is_built_can_be_installed_and_tried(tmp_path: Path, model_home: Path) -> None:
    """And what a shim needs is nothing of the engine's."""
    run(ROOT, sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path)
    make_light(next(tmp_path.glob("*.whl")), tmp_path)
    environ = os.environ | {"HOME": str(model_home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    tried = subprocess.run(
        [ROOT / ".ci" / "try-release", tmp_path],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    print(tried.stdout)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert tried.stdout.count("none of the engine's") == 2
    assert tried.stdout.count("a scratch palace") == 3


@pytest.mark.parametrize(
    ("version", "dirty", "words"),
    [
        ("0.1.0", False, "0.1.0 is not newer than 0.1.0"),
        ("0.0.9", False, "0.0.9 is not newer than 0.1.0"),
        ("next", False, "'next' is not a version"),
        ("0.3.0", False, "the tag v0.3.0 exists"),
        ("0.2.0", True, "the work tree has changes"),
        ("0.2.0", False, "changelog.d has no fragment"),
    ],
)
def test_what_can_not_be_released_changes_nothing(
    version: str, dirty: bool, words: str, repository: Path
) -> None:
    git(repository, "tag", "v0.3.0")
    if dirty:
        (repository / "README.md").write_text("under way")
    done = run(repository, BIN / "just", "release", version, "--now")

    assert done.returncode != 0
    assert words in done.stderr
    assert not (repository / ".git" / "checked").exists()


def test_the_lock_has_every_requirement_of_the_extras() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    wanted = set(re.findall(r'^    "([a-zA-Z0-9-]+)(?:\[[^]]*\])?[<>=]', text, re.MULTILINE))
    lock = (ROOT / "requirements-dev.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))

    assert len(wanted) > 25
    assert {name.lower() for name in wanted} - pinned == set(), "run: just lock"
