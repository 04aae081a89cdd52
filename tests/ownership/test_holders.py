"""How a stock process that holds the lock is ended, and how palaces part."""

import pytest

from palace.ownership.holders import how_to_end, how_to_part, maintenance_in, stays
from palace.settings.paths import Paths

DAEMON = "/v/bin/python -m mempalace.daemon serve --palace /p"


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("/v/bin/python /v/bin/mempalace mine /notes", "Let it finish, or end it (kill 7)"),
        ("/v/bin/python -m mempalace.mcp_server", "ends with its agent: close that, or end it"),
        ("/v/bin/python /v/bin/mempalace-mcp --palace /p", "ends with its agent"),
        ("/v/bin/python /v/bin/mempalace serve --port 1", "runs until it is ended: end it (kill 7"),
        ("", "Let it finish, or end it (kill 7)"),
    ],
)
def test_a_session_a_server_and_a_command_end_differently(title: str, words: str) -> None:
    assert words in how_to_end(title, 7, Paths("/p"))


@pytest.mark.parametrize(
    ("found_by", "command"),
    [
        ("default", "mempalace daemon stop"),
        ("MEMPALACE_PALACE_PATH", "mempalace daemon stop"),
        ("--palace", "mempalace --palace /p daemon stop"),
        ("MEMPALACE_PATH", "mempalace --palace /p daemon stop"),
    ],
)
def test_the_daemon_is_ended_by_the_command_that_finds_it(found_by: str, command: str) -> None:
    text = how_to_end(DAEMON, 7, Paths("/p", found_by=found_by))

    assert text.endswith(f"only when it is told to: {command}")
    assert "kill" not in text


def test_a_holder_that_the_kernel_does_not_name_has_no_number() -> None:
    assert how_to_end("", None, Paths("/p")) == "Let it finish, or end it"


def test_a_shared_file_is_had_alone_once_the_other_brokers_have_ended() -> None:
    note = "pid 7 serves /pal/a"

    text = how_to_part("/h/g.sqlite3", note, alone=True)
    assert text.endswith(": palace stop --palace /pal/a")
    assert "earlier version" not in text
    text = how_to_part("/h/g.sqlite3", note, alone=False)
    assert "earlier version" in text
    assert "g.sqlite3 for itself" in text
    assert text.endswith(": palace stop --palace /pal/a")
    assert how_to_part("/h/g.sqlite3", "", alone=True).endswith(": palace stop")


@pytest.mark.parametrize(
    ("title", "command"),
    [
        ("/v/bin/python /v/bin/palace rebuild --yes", "palace rebuild"),
        ("palace doctor", "palace doctor"),
        ("/v/bin/python /v/bin/palace serve", ""),
        ("/usr/bin/flatpak doctor", ""),
        ("palace", ""),
        ("", ""),
    ],
)
def test_maintenance_is_palaces_own_command_and_no_other_programs(title: str, command: str) -> None:
    assert maintenance_in(title) == command


def test_a_command_of_stocks_leaves_by_itself_and_a_session_does_not() -> None:
    assert all(map(stays, (DAEMON, "python -m mempalace.mcp_server", "mempalace serve --port 1")))
    assert not any(map(stays, ("mempalace mine /notes", "mempalace hook run", "")))
