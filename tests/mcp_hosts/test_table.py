"""Which directory a host takes for its own."""

from pathlib import Path

import pytest

from palace.mcp_hosts.table import Base

HOME = {"HOME": "/home/ada"}


@pytest.mark.parametrize(
    ("variable", "given", "wanted"),
    [
        ("CODEX_HOME", "/etc/codex/", "/etc/codex"),
        ("CODEX_HOME", "codex", "{here}/codex"),
        ("CODEX_HOME", "./a/../codex/", "{here}/codex"),
        ("CODEX_HOME", "", "/home/ada/.own"),
        ("XDG_CONFIG_HOME", "config", "/home/ada/.own"),
    ],
)
def test_a_relative_directory_is_taken_as_the_host_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, given: str, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)

    found = Base(variable=variable, default="~/.own").find(HOME | {variable: given}, "linux")

    assert found == wanted.format(here=tmp_path)
