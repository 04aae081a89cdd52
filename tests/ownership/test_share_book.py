"""The book of a palace's shares: what was written is read, and nothing else is believed."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.book import BOOK_BYTES_MAX, Watched, digest_of
from palace.ownership.share_book import (
    SHARES_MAX,
    WINGS_MAX,
    Share,
    read_shares,
    shares_path,
    write_shares,
)
from palace.protocol.errors import ConfigError

KERNEL = Kernel()
ID = "a" * 32


def share(name: str, *wings: str, kinds: tuple[str, ...] = ("drawers", "facts")) -> Share:
    return Share(name=name, digest=digest_of(name), wings=wings, kinds=kinds, since="2026")


SHARES = {one.name: one for one in (share("b"), share("a", "work", "home"))}


def test_a_book_is_read_as_it_was_written_and_is_its_palaces_alone(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert read_shares(directory, ID, KERNEL) == {}
    write_shares(directory, ID, SHARES, KERNEL)

    assert read_shares(directory, ID, KERNEL) == SHARES
    assert list(read_shares(directory, ID, KERNEL)) == ["a", "b"]
    assert read_shares(directory, "b" * 32, KERNEL) == {}
    assert Path(shares_path(directory)).stat().st_mode & 0o777 == 0o600


ODD: dict[str, dict[str, Any]] = {
    "a name that is none": {"name": 7},
    "a name of two lines": {"name": "a\nb"},
    "no digest": {"digest": None},
    "no time": {"since": None},
    "wings that are a text": {"wings": "work"},
    "wings that are numbers": {"wings": [7]},
    "kinds that are a text": {"kinds": "facts"},
    "kinds that are numbers": {"kinds": [None]},
    "too many wings": {"wings": ["w"] * (WINGS_MAX + 1)},
    "too many kinds": {"kinds": ["k"] * (WINGS_MAX + 1)},
}


@pytest.mark.parametrize("what", ODD)
def test_of_a_book_with_an_odd_entry_nothing_is_shared(tmp_path: Path, what: str) -> None:
    write_shares(str(tmp_path), ID, SHARES, KERNEL)
    path = Path(shares_path(str(tmp_path)))
    book = json.loads(path.read_text())
    book["shares"][0] |= ODD[what]
    path.write_text(json.dumps(book))

    with pytest.raises(ConfigError, match=r"nothing is shared by it.*palace share new") as caught:
        read_shares(str(tmp_path), ID, KERNEL)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["name", "digest", "wings", "kinds", "since"])
def test_an_entry_that_lacks_something_is_none(tmp_path: Path, field: str) -> None:
    write_shares(str(tmp_path), ID, SHARES, KERNEL)
    path = Path(shares_path(str(tmp_path)))
    book = json.loads(path.read_text())
    del book["shares"][1][field]
    path.write_text(json.dumps(book))

    with pytest.raises(ConfigError):
        read_shares(str(tmp_path), ID, KERNEL)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 30_000, '{"v": 1}'])
def test_what_is_no_book_is_refused(tmp_path: Path, text: str) -> None:
    Path(shares_path(str(tmp_path))).write_text(text)

    with pytest.raises(ConfigError):
        read_shares(str(tmp_path), ID, KERNEL)


def test_a_book_of_a_later_version_shares_nothing(tmp_path: Path) -> None:
    write_shares(str(tmp_path), ID, SHARES, KERNEL)
    path = Path(shares_path(str(tmp_path)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"v": 2}))

    assert read_shares(str(tmp_path), ID, KERNEL) == {}


def test_a_book_holds_so_many_and_no_more(tmp_path: Path) -> None:
    full = share("w", *["x"] * WINGS_MAX)
    write_shares(str(tmp_path), ID, {"w": full}, KERNEL)
    assert read_shares(str(tmp_path), ID, KERNEL) == {"w": full}

    many = {f"{n:03}": share(f"{n:03}") for n in range(SHARES_MAX + 1)}
    write_shares(str(tmp_path), ID, many, KERNEL)
    assert list(read_shares(str(tmp_path), ID, KERNEL)) == sorted(many)[:SHARES_MAX]


def test_a_book_that_was_changed_is_read_again_and_once(tmp_path: Path) -> None:
    notes: list[str] = []
    reads: list[int] = []

    def read() -> dict[str, Share]:
        reads.append(1)
        return read_shares(str(tmp_path), ID, KERNEL)

    path = shares_path(str(tmp_path))
    book = Watched(path=path, read=read, kernel=KERNEL, note=notes.append)
    assert (book.look(), book.look(), len(reads)) == ({}, {}, 0)
    write_shares(str(tmp_path), ID, SHARES, KERNEL)
    assert (book.look(), book.look(), len(reads)) == (SHARES, SHARES, 1)
    Path(path).write_text("{")
    assert (book.look(), book.look(), len(reads)) == ({}, {}, 2)
    assert len(notes) == 1
    assert path in notes[0]
    write_shares(str(tmp_path), ID, {"a": SHARES["a"]}, KERNEL)
    assert book.look() == {"a": SHARES["a"]}
    Path(path).unlink()
    assert book.look() == {}


def test_no_book_is_kept_without_a_path() -> None:
    looked: list[str] = []

    class Noting(Kernel):
        def signature(self, path: str) -> tuple[int, int, int] | None:
            looked.append(path)
            return super().signature(path)

    book = Watched(path="", read=lambda: SHARES, kernel=Noting(), note=print)
    assert (book.look(), looked) == ({}, [])


def test_a_book_beyond_its_size_is_none(tmp_path: Path) -> None:
    path = Path(shares_path(str(tmp_path)))
    text = json.dumps({"v": 1, "palace_id": ID, "shares": []})
    path.write_text(text + " " * (BOOK_BYTES_MAX - len(text)))
    assert read_shares(str(tmp_path), ID, KERNEL) == {}
    path.write_text(text[:-1] + " " * BOOK_BYTES_MAX + "}")
    with pytest.raises(ConfigError):
        read_shares(str(tmp_path), ID, KERNEL)
