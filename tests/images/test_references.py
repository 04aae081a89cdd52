"""References looked up where they live: git repositories on this disk, a registry on loopback."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.__main__ import ROOT, build_arguments, look_up, repin, show_pins
from images.inputs import arguments
from images.references import (
    Image,
    Resolved,
    Unresolved,
    parse_image,
    resolve_all,
    resolve_commit,
    resolve_image,
)
from tests.support.machines.needs import need_command

DIGEST = "sha256:" + "5" * 64
OTHER = "sha256:" + "6" * 64
LIST = "application/vnd.oci.image.index.v1+json"


def git(directory: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "tag.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, "-C", str(directory), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(directory: Path, text: str) -> str:
    (directory / "file").write_text(text)
    git(directory, "add", "file")
    git(directory, "commit", "--quiet", "--message", text)
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    need_command("git")
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "--quiet", "--initial-branch", "main")
    commit(directory, "first")
    git(directory, "tag", "light")
    git(directory, "tag", "--annotate", "--message", "m", "heavy")
    git(directory, "tag", "both")
    git(directory, "branch", "topic/one")
    commit(directory, "second")
    git(directory, "branch", "both")
    return directory


def test_branches_tags_and_commits_are_resolved(repository: Path) -> None:
    first, second = (git(repository, "rev-parse", name) for name in ("HEAD~1", "HEAD"))
    url = str(repository)
    wanted = {
        "main": second,
        "topic/one": first,
        "light": first,
        "heavy": first,
        "HEAD": second,
        "refs/heads/both": second,
        "both": first,
        second: second,
    }

    assert {ref: resolve_commit(url, ref) for ref in wanted} == {
        ref: Resolved(sha) for ref, sha in wanted.items()
    }


def test_a_branch_that_moves_is_another_commit(repository: Path) -> None:
    before = resolve_commit(str(repository), "main")
    third = commit(repository, "third")

    assert resolve_commit(str(repository), "main") == Resolved(third) != before


@pytest.mark.parametrize("ref", ["absent", "abc1234", "mai", "--upload-pack=x"])
def test_what_a_repository_has_not_is_unresolved(ref: str, repository: Path) -> None:
    found = resolve_commit(str(repository), ref)

    assert isinstance(found, Unresolved)
    assert ref in found.why


@pytest.mark.parametrize("url", ["", "/nonexistent/repository", "git://127.0.0.1:1/x", "--help"])
def test_a_repository_that_does_not_answer_is_unresolved(url: str) -> None:
    assert isinstance(resolve_commit(url, "main"), Unresolved)


def test_a_commit_needs_no_repository() -> None:
    assert resolve_commit("/nonexistent", "a" * 40) == Resolved("a" * 40)


# A registry that speaks as Docker's does: it wants a token first, which anybody gets.


class Registry(http.server.BaseHTTPRequestHandler):
    digest = DIGEST
    kind = LIST

    def do_HEAD(self) -> None:
        assert isinstance(self.server, http.server.ThreadingHTTPServer)
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.headers.get("Authorization") != "Bearer of-anybody":
            self.send_response(401)
            challenge = f'Bearer realm="{here}/token",service="here",scope="repository:a/b:pull"'
            self.send_header("WWW-Authenticate", challenge)
        elif self.path == "/v2/a/b/manifests/slim" and LIST in self.headers["Accept"]:
            self.send_response(200)
            self.send_header("Content-Type", self.kind)
            self.send_header("Docker-Content-Digest", self.digest)
        else:
            self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        good = self.path == "/token?service=here&scope=repository%3Aa%2Fb%3Apull"
        self.send_response(200 if good else 403)
        self.end_headers()
        self.wfile.write(b'{"token": "of-anybody"}')

    def log_message(self, *_words: object) -> None:
        pass


@contextmanager
def registry(**said: str) -> Iterator[str]:
    """Yield the name under which a registry is reached."""
    handler = type("Answers", (Registry,), said)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_tag_of_an_image_is_resolved_by_its_registry() -> None:
    with registry() as name:
        assert resolve_image(f"{name}/a/b:slim") == Resolved(f"{name}/a/b:slim@{DIGEST}")
    with registry(digest=OTHER) as name:
        assert resolve_image(f"{name}/a/b:slim") == Resolved(f"{name}/a/b:slim@{OTHER}")


def test_an_image_with_a_digest_is_what_it_says() -> None:
    name = f"nowhere.invalid/a@{DIGEST}"

    assert resolve_image(name) == Resolved(name)
    assert isinstance(resolve_image("nowhere.invalid/a@sha256:12"), Unresolved)


@pytest.mark.parametrize(
    "said", [{"kind": "application/vnd.oci.image.manifest.v1+json"}, {"digest": "sha256:5"}]
)
def test_an_answer_for_one_architecture_or_without_digest_is_no_answer(
    said: dict[str, str],
) -> None:
    with registry(**said) as name:
        assert isinstance(resolve_image(f"{name}/a/b:slim"), Unresolved)


def test_an_image_that_nobody_knows_is_unresolved() -> None:
    with registry() as name:
        assert isinstance(resolve_image(f"{name}/a/b:absent"), Unresolved)
    assert isinstance(resolve_image(f"{name}/a/b:slim"), Unresolved)  # it is gone


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("debian", ("docker.io", "library/debian", "latest", "")),
        ("debian:slim", ("docker.io", "library/debian", "slim", "")),
        ("a/b:1", ("docker.io", "a/b", "1", "")),
        ("ghcr.io/a/b/c", ("ghcr.io", "a/b/c", "latest", "")),
        ("localhost:5000/a", ("localhost:5000", "a", "latest", "")),
        (f"debian:slim@{DIGEST}", ("docker.io", "library/debian", "slim", DIGEST)),
        (f"debian@{DIGEST}", ("docker.io", "library/debian", "", DIGEST)),
    ],
)
def test_names_of_images_are_read_as_docker_reads_them(
    name: str, parts: tuple[str, str, str, str]
) -> None:
    registry_name, repository_name, tag, digest = parts

    assert parse_image(name) == Image(
        registry=registry_name, repository=repository_name, tag=tag, digest=digest
    )


# All arguments together.


def test_the_end_of_a_name_says_how_it_is_resolved(repository: Path) -> None:
    given = {
        "A_GIT": str(repository),
        "A_REF": "main",
        "B_REF": "",
        "C_VERSION": "3.11.0",
        "D_SNAPSHOT": "20261115T000000Z",
        "E_IMAGE": f"a@{DIGEST}",
        "F_UID": "main",
    }
    found = resolve_all(given)

    assert found == {name: Resolved(value) for name, value in given.items()} | {
        "A_REF": Resolved(git(repository, "rev-parse", "main"))
    }
    for name, value in {"C_VERSION": ">=3", "D_SNAPSHOT": "", "A_REF": "main"}.items():
        assert isinstance(resolve_all({name: value})[name], Unresolved)


def test_a_build_gets_what_was_looked_up(repository: Path) -> None:
    found = look_up(ROOT, {"PALACE_GIT": str(repository), "PALACE_REF": "heavy"})
    values = build_arguments(found)

    assert f"PALACE_REF={git(repository, 'rev-parse', 'heavy^{commit}')}" in values
    assert len(values) == len(arguments((ROOT / "Dockerfile.base").read_text())) + 1
    assert any(value.startswith("SOURCE_DATE_EPOCH=1") for value in values)


def test_a_failed_lookup_makes_the_command_print_a_new_tag_each_time() -> None:
    command = [sys.executable, "-m", "images", "tag"]
    lost = ["PALACE_GIT=/nonexistent", "PALACE_REF=main"]
    runs = [
        subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=True)
        for more in (lost, lost, [], [])
    ]
    tags = [run.stdout for run in runs]

    assert len(set(tags)) == 3
    assert tags[2] == tags[3]
    assert "PALACE_REF is not resolved" in runs[0].stderr
    assert not runs[2].stderr


def test_pins_are_renewed_where_they_are_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with registry() as name:
        text = f"ARG BASE_IMAGE={name}/a/b:slim@{OTHER}\nARG DEBIAN_SNAPSHOT=\nFROM a\nRUN x\n"
        (tmp_path / "Dockerfile.base").write_text(text)
        assert show_pins(tmp_path, write=False, check=True) == 1
        assert (tmp_path / "Dockerfile.base").read_text() == text

        assert show_pins(tmp_path, write=True, check=False) == 0
        assert show_pins(tmp_path, write=False, check=True) == 0
        written = arguments((tmp_path / "Dockerfile.base").read_text())
        assert written["BASE_IMAGE"] == f"{name}/a/b:slim@{DIGEST}"
        assert not isinstance(resolve_all(written)["DEBIAN_SNAPSHOT"], Unresolved)
    assert show_pins(tmp_path, write=True, check=True) == 2
    assert "is not resolved" in capsys.readouterr().err


def test_nothing_but_the_pins_is_rewritten() -> None:
    text = (ROOT / "Dockerfile.base").read_text()
    values = arguments(text)

    assert repin(text, {name: values[name] for name in ("BASE_IMAGE", "DEBIAN_SNAPSHOT")}) == text
    changed = repin(text, {"DEBIAN_SNAPSHOT": "20270101T000000Z"})
    assert sum(a != b for a, b in zip(text.split("\n"), changed.split("\n"), strict=True)) == 1


def test_what_was_looked_up_names_the_same_tag(repository: Path) -> None:
    def said(command: str, *given: str) -> list[str]:
        words = [sys.executable, "-m", "images", command, *given]
        return subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    named = [f"PALACE_GIT={repository}", "PALACE_REF=main"]

    assert said("tag", *said("args", *named)) == said("tag", *named)
