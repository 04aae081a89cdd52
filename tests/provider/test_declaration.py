"""What counts as a declaration, and what leaves a slot empty with the reason beside it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.provider.declaration import (
    BYTES_MAX,
    NAME,
    Command,
    heartbeat_age_s,
    read_slot,
    slot_file,
    writable_for_others,
)
from tests.provider.scripts import declared

WHOLE: dict[str, Any] = {
    "provider": " notes ",
    "package": "notes-memory",
    "version": "2.0",
    "registeredAt": "2026-01-31T12:00:00Z",
}


def read(path: Path, text: str | bytes) -> Any:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return read_slot(str(path))


def test_a_declaration_needs_no_more_than_who_it_is(tmp_path: Path) -> None:
    found = read(tmp_path / "slot", json.dumps(WHOLE | {"unknown": [1]}))

    assert not found.problem
    assert found.declaration.provider == "notes"
    assert found.declaration.provision is None
    assert found.declaration.heartbeat == ""


@pytest.mark.parametrize("path", ["beat", "./beat", "~/beat", "", 7, ["/beat"], "/b\nc"])
def test_a_heartbeat_that_is_no_full_path_is_none(tmp_path: Path, path: Any) -> None:
    found = read(tmp_path / "slot", json.dumps(WHOLE | {"heartbeat": path}))

    assert found.declaration is not None
    assert found.declaration.heartbeat == ""
    assert heartbeat_age_s(found.declaration) is None


@pytest.mark.parametrize("age_s", [-3600, 3600, 30 * 86_400])
def test_a_heartbeat_is_as_old_as_its_file_says(tmp_path: Path, age_s: int) -> None:
    beat = tmp_path / "beat"
    beat.touch()
    os.utime(beat, (0, time.time() - age_s))
    found = read(tmp_path / "slot", json.dumps(WHOLE | {"heartbeat": str(beat)}))

    assert found.declaration is not None
    assert heartbeat_age_s(found.declaration) == pytest.approx(age_s, abs=60)


@pytest.mark.parametrize("name", list(WHOLE))
@pytest.mark.parametrize("value", [None, "", "  ", 1, ["x"], "a\nb", "x" * 5000])
def test_a_slot_without_one_of_these_is_empty(tmp_path: Path, name: str, value: Any) -> None:
    found = read(tmp_path / "slot", json.dumps(WHOLE | {name: value}))

    assert found.declaration is None
    assert name in found.problem


@pytest.mark.parametrize(
    ("block", "command"),
    [
        ({"command": " /bin/p ", "args": []}, Command(command="/bin/p")),
        ({"command": "/bin/p", "args": ["a", ""]}, Command(command="/bin/p", args=("a", ""))),
        ({"command": "p", "args": []}, None),
        ({"command": "", "args": []}, None),
        ({"command": "/bin/p"}, None),
        ({"command": "/bin/p", "args": "x"}, None),
        ({"command": "/bin/p", "args": ["x", 1]}, None),
        ({"command": "/bin/p", "args": ["a\0b"]}, None),
        ({"command": "/bin/p\0", "args": []}, None),
        ({"command": "/bin/p", "args": ["x"] * 257}, None),
        ({"command": ["/bin/p"], "args": []}, None),
        ({"args": []}, None),
        ("/bin/p", None),
        (None, None),
    ],
)
def test_a_block_that_is_not_well_formed_counts_as_absent(
    tmp_path: Path, block: Any, command: Command | None
) -> None:
    found = declared(tmp_path / "slot", provision=block, unprovision=block)

    assert found.declaration is not None
    assert found.declaration.provision == command
    assert found.declaration.unprovision == command


@pytest.mark.parametrize(
    ("plugin", "has"),
    [
        ({"name": "n", "marketplace": "m", "source": "s"}, True),
        ({"name": "n", "marketplace": "m"}, False),
        ({"name": "n", "marketplace": "m", "source": 1}, False),
        ("n", False),
    ],
)
def test_a_plugin_block_is_three_texts_or_absent(tmp_path: Path, plugin: Any, has: bool) -> None:
    found = declared(tmp_path / "slot", plugin=plugin)

    assert found.declaration is not None
    assert found.declaration.has_plugin is has


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("{" * 100, "no JSON"),
        ("[" * 60_000, "nested too deeply"),
        (b"\xff\xfe", "no JSON"),
        (json.dumps(WHOLE)[:-1] + ', "provider": "other"}', "twice"),
        (
            json.dumps(WHOLE)[:-1]
            + ', "provision": {"command": "/bin/a", "command": "/bin/b", "args": []}}',
            "twice",
        ),
        (json.dumps(WHOLE) + " " * BYTES_MAX, "larger than 64 KiB"),
        (b"0" * (10 << 20), "larger than 64 KiB"),
    ],
)
def test_what_says_nothing_sensible_is_empty_with_a_reason(
    tmp_path: Path, text: str | bytes, why: str
) -> None:
    found = read(tmp_path / "slot", text)

    assert found.declaration is None
    assert why in found.problem


def test_a_link_counts_for_nothing(tmp_path: Path) -> None:
    declared(tmp_path / "real")
    (tmp_path / "slot").symlink_to("real")

    found = read_slot(str(tmp_path / "slot"))

    assert (found.declaration, found.problem) == (None, "it is a symbolic link")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slot", 0o600)

    assert "no regular file" in read_slot(str(tmp_path / "slot")).problem


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_counts_for_nothing(tmp_path: Path, mode: int) -> None:
    declared(tmp_path / "slot")
    (tmp_path / "slot").chmod(mode)

    found = read_slot(str(tmp_path / "slot"))

    assert found.declaration is None
    assert f"{mode:04o}" in found.problem


def test_what_lies_in_everybodys_directory_counts_for_nothing(tmp_path: Path) -> None:
    inner = tmp_path / "config"
    inner.mkdir()
    declared(inner / "slot")
    inner.chmod(0o777)

    assert "everybody" in read_slot(str(inner / "slot")).problem


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, as root")
def test_what_another_user_owns_counts_for_nothing(tmp_path: Path) -> None:
    declared(tmp_path / "slot")
    os.chown(tmp_path / "slot", 12345, -1)

    assert "uid 12345" in read_slot(str(tmp_path / "slot")).problem


def test_the_slot_lies_in_the_users_configuration(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}

    assert slot_file(home) == f"{tmp_path}/.config/palace/{NAME}"
    assert slot_file(home | {"XDG_CONFIG_HOME": "/etc/mine"}) == f"/etc/mine/palace/{NAME}"


def test_a_command_that_others_may_write_is_told_apart(tmp_path: Path) -> None:
    command = tmp_path / "give"
    assert not writable_for_others(str(command))
    command.touch(0o755)
    command.chmod(0o755)
    assert not writable_for_others(str(command))
    command.chmod(0o775)
    assert writable_for_others(str(command))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
members = st.sampled_from([*WHOLE, "heartbeat", "plugin", "provision", "unprovision"])


@given(st.dictionaries(members, json_values) | json_values)
def test_no_json_ends_its_reader(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "slot"
    found = read(path, json.dumps(value if not isinstance(value, dict) else WHOLE | value))

    assert (found.declaration is None) is bool(found.problem)
