"""Guests' tokens: digests in the user's state directory, and a directory with the token alone."""

import json
from pathlib import Path

import attrs
import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.book import digest_of, whose_token
from palace.ownership.claim import find_foreign
from palace.ownership.guest_book import (
    Guest,
    book_path,
    check_name,
    guests_directory,
    prepare_directory,
    read_guests,
    write_guests,
)
from palace.ownership.guest_file import GuestFile, guest_path, read_guest_file
from palace.protocol.errors import ConfigError
from palace.settings.paths import Paths

KERNEL = Kernel()
ID = "a" * 32
TOKENS = {"one": "1" * 64, "two": "2" * 64}
GUESTS = {
    name: Guest(name=name, digest=digest_of(token), read_only=name == "two", since="2026")
    for name, token in TOKENS.items()
}
FILE = GuestFile(
    ["wss://h:1"], name="one", palace="/p", palace_id=ID, token=TOKENS["one"], fingerprint="f"
)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    return prepare_directory(Paths("/p"), environ, KERNEL)


def test_a_book_holds_digests_and_is_its_palaces_alone(directory: str) -> None:
    write_guests(directory, ID, GUESTS, KERNEL)

    assert read_guests(directory, ID, KERNEL) == GUESTS
    assert read_guests(directory, "b" * 32, KERNEL) == {}
    written = Path(book_path(directory))
    assert not [token for token in TOKENS.values() if token in written.read_text()]
    assert (written.stat().st_mode & 0o777, Path(directory).stat().st_mode & 0o777) == (
        0o600,
        0o700,
    )


def test_a_token_is_its_guests_and_nobody_elses() -> None:
    assert whose_token(TOKENS["two"], GUESTS) == GUESTS["two"]
    alike = attrs.evolve(GUESTS["one"], digest=GUESTS["one"].digest[:-1] + "x")
    assert whose_token(TOKENS["one"], {"alike": alike}) is None
    for token in ("", TOKENS["one"][:-1], TOKENS["one"] + "1", GUESTS["one"].digest):
        assert whose_token(token, GUESTS) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"v": 1}',
        json.dumps({"v": 1, "palace_id": ID, "guests": [{"name": "x"}]}),
        json.dumps({"v": 1, "palace_id": ID, "guests": 7}),
        json.dumps(
            {
                "v": 1,
                "palace_id": ID,
                "guests": [{"name": 1, "digest": "", "read_only": False, "since": ""}],
            }
        ),
        json.dumps(
            {
                "v": 1,
                "palace_id": ID,
                "guests": [{"name": "x", "digest": "", "read_only": 0, "since": ""}],
            }
        ),
    ],
)
def test_a_book_that_cant_be_understood_is_named(directory: str, text: str) -> None:
    Path(book_path(directory)).write_text(text)

    with pytest.raises(ConfigError, match="no guest is admitted by it"):
        read_guests(directory, ID, KERNEL)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "A", "-a", "a" * 65, "guests.json", "ü"])
def test_a_name_is_a_directorys(name: str) -> None:
    with pytest.raises(ConfigError, match="can't be a guest's name"):
        check_name(name)


def test_a_plain_name_is_a_guests() -> None:
    names = ("a", "7", "build-1", "a.b_c", "json", "x" * 64)
    accepted = []
    for name in names:
        check_name(name)
        accepted.append(name)

    assert tuple(accepted) == names


def test_two_palaces_have_two_books(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}

    assert guests_directory("/p", environ) != guests_directory("/q", environ)


# The guest's side.


def test_a_guests_directory_leads_elsewhere_and_is_opened_nowhere(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    environ = {"HOME": "/home/me"}
    assert find_foreign(paths, KERNEL, environ) is None
    Path(guest_path(paths)).write_bytes(FILE.encode())

    found = read_guest_file(paths, KERNEL)
    foreign = find_foreign(paths, KERNEL, environ)

    assert found is not None
    assert (found.endpoints, found.token, found.palace_id) == (["wss://h:1"], FILE.token, ID)
    assert foreign is not None
    assert "directory of guest one" in foreign.text()
    assert FILE.token not in foreign.text()


@pytest.mark.parametrize("name", ["palace_id", "chroma.sqlite3"])
def test_a_palace_is_never_taken_for_a_guests_directory(tmp_path: Path, name: str) -> None:
    paths = Paths(str(tmp_path))
    Path(guest_path(paths)).write_bytes(FILE.encode())
    (tmp_path / name).write_text(ID)

    assert read_guest_file(paths, KERNEL) is None
    assert find_foreign(paths, KERNEL, {"HOME": "/home/me"}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"token": 7},
        {"endpoints": "wss://h:1"},
        {"endpoints": [7]},
        {"name": "\u001b[2J"},
        {"token": "x" * 5000},
    ],
)
def test_a_file_that_cant_be_understood_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    paths = Paths(str(tmp_path))
    Path(guest_path(paths)).write_text(json.dumps(json.loads(FILE.encode()) | change))

    assert read_guest_file(paths, KERNEL) is None


def test_a_guest_dials_no_other_kind_of_address(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    urls = ["unix:/run/x.sock", "ssh://h", "wss://h:2"]
    Path(guest_path(paths)).write_text(json.dumps(json.loads(FILE.encode()) | {"endpoints": urls}))

    found = read_guest_file(paths, KERNEL)

    assert found is not None
    assert found.endpoints == ["wss://h:2"]
