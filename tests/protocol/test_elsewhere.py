"""Which calls may have to ask a server that holds namespaces, and where that server may be."""

from typing import Any

import pytest

from palace.protocol.elsewhere import in_its_lane, may_go_elsewhere
from palace.protocol.errors import ConfigError
from palace.protocol.plugin_address import address_in
from palace.protocol.request import ToolCall, tool_call
from palace.protocol.tools import Lane

KINDS = ("team", "org")


def call(name: str, /, **arguments: Any) -> ToolCall:
    params = {"name": name, "arguments": arguments}
    return tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


THERE = [
    call("palace_commit_memory", content="x", namespace="team:lead"),
    call("palace_commit_summary", content="x", namespace="org:lead"),
    call("palace_forget_memory", id="mem-a"),
    call("palace_forget_memory", id="mem-a", namespace="team:lead"),
    call("palace_search_memory"),
    call("palace_search_memory", namespaces=[]),
    call("palace_search_memory", namespaces=["workspace:a", "org:lead"]),
    call("palace_v1_commit", name="team:lead", body={}),
    call("palace_v1_search", body={"namespaces": ["team:lead"]}),
    call("palace_v1_forget", id="a", body={"requested_by_namespace": "org:lead"}),
]
HERE = [
    call("palace_commit_memory", content="x"),
    call("palace_commit_memory", content="x", namespace="workspace:lead"),
    call("palace_commit_memory", content="x", namespace=7),
    call("palace_forget_memory", id="mem-a", namespace="workspace:lead"),
    call("palace_search_memory", namespaces=["workspace:a", 7]),
    call("palace_v1_commit", name="custom:team:x", body={}),
    call("palace_v1_search", body={"namespaces": ["custom:x"]}),
    call("palace_v1_forget", id="a", body=7),
    call("palace_list_readable_namespaces"),
    call("mempalace_kg_add", wing="TEAM"),
]
CONFINED_THERE = [
    call("mempalace_add_drawer", wing="TEAM", content="x"),
    call("mempalace_diary_write", wing="lead", entry="x"),
    call("mempalace_search", query="x"),
    call("mempalace_checkpoint", items=[]),
    call("mempalace_delete_drawer", drawer_id="mem-a"),
    call("mempalace_status"),
]
CONFINED_HERE = [
    call("mempalace_add_drawer", content="x"),
    call("mempalace_add_drawer", wing="LOCAL", content="x"),
    call("mempalace_search", query="x", wing="LOCAL"),
    call("mempalace_get_drawer", drawer_id="mem-a"),
]


def shown(asked: ToolCall) -> str:
    return f"{asked.name} {dict(asked.arguments)}"


@pytest.mark.parametrize("asked", THERE, ids=shown)
def test_what_names_a_namespace_that_is_held_elsewhere_may_go_there(asked: ToolCall) -> None:
    assert may_go_elsewhere(asked, KINDS, is_confined=False)
    sent = in_its_lane(asked)

    assert (sent.tool.lane, sent.group, sent.tool.kind) == (Lane.REMOTE, "", asked.tool.kind)


@pytest.mark.parametrize("asked", HERE, ids=shown)
def test_what_names_others_stays(asked: ToolCall) -> None:
    assert not may_go_elsewhere(asked, KINDS, is_confined=False)


@pytest.mark.parametrize("asked", [*CONFINED_THERE, *CONFINED_HERE], ids=shown)
def test_stocks_words_may_go_there_for_the_confined_alone(asked: ToolCall) -> None:
    assert may_go_elsewhere(asked, KINDS, is_confined=True) == (asked in CONFINED_THERE)
    assert not may_go_elsewhere(asked, KINDS, is_confined=False)


OWN = [
    call("palace_commit_memory", content="x"),
    call("palace_commit_summary", content="x", namespace="workspace:lead"),
    call("mempalace_add_drawer", content="x"),
    call("mempalace_diary_read"),
    call("mempalace_search", query="x", wing="LOCAL"),
]


@pytest.mark.parametrize("asked", OWN, ids=shown)
def test_ones_own_goes_there_where_those_are_held_elsewhere(asked: ToolCall) -> None:
    assert may_go_elsewhere(asked, ("workspace",), is_confined=True)
    assert not may_go_elsewhere(asked, KINDS, is_confined=True)


def test_only_what_looks_at_what_is_here_waits_for_the_model() -> None:
    assert in_its_lane(call("palace_search_memory")).tool.embeds
    assert not in_its_lane(call("palace_commit_memory", namespace="org:lead")).tool.embeds


@pytest.mark.parametrize(
    ("text", "url", "socket", "is_private"),
    [
        ("unix:/run/m.sock", "http://localhost", "/run/m.sock", True),
        ("https://memory.example", "https://memory.example", "", True),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443", "", True),
        ("http://localhost:80", "http://127.0.0.1:80", "", True),
        ("https://localhost:80", "https://localhost:80", "", True),
        ("https://bücher.example", "https://xn--bcher-kva.example", "", True),
        ("https://xn--bcher-kva.example.", "https://xn--bcher-kva.example.", "", True),
        ("http://127.9.9.9:80", "http://127.9.9.9:80", "", True),
        ("http://[::1]:80", "http://[::1]:80", "", True),
        ("http://memory:8080", "http://memory:8080", "", False),
        ("http://169.254.169.254", "http://169.254.169.254", "", False),
    ],
)
def test_a_server_is_where_the_settings_say(
    text: str, url: str, socket: str, is_private: bool
) -> None:
    found = address_in(text)

    assert (found.text, found.url, found.socket) == (text, url, socket)
    assert found.is_private is is_private


@pytest.mark.parametrize(
    "text",
    [
        *("", "memory:80", "ftp://a", "file:///etc/passwd", "http://", "unix:m.sock", "unix:/a\n"),
        *("https://user@a", "https://u:p@a", "https://a/v1", "https://a?x", "https://a#x"),
        *("https://a:99999", "https://a:x", "https://[a", "https://a\x1b.example"),
        *("http://1.2.3.999:8080", "http://127.1", "https://xn--a", "https://\u2603.net"),
        *("https://a..b", "https://a b", "https://-a", "https://[v1.a]", "https://a.xn--a"),
        *(f"https://{'a' * 64}", f"https://{'a.' * 127}", "https://" + "\u00fc." * 100 + "a"),
    ],
)
def test_an_address_that_says_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="memory_plugin can't be used"):
        address_in(text)


@pytest.mark.parametrize(
    "text",
    [
        *("https://u:s3cr3t/x@desk", "https://u:s3cr3t@desk", "https://desk:s3cr3t"),
        *("https://s3cr3t@[desk", "https://desk/?token=s3cr3t", "https://s3cr3t..desk"),
        *("https://s3cr3t\u2603", "s3cr3t", "https://desk/s3cr3t", "unix:s3cr3t"),
    ],
)
def test_an_address_that_is_refused_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^/settings: memory_plugin can't be used") as caught:
        address_in(text, where="/settings")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
