"""Names that come out of files lead nowhere but beneath their directory."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from palace.kernel import beneath
from palace.kernel.beneath import OutsideError, open_beneath
from palace.kernel.kernel import Kernel

KERNEL = Kernel()


@pytest.fixture(params=["openat2", "part by part"])
def top(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a directory with files, links, and a secret beside it; twice, by both ways."""
    if request.param == "part by part":
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)  # no kernel has that call: ENOSYS
    top = tmp_path / "palace"
    (top / "inner").mkdir(parents=True)
    (top / "plain").write_text("plain")
    (top / "inner/deep").write_text("deep")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/deep").write_text("secret")
    (top / "link").symlink_to("../secret")
    (top / "own_link").symlink_to("plain")
    (top / "outside").symlink_to("../elsewhere")
    (top / "loop").symlink_to("loop")
    return top


BAD = [
    *("../secret", "inner/../../secret", "/etc/passwd", "", ".", "..", "inner//deep", "inner/"),
    *(
        "link",
        "own_link",
        "outside/deep",
        "loop",
        "plain/x",
        "a\0b",
        "x" * 300,
        "/".join("abcdefghij"),
    ),
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_leads_elsewhere_is_refused_by_every_call(top: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in top.parent.rglob("*") if path.is_file()}
    calls = (
        lambda: KERNEL.read_beneath(str(top), name),
        lambda: open_beneath(str(top), name, os.O_WRONLY | os.O_CREAT),
        lambda: KERNEL.rename_beneath(str(top), "plain", name),
    )
    for number, call in enumerate(calls):
        if number == 2 and name in ("link", "own_link", "loop"):
            continue  # a rename replaces a link, and follows none
        with pytest.raises(OutsideError):
            call()

    after = {path: path.read_bytes() for path in top.parent.rglob("*") if path.is_file()}
    assert after == before


def test_plain_names_are_read_renamed_and_told_apart(top: Path) -> None:
    assert KERNEL.read_beneath(str(top), "inner/deep") == b"deep"
    assert KERNEL.read_beneath(str(top), "absent") is None
    assert KERNEL.id_beneath(str(top), "absent") is None
    assert KERNEL.id_beneath(str(top), "inner/deep") is not None
    KERNEL.rename_beneath(str(top), "plain", "kept/plain")

    assert (top / "kept/plain").read_text() == "plain"
    assert KERNEL.id_beneath(str(top), "plain") is None


def test_a_fifo_is_refused_and_not_waited_for(top: Path) -> None:
    os.mkfifo(top / "fifo")
    for read in (
        lambda: KERNEL.read_beneath(str(top), "fifo"),
        lambda: KERNEL.open_read(f"{top}/fifo"),
        lambda: KERNEL.read_file(f"{top}/fifo"),
    ):
        with pytest.raises(OSError, match="no regular file"):
            read()


def test_no_descriptor_is_left_open(top: Path) -> None:
    def descriptors() -> list[str]:
        return os.listdir("/dev/fd")

    before = len(descriptors())
    for name in (*BAD, "inner/deep", "absent"):
        try:
            KERNEL.read_beneath(str(top), name)
        except OSError:
            continue
    assert len(descriptors()) == before


@pytest.fixture
def flipping(top: Path) -> Iterator[None]:
    """Let a directory become a link that leads outside, and a directory again, all the time."""
    end = Event()

    def flip() -> None:
        while not end.is_set():
            os.rename(top / "inner", top / "away")
            os.symlink("../elsewhere", top / "inner")
            os.unlink(top / "inner")
            os.rename(top / "away", top / "inner")

    thread = Thread(target=flip)
    thread.start()
    yield
    end.set()
    thread.join()


@pytest.mark.usefixtures("flipping")
def test_a_link_that_comes_and_goes_is_never_followed(top: Path) -> None:
    seen = set()
    for _ in range(3000):
        try:
            seen.add(KERNEL.read_beneath(str(top), "inner/deep"))
        except OutsideError:
            continue
    assert seen <= {b"deep", None}
    assert b"deep" in seen


def test_a_directory_is_not_taken_for_a_link_to_one(top: Path) -> None:
    with pytest.raises(NotADirectoryError):
        KERNEL.make_directory(str(top / "outside"))
    KERNEL.make_directory(str(top / "inner"))


def test_a_new_directory_is_durable_before_what_is_renamed_into_it(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    mkdir, rename, fsync = os.mkdir, os.rename, os.fsync

    def noting(name: str, call: Any) -> Any:
        def noted(*given: Any, **named: Any) -> Any:
            where = os.readlink(f"/proc/self/fd/{given[0]}") if name == "fsync" else ""
            calls.append(f"{name} {Path(where).name}".strip())
            return call(*given, **named)

        return noted

    for name, call in (("mkdir", mkdir), ("rename", rename), ("fsync", fsync)):
        monkeypatch.setattr(os, name, noting(name, call))
    KERNEL.rename_beneath(str(top), "plain", "kept/plain")

    assert calls == ["mkdir", f"fsync {top.name}", "rename", "fsync kept", f"fsync {top.name}"]
