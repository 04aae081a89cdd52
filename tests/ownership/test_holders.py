"""What is said of a process that holds mempalace's lock is said of one of its kind."""

import pytest

from palace.ownership.holders import how_to_avoid, how_to_end, maintenance_in, stays
from palace.settings.paths import Paths

PATHS = Paths("/p/palace", found_by="default")


@pytest.mark.parametrize(
    ("title", "end", "has_agents"),
    [
        ("python3 /bin/mempalace-mcp", "which ends with its agent: close that, or end it", True),
        ("python3 -m mempalace.mcp_server", "which ends with its agent", True),
        (
            "python3 -m mempalace.mcp_server --transport http --port 0",
            "over, end it (kill 7)",
            True,
        ),
        ("python3 /bin/mempalace-mcp --transport=http", "outlives each of them: to take it", True),
        ("python3 /bin/mempalace-mcp --transport stdio", "which ends with its agent", True),
        ("python3 /bin/mempalace serve --port 1", "which runs until it is ended: end it", True),
        ("python3 -m mempalace.daemon serve", "only when it is told to: mempalace daemon", False),
        ("python3 /bin/mempalace mine src", "Let it finish, or end it (kill 7)", False),
        ("python3 /bin/mempalace hook run --hook stop", "Let it finish, or end it", False),
        ("", "Let it finish, or end it", False),
    ],
)
def test_only_what_agents_use_can_be_replaced_for_them(
    title: str, end: str, has_agents: bool
) -> None:
    assert end in how_to_end(title, 7, PATHS)
    assert ("palace shim" in how_to_avoid(title)) is has_agents


@pytest.mark.parametrize(
    ("title", "command"),
    [
        ("python3 /usr/bin/palace rebuild --partial", "palace rebuild"),
        ("palace purge", "palace purge"),
        ("palace serve", ""),
        ("palace", ""),
        ("python3 -m palace --palace /p restore", ""),
        ("mempalace rebuild", ""),
        ("vim palace rebuild", "palace rebuild"),  # which says so by itself
        ("", ""),
    ],
)
def test_a_command_that_needs_the_palace_for_itself_is_known(title: str, command: str) -> None:
    assert maintenance_in(title) == command


def test_a_session_a_server_and_the_daemon_stay() -> None:
    for title in ("mempalace-mcp", "python -m mempalace.mcp_server", "mempalace serve"):
        assert stays(title)
    assert stays("mempalace daemon serve")
    assert not stays("mempalace mine src")
    assert not stays("")
