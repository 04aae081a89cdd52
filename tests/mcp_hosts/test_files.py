"""Other programs' configurations: whole or not at all, and not over what came meanwhile."""

import os
from pathlib import Path

import pytest

from palace.mcp_hosts.files import (
    missing_directories,
    read_configuration,
    remove_configuration,
    remove_empty,
    write_configuration,
)
from palace.protocol.errors import HostFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "host" / "mcp.json"
    path.parent.mkdir()
    path.write_bytes(b"\xef\xbb\xbf{\r\n}")
    path.chmod(0o640)
    return path


def test_a_file_is_read_with_its_mark_and_written_with_its_mode(path: Path) -> None:
    before = read_configuration(str(path))
    assert (before.bom, before.text) == ("\ufeff", "{\r\n}")

    assert missing_directories(before) == []
    write_configuration(before, before.encoded("[]"))

    assert path.read_bytes() == b"\xef\xbb\xbf[]"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["mcp.json"]


def test_what_was_written_meanwhile_is_neither_replaced_nor_removed(path: Path) -> None:
    before = read_configuration(str(path))
    path.write_text("somebody's")

    with pytest.raises(HostFile, match="changed by another program just now"):
        write_configuration(before, b"ours")
    with pytest.raises(HostFile, match="changed by another program just now"):
        remove_configuration(before, [str(path.parent)])

    assert path.read_text() == "somebody's"
    assert os.listdir(path.parent) == ["mcp.json"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    before = read_configuration(str(path))
    path.write_text("somebody's")

    with pytest.raises(HostFile, match="changed by another program"):
        write_configuration(before, b"ours")

    assert path.read_text() == "somebody's"


def test_directories_that_were_made_for_a_file_go_with_it_unless_something_is_in_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a" / "b" / "mcp.json"
    made = missing_directories(read_configuration(str(path)))
    write_configuration(read_configuration(str(path)), b"{}")
    assert made == [str(tmp_path / "a"), str(tmp_path / "a/b")]
    (tmp_path / "a/other").write_text("somebody's")

    kept = remove_configuration(read_configuration(str(path)), made)

    assert kept == [str(tmp_path / "a")]
    assert os.listdir(tmp_path / "a") == ["other"]
    (tmp_path / "a/other").unlink()
    assert remove_empty(kept) == []
    assert os.listdir(tmp_path) == []


def test_a_link_is_followed_and_stays(path: Path) -> None:
    link = path.with_name("link.json")
    link.symlink_to("mcp.json")

    write_configuration(read_configuration(str(link)), b"{}")

    assert link.is_symlink()
    assert path.read_bytes() == b"{}"


@pytest.mark.parametrize("inside", [True, False])
def test_a_projects_link_may_not_lead_out_of_it(path: Path, inside: bool) -> None:
    project = path.parent if inside else path.parent / "project"
    project.mkdir(exist_ok=True)
    link = project / "link.json"
    link.symlink_to(path)

    if inside:
        assert read_configuration(str(link), beneath=str(project)).real == str(path)
    else:
        with pytest.raises(HostFile, match="leads out of its project"):
            read_configuration(str(link), beneath=str(project))


def test_what_is_no_text_or_no_file_is_left_alone(path: Path) -> None:
    path.write_bytes(b"{\n\xff}")
    with pytest.raises(HostFile, match="line 2: invalid start byte"):
        read_configuration(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HostFile, match="not a regular file"):
        read_configuration(str(path))
