"""Which of Debian's files an image without a package manager gets; it itself: test_build.py."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from images.distroless import LEFT, describe, is_linked, led_to, libraries, make_owned, owners

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-query") is None, reason="it takes files of Debian's packages"
)


def test_links_are_followed_to_their_end_and_directories_left_to_their_files(
    tmp_path: Path,
) -> None:
    tmp_path = tmp_path.resolve()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "linked" / "one").symlink_to("two")
    (tmp_path / "real" / "two").symlink_to(tmp_path / "linked" / "file")

    found = list(led_to(f"{tmp_path}/linked/one"))

    assert found == [f"{tmp_path}/real/{name}" for name in ("one", "two", "file")]
    assert list(led_to(f"{tmp_path}/linked")) == [f"{tmp_path}/linked"]


def test_what_a_program_is_linked_to_is_taken_and_what_its_links_lead_to() -> None:
    program = os.path.realpath(shutil.which("ls") or "")
    found = libraries([program])

    assert is_linked(program)
    names = {path.rpartition("/")[2] for path in found}
    assert any(name.startswith("libc.so.") for name in names)
    assert any(name.startswith("ld-linux") for name in names), "the loader, too"
    assert all(os.path.realpath(path) in found for path in found)
    assert libraries([__file__]) == set()


@pytest.mark.parametrize(
    ("path", "is_left"),
    [
        ("/usr/lib/python3.13/json/decoder.py", False),
        ("/usr/lib/python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so", False),
        ("/usr/bin/python3.13", False),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", False),
        ("/usr/share/zoneinfo/UTC", False),
        ("/usr/bin/py3compile", True),
        ("/usr/bin/pdb3.13", True),
        ("/usr/sbin/ldconfig", True),
        ("/usr/lib/python3.13/ensurepip/__init__.py", True),
        ("/usr/lib/python3.13/test/libregrtest/main.py", True),
        ("/usr/lib/python3.13/__pycache__/abc.cpython-313.pyc", True),
        ("/usr/lib/x86_64-linux-gnu/gconv/UTF-7.so", True),
        ("/usr/share/man/man1/python3.13.1.gz", True),
    ],
)
def test_what_is_for_others_than_palace_is_left(path: str, *, is_left: bool) -> None:
    assert (LEFT.match(path) is not None) is is_left


def test_packages_are_noted_with_their_licences(tmp_path: Path) -> None:
    [name] = owners([shutil.which("dpkg-query") or ""])
    describe(name, tmp_path)

    said = (tmp_path / "var/lib/dpkg/status.d" / name).read_text()
    assert said.startswith(f"Package: {name}\n")
    assert "\nVersion: " in said
    describe("libstdc++6", tmp_path)  # whose licence is another package's
    for each in (name, "libstdc++6"):
        assert (tmp_path / "usr/share/doc" / each / "copyright").stat().st_size


def test_the_volumes_place_is_its_users_alone(tmp_path: Path) -> None:
    make_owned(tmp_path)

    assert stat.S_IMODE((tmp_path / "top" / "mempalace").stat().st_mode) == 0o700
    model = tmp_path / "home/palace/.cache/chroma/onnx_models/all-MiniLM-L6-v2"
    assert str(model.readlink()) == "/opt/palace-model"
