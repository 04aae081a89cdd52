"""What peers say of their events, and what of it is taken."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol import mesh
from palace.protocol.mesh import (
    MeshPeer,
    is_forked,
    lacking,
    parts_of,
    path_of,
    read_artifact,
    read_page,
    read_peers,
    read_vector,
    target_of,
)
from palace.protocol.request import ToolCall
from palace.protocol.rights import is_out_of_place
from palace.protocol.tools import MESH_TOOLS, SHOWN_TO_PEERS, UNKNOWN, Kind, Lane

ORIGIN = "rep_0123456789ab"
DEEP: Any = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}


def event(seq: int = 1, **fields: object) -> dict[str, Any]:
    return {
        "id": f"evt_{seq}",
        "type": "note.sent",
        "stream": "project/x",
        "room": "r",
        "topic": None,
        "from_agent": "a",
        "created_at": "2026-11-30T00:00:00Z",
        "origin_replica": ORIGIN,
        "origin_seq": seq,
        "hlc": "1783038849123-000000-rep_0123456789ab",
        **fields,
    }


def artifact(**fields: object) -> dict[str, Any]:
    content = str(fields.get("content", "+ one\n"))
    return {
        "id": "art_1",
        "kind": "patch",
        "sha256": sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
        "created_by": "a",
        "created_at": "2026-11-30T00:00:00Z",
        "content": content,
        **fields,
    }


# peers.json.


def test_the_peers_that_are_named_are_read_as_stock_reads_them() -> None:
    listed = [{"url": "https://b.example/x/", "token": "t", "name": "b"}, {"url": "http://c:1"}]
    first, second = read_peers({"peers": listed, "more": 1})

    assert first == MeshPeer(name="b", url="https://b.example/x/", token="t")
    assert second == MeshPeer(name="http://c:1", url="http://c:1")
    assert "t'" not in repr(first)


@pytest.mark.parametrize(
    ("decoded", "why"),
    [
        (7, "no list of peers"),
        ({"peers": {}}, "no list of peers"),
        ({"peers": [{"url": "http://a"}] * 65}, "64 are the most"),
        ({"peers": ["http://a"]}, "needs a url"),
        ({"peers": [{"name": "a"}]}, "needs a url"),
        ({"peers": [{"url": ["http://a"]}]}, "texts of one line"),
        ({"peers": [{"url": "http://a", "token": "x\r\nHost: y"}]}, "texts of one line"),
        ({"peers": [{"url": "http://a", "name": 7}]}, "texts of one line"),
        ({"peers": [{"url": "file:///etc/passwd"}]}, "no http"),
        ({"peers": [{"url": "http://"}]}, "no http"),
        ({"peers": [{"url": "http://u:p@a"}]}, "no user"),
        ({"peers": [{"url": "http://a/?x=1"}]}, "no user, query"),
        ({"peers": [{"url": "http://a/b c"}]}, "without blanks"),
        ({"peers": [{"url": "http://a:99999"}]}, "no http"),
        ({"peers": [{"url": "http://[a"}]}, "no http"),
        ({"peers": [{"url": "http://" + "a" * 64}]}, "no http"),
        ({"peers": [{"url": "http://a..b"}]}, "no http"),
        (
            {"peers": [{"url": "http://a", "token": "t\N{LATIN SMALL LETTER E WITH ACUTE}"}]},
            "token is ASCII",
        ),
        (
            {
                "peers": [
                    {"url": "http://a"},
                    {"url": "http://a/\N{LATIN SMALL LETTER E WITH ACUTE}"},
                ]
            },
            "entry 2: .* ASCII",
        ),
    ],
)
def test_a_peer_that_is_none_is_told(decoded: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_peers(decoded)


@pytest.mark.parametrize(
    "url",
    [
        "palace:s3cr3t@desk:8765",
        "https://palace:s3cr3t@desk:8765",
        "https://desk:s3cr3t",
        "https://[s3cr3t]",
        "https://s3cr3t..desk",
        "https://desk?token=s3cr3t",
        "s3cr3t",
    ],
)
def test_what_is_wrong_with_a_peer_is_told_without_the_token_in_its_url(url: str) -> None:
    with pytest.raises(ValueError, match="entry 1: ") as raised:
        read_peers({"peers": [{"name": "a", "url": url}]})
    assert "s3cr3t" not in str(raised.value)


def test_where_a_peers_url_leads() -> None:
    plain, secure = target_of("http://127.0.0.1:8765"), target_of("https://b.example/x/")

    assert (plain.secure, plain.host, plain.port, plain.prefix) == (False, "127.0.0.1", 8765, "")
    assert (secure.secure, secure.port, secure.authority) == (True, 443, "b.example")
    assert path_of(secure, "/sync/ops", origin="a b&c", after=1) == (
        "/x/sync/ops?origin=a+b%26c&after=1"
    )
    assert path_of(plain, "/sync/version_vector") == "/sync/version_vector"


# Vectors.


def test_a_vector_is_taken_with_the_profiles_that_are_small() -> None:
    told = {
        "replica_id": ORIGIN,
        "version_vector": {ORIGIN: 3},
        "profile": {"roles": ["agents"]},
        "profiles": {ORIGIN: {"drawers": 1}, "big": {"x": "y" * 5000}, "no": 7, "": {}},
    }
    vector = read_vector(told)

    assert (vector.replica, dict(vector.tops)) == (ORIGIN, {ORIGIN: 3})
    assert vector.profile == {"roles": ["agents"]}
    assert dict(vector.profiles) == {ORIGIN: {"drawers": 1}}
    assert read_vector({"version_vector": {}, "profile": 7, "replica_id": "a\nb"}).replica == "?"
    assert read_vector({"version_vector": {}, "profile": DEEP}).profile is None


@pytest.mark.parametrize(
    "tops",
    [
        None,
        [],
        {f"rep_{n}": 1 for n in range(1025)},
        {"": 1},
        {"a\nb": 1},
        {"x" * 257: 1},
        {ORIGIN: -1},
        {ORIGIN: 1 << 53},
        {ORIGIN: True},
        {ORIGIN: "1"},
        {ORIGIN: 1.0},
    ],
)
def test_a_vector_that_is_none_is_refused(tops: object) -> None:
    with pytest.raises(ValueError, match="its version vector"):
        read_vector({"version_vector": tops})
    with pytest.raises(ValueError, match="its version vector"):
        read_vector(tops)


# Events.


def test_events_are_taken_in_their_order_with_what_stock_knows_of_them_alone() -> None:
    page = [event(3, body="x", metadata={"a": 1}, artifact_ids=["art_1"], more="dropped"), event(9)]
    taken = read_page({"events": page}, ORIGIN, 2)

    assert [one["origin_seq"] for one in taken] == [3, 9]
    assert taken[0]["artifact_ids"] == ["art_1"]
    assert (taken[0]["body"], taken[0]["metadata"]) == ("x", {"a": 1})
    assert (taken[1]["body"], taken[1]["metadata"]) == ("", {})
    assert "more" not in taken[0]
    assert read_page({"events": []}, ORIGIN, 0) == []


BAD = [
    *({name: value} for name in mesh._REQUIRED for value in (None, "", 7, "a\nb", "x" * 257)),
    *({name: value} for name in mesh._OPTIONAL for value in (7, "a\x7fb", "x" * 257, ["a"])),
    {"origin_replica": "rep_other"},
    *({"origin_seq": seq} for seq in (None, 0, -1, True, "5", 1 << 53)),
    *({"body": body} for body in (7, "a\0b", "x" * (256 << 10) + "x", "\ud800", "ü" * 200_000)),
    *({"metadata": metadata} for metadata in ([1], {"a": "x" * (64 << 10)}, DEEP)),
    *({"artifact_ids": ids} for ids in ("art", [1], [""], ["a\nb"], ["a"] * 1025)),
]


@pytest.mark.parametrize("fields", BAD, ids=lambda fields: str(next(iter(fields))))
def test_an_event_that_cant_be_taken_ends_the_page_there(fields: dict[str, Any]) -> None:
    good, bad = event(1), event(2) | fields

    with pytest.raises(ValueError, match=r"event|artifacts"):
        read_page({"events": [bad]}, ORIGIN, 1)
    assert read_page({"events": [good, bad, event(3)]}, ORIGIN, 0) == read_page(
        {"events": [good]}, ORIGIN, 0
    )


@pytest.mark.parametrize("page", [None, {}, {"events": {}}, {"events": [7]}, [event()]])
def test_a_page_that_is_none_is_refused(page: object) -> None:
    with pytest.raises(ValueError, match="event"):
        read_page(page, ORIGIN, 0)


@given(st.lists(st.integers(1, 6), max_size=8), st.integers(0, 6))
def test_no_peer_leads_round_in_a_circle(seqs: list[int], after: int) -> None:
    try:
        taken = read_page({"events": [event(seq) for seq in seqs]}, ORIGIN, after)
    except ValueError:
        assert seqs[0] <= after
        return
    told = [one["origin_seq"] for one in taken]
    assert told == sorted(set(told))
    assert all(seq > after for seq in told)


# Artifacts.


def test_the_artifact_that_was_asked_for_is_taken() -> None:
    found = read_artifact({"artifact": artifact(origin_replica=ORIGIN, size_bytes=1)}, "art_1")

    assert (found["content"], found["origin_replica"]) == ("+ one\n", ORIGIN)
    assert read_artifact({"artifact": artifact()}, "art_1")["origin_replica"] is None
    assert "size_bytes" not in found


@pytest.mark.parametrize(
    ("decoded", "why"),
    [
        (7, "has no artifact"),
        ({"artifact": None}, "has no artifact"),
        ({"artifact": artifact(kind=7)}, "lacks"),
        ({"artifact": artifact(created_by="")}, "lacks"),
        ({"artifact": artifact(id="art_2")}, "another artifact"),
        ({"artifact": artifact() | {"content": 7}}, "is none"),
        ({"artifact": artifact(content="")}, "is none"),
        ({"artifact": artifact(content="\ud800")}, "is none"),
        ({"artifact": artifact(content="x" * ((4 << 20) + 1))}, "too long"),
        ({"artifact": artifact() | {"content": "another"}}, "not what its digest says"),
        ({"artifact": artifact(metadata=[1])}, "metadata"),
        ({"artifact": artifact(origin_replica=7)}, "author"),
    ],
)
def test_an_artifact_that_is_none_or_another_is_refused(decoded: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_artifact(decoded, "art_1")


# What is lacking.


def test_what_is_lacking_is_of_others_alone() -> None:
    known, tops = {"me": 2, "a": 5, "b": 1}, {"me": 9, "a": 5, "b": 2, "c": 1}

    assert lacking("me", known, tops) == ["b", "c"]
    assert is_forked("me", known, tops)
    assert not is_forked("me", known, {"me": 2})
    assert not is_forked("me", known, {"a": 9})


def test_a_page_is_taken_over_in_parts_that_keep_nobody_waiting() -> None:
    many = [event(seq) | {"body": ""} for seq in range(1, 71)]
    large = [event(seq) | {"body": "x" * (2 << 20)} for seq in range(1, 5)]

    assert [len(part) for part in parts_of(many)] == [32, 32, 6]
    assert [len(part) for part in parts_of(large)] == [2, 2]
    assert [one for part in parts_of(many) for one in part] == many
    assert not [*parts_of([])]


# Who may ask.


def test_the_meshs_tools_are_for_what_serves_the_mesh_alone() -> None:
    own = ToolCall(message=None, name=min(MESH_TOOLS), tool=UNKNOWN)
    stocks = ToolCall(message=None, name="mempalace_status", tool=UNKNOWN)

    assert is_out_of_place(own, from_command=False)
    assert is_out_of_place(own, from_command=True)
    assert is_out_of_place(own, from_command=False, from_contract=True)
    assert not is_out_of_place(own, from_command=False, from_mesh=True)
    assert is_out_of_place(stocks, from_command=False, from_mesh=True)


def test_what_peers_are_shown_is_read_where_no_change_is_half_done() -> None:
    pages = ("vector", "ops", "artifact", "tail", "cursor")
    told = {f"palace_mesh_{page}" for page in pages}

    assert told == SHOWN_TO_PEERS
    assert {(MESH_TOOLS[name].kind, MESH_TOOLS[name].lane) for name in told} == {
        (Kind.QUERY, Lane.WRITER)
    }
    assert MESH_TOOLS["palace_mesh_fold"].lane is Lane.WRITER
    assert MESH_TOOLS["palace_mesh_fold"].kind is Kind.MUTATION
