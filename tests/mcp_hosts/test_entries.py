"""What an entry starts, and what becomes of it when palace takes it over."""

from typing import Any

import pytest

from palace.mcp_hosts.entries import Program, is_disabled, launch_of, opened_palace
from palace.mcp_hosts.listing import state_of_entry
from palace.mcp_hosts.takeover import CannotKeep, edits_to_palace
from palace.mcp_hosts.values import set_at

COMMAND = ["palace", "shim"]
HOME = {"HOME": "/h"}


def entry(*words: str, **more: Any) -> dict[str, Any]:
    return {"command": words[0], "args": list(words[1:]), **more}


@pytest.mark.parametrize(
    ("words", "program", "through"),
    [
        (["palace", "shim"], Program.PALACE, ""),
        (["/opt/bin/palace", "shim", "--palace", "/p"], Program.PALACE, ""),
        (["/v/bin/python", "-P", "-m", "palace", "shim"], Program.PALACE, ""),
        (["uvx", "--from", "palace-broker[engine]", "palace", "shim"], Program.PALACE, "uvx"),
        (["docker", "exec", "-i", "palace", "palace", "shim"], Program.PALACE, "docker"),
        (["docker", "exec", "-i", "palace", "mempalace-mcp"], Program.STOCK, "docker"),
        (["ssh", "box", "PATH=/b palace shim --palace /q"], Program.PALACE, "ssh"),
        (["sh", "-c", "exec palace shim; true"], Program.PALACE, "sh"),
        (["sh", "-c", "ssh box 'mempalace-mcp --palace /p'"], Program.STOCK, "sh"),
        (["npx", "-y", "some-multiplexer", "--", "palace", "shim"], Program.PALACE, "npx"),
        (["mux", "--server", "mempalace-mcp --palace /x", "other"], Program.STOCK, "mux"),
        (["env", "A=b", "palace", "shim"], Program.PALACE, "env"),
        (["mempalace-mcp"], Program.STOCK, ""),
        (["mempalace-mcp", "--palace", "/home/palace"], Program.STOCK, ""),
        (["mempalace-light-mcp"], Program.STOCK, ""),
        (["uvx", "mempalace-mcp@3.11.0"], Program.STOCK, "uvx"),
        (["python3", "-m", "mempalace.mcp_server", "--palace", "/p"], Program.STOCK, ""),
        (["python3", "/x/site-packages/mempalace/mcp_server.py"], Program.STOCK, ""),
        (["docker", "run", "-i", "me/mempalace-mcp:3"], Program.STOCK, "docker"),
        (["docker", "run", "-i", "-v", "d:/data", "ghcr.io/x/mempalace"], Program.STOCK, "docker"),
        (["podman", "run", "-i", "box:5000/mempalace:3.11@sha256:0a"], Program.STOCK, "podman"),
        (["docker", "run", "-v", "/x/mempalace:/data", "me/memory"], Program.OTHER, ""),
        (["docker", "exec", "-i", "mempalace", "palace", "shim"], Program.PALACE, "docker"),
        (["python3", "-mmempalace.mcp_server"], Program.STOCK, ""),
        (["python3", "/x/mempalace/mcp_server/__main__.py"], Program.STOCK, ""),
        (
            ["python3", "-c", "from mempalace.mcp_proxy import main; main()"],
            Program.STOCK,
            "python3",
        ),
        (["python3", "-c", "import mempalace.mcp_servers"], Program.OTHER, ""),
        (["palace", "serve"], Program.OTHER, ""),
        (["memory", "--dir", "/palace/shim"], Program.OTHER, ""),
        (["sh", "-c", "echo 'unclosed"], Program.OTHER, ""),
    ],
)
def test_a_server_is_found_among_the_words_that_start_it(
    words: list[str], program: Program, through: str
) -> None:
    nested = {"command": {"path": words[0], "args": words[1:]}}
    for written in (entry(*words), {"command": words}, nested):
        launch = launch_of(written)
        assert (launch.program, launch.through) == (program, through)
        if program is Program.PALACE:
            assert state_of_entry(written).startswith("installed")


@pytest.mark.parametrize(
    "odd", [None, 3, "palace shim", [], {}, {"command": None}, {"command": [1]}, {"args": ["x"]}]
)
def test_what_is_no_command_is_read_all_the_same(odd: Any) -> None:
    assert launch_of(odd).program is Program.OTHER
    assert not is_disabled(odd)
    with pytest.raises(CannotKeep):
        edits_to_palace(odd, COMMAND)


def test_an_entry_opens_the_palace_that_it_names_first() -> None:
    assert opened_palace(entry("palace", "shim", "--palace", "/p"), HOME) == "/p"
    assert opened_palace(entry("palace", "shim", "--palace=/p"), HOME) == "/p"
    assert opened_palace(entry("palace", "shim", env={"MEMPALACE_PALACE_PATH": "/e"}), HOME) == "/e"
    local = {"command": ["palace", "shim"], "environment": {"MEMPALACE_PATH": "/e"}}
    assert opened_palace(local, HOME) == "/e"
    assert opened_palace(entry("env", "MEMPALACE_PATH=/w", "palace", "shim"), HOME) == "/w"
    assert opened_palace(entry("palace", "shim"), HOME) == "/h/.config/mempalace/palace"
    assert opened_palace(entry("ssh", "box", "palace", "shim"), HOME) == ""  # another machine's


@pytest.mark.parametrize(
    ("old", "words"),
    [
        (["mempalace-mcp"], ["palace", "shim"]),
        (["mempalace-mcp", "--palace", "/p"], ["palace", "shim", "--palace", "/p"]),
        (["mempalace-mcp", "--palace=/p"], ["palace", "shim", "--palace", "/p"]),
        (["mempalace-mcp", "--transport", "stdio"], ["palace", "shim"]),
        (["mempalace-mcp", "--ensure-hub"], ["palace", "shim"]),
        (["python3", "-m", "mempalace.mcp_server", "--palace", "/p"], None),
        (["uvx", "--from", "mempalace==3.11.0", "mempalace-mcp"], ["palace", "shim"]),
        (["uv", "tool", "run", "--quiet", "mempalace-mcp"], ["palace", "shim"]),
        (["env", "-u", "X", "A=b", "mempalace-mcp"], ["env", "-u", "X", "A=b", "palace", "shim"]),
        (["nice", "-n", "5", "mempalace-mcp"], ["nice", "-n", "5", "palace", "shim"]),
        (["/old/palace", "shim", "--palace", "/p"], ["palace", "shim", "--palace", "/p"]),
        (["/opt/start-memory"], ["palace", "shim"]),
    ],
)
def test_command_and_arguments_change_and_the_palace_stays_named(
    old: list[str], words: list[str] | None
) -> None:
    words = words or ["palace", "shim", "--palace", "/p"]
    for form, new in (
        (entry(*old), {"command": words[0], "args": words[1:]}),
        ({"command": old}, {"command": words}),
    ):
        edits = {edit.place: edit.value for edit in edits_to_palace(form, COMMAND)}
        assert form | {place[0]: value for place, value in edits.items()} == new
        assert edits_to_palace(new, COMMAND) == []
    nested: Any = {"command": {"path": old[0], "args": old[1:], "env": {"A": "b"}}}
    for edit in edits_to_palace(nested, COMMAND):
        set_at(nested, edit.place, edit.value)
    assert nested == {"command": {"path": words[0], "args": words[1:], "env": {"A": "b"}}}


@pytest.mark.parametrize(
    ("old", "named"),
    [
        (entry("mempalace-mcp", "--read-only"), "--read-only"),
        (entry("mempalace-mcp", "--backend", "qdrant"), "--backend"),
        (entry("mempalace-mcp", "--transport=http", "--port", "1"), "--transport=http"),
        (entry("mempalace-mcp", "--palace"), "--palace"),
        (entry("mempalace-mcp", "extra"), "extra"),
        (entry("/opt/start-memory", "--dir", "/m"), "--dir"),
        (entry("uvx", "--env-file", "/e", "mempalace-mcp"), "--env-file"),
        (entry("uvx", "--with", "plugin", "mempalace-mcp"), "--with"),
        (entry("docker", "run", "-v", "/p:/p", "x/mempalace-mcp"), "docker"),
        (entry("ssh", "box", "mempalace-mcp"), "ssh"),
        (entry("ssh", "box", "palace", "shim"), "ssh"),
        (entry("sh", "-c", "mempalace-mcp --palace /p"), "sh -c"),
        (entry("sudo", "-u", "me", "mempalace-mcp"), "sudo"),
        (entry("env", "A=b", "docker", "exec", "c", "mempalace-mcp"), "env"),
        (entry("mux", "--", "mempalace-mcp"), "mux"),
        (entry("docker", "run", "-i", "ghcr.io/mempalace/mempalace"), "docker"),
        (entry("python3", "-c", "from mempalace.mcp_server import main; main()"), "python3"),
        ({"type": "http", "url": "http://127.0.0.1:1/mcp", "headers": {}}, "url, type, headers"),
        ({"source": "extension", "settings": {}}, "source, settings"),
        (entry("mempalace-mcp") | {"args": ["--palace", 3]}, "args"),
    ],
)
def test_what_an_entry_of_palaces_cannot_say_is_refused_by_name(old: Any, named: str) -> None:
    with pytest.raises(CannotKeep, match=named):
        edits_to_palace(old, COMMAND)
