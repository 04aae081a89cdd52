"""What clients send, sensibly and otherwise: one corpus for stock mempalace and for palace.

A `Call` is a tool call; values of its arguments that begin with `$` are replaced by what an
earlier reply said (`keep` names the reply's field).  `RAW` holds lines as bytes: what no
well-meaning client sends, and what some send nevertheless.
"""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """One tool call; `name` is unique in its list and without the `mempalace_`."""

    name: str
    tool: str
    arguments: Any = field(default_factory=dict)
    keep: dict[str, str] = field(default_factory=dict)


def _call(
    tool: str, note: str = "", *, keep: dict[str, str] | None = None, **arguments: Any
) -> Call:
    name = f"{tool}-{note}" if note else tool
    return Call(name, tool, arguments, keep or {})


BANKER = "The banker's algorithm refuses a request that could end in a deadlock."
OTTERS = "Sea otters hold hands while they sleep, so that the tide doesn't part them."
BREAD = "A rye sourdough wants sixteen hours at eighteen degrees before it is baked."
UNICODE = "Ünïcödé 今日は Привет \U0001f419 ﬁn\ttab\nnewline"
LONG = "\n\n".join(f"Paragraph {n}: the lighthouse keeper counts wave {n}." for n in range(60))

# In an order in which they make sense: the palace grows, is read, changed and emptied again.
SENSIBLE: tuple[Call, ...] = (
    _call("status", "empty"),
    _call("list_wings", "empty"),
    _call("get_aaak_spec"),
    _call("search", "empty", query="deadlock"),
    _call("get_drawer", "empty", drawer_id="drawer_none"),
    _call("check_duplicate", "empty", content=BANKER),
    _call("diary_read", "empty", agent_name="Ada"),
    _call("add_drawer", keep={"banker": "drawer_id"}, wing="os", room="scheduling", content=BANKER),
    _call("add_drawer", "again", wing="os", room="scheduling", content=BANKER),
    _call(
        "add_drawer",
        "full",
        keep={"otters": "drawer_id"},
        wing="nature",
        room="sea",
        content=OTTERS,
        source_file="/notes/otters.md",
        added_by="ada",
    ),
    _call(
        "add_drawer",
        "unicode",
        keep={"unicode": "drawer_id"},
        wing="os",
        room="text",
        content=UNICODE,
    ),
    _call(
        "add_drawer", "chunked", keep={"long": "drawer_id"}, wing="nature", room="sea", content=LONG
    ),
    _call("add_drawer", "blank", wing="os", room="text", content="  \n "),
    _call("add_drawer", "traversal", wing="../../etc", room="passwd", content="x"),
    _call("check_duplicate", content=BANKER),
    _call("check_duplicate", "threshold", content=OTTERS, threshold=0.2),
    _call("add_drawer", "tide", wing="nature", room="sea", content="High tide is at noon."),
    _call(
        "checkpoint",
        items=[
            {"wing": "home", "room": "kitchen", "content": BREAD},
            {"wing": "os", "room": "scheduling", "content": BANKER},
            {"wing": "home", "room": "sea", "content": "The tide table hangs in the hall."},
        ],
        diary={"agent_name": "Ada", "entry": "SESSION|checkpoint|★★", "topic": "work"},
        dedup_threshold=0.95,
    ),
    _call("checkpoint", "nothing", items=[]),
    _call("checkpoint", "broken", items=[{"wing": "os"}, 7, None]),
    _call("status"),
    _call("list_wings"),
    _call("list_rooms"),
    _call("list_rooms", "wing", wing="nature"),
    _call("get_taxonomy"),
    _call("search", query="how to avoid a deadlock"),
    _call("search", "filtered", query="tide", wing="nature", room="sea", limit=2),
    _call("search", "source", query="sleep", source_file="/notes/otters.md", max_distance=0),
    _call("search", "union", query="rye bread", candidate_strategy="union", since="2020-01-01"),
    _call("search", "before", query="rye bread", before="2020-01-01"),
    _call("search", "cli", query="rye bread", cli_compatible=True, context="baking"),
    _call("search", "media", query="rye bread", include_media=True, query_task="code"),
    _call("search", "long", query="word " * 80),
    _call("get_drawer", drawer_id="$banker"),
    _call("get_drawer", "chunked", drawer_id="$long"),
    _call("get_drawers", drawer_ids=["$otters", "drawer_none", "$unicode"]),
    _call("list_drawers"),
    _call("list_drawers", "page", wing="nature", limit=1, offset=1),
    _call("list_drawers", "room", room="sea", since="2020-01-01", before="2999-01-01"),
    _call("update_drawer", drawer_id="$otters", content=OTTERS + " In kelp.", room="kelp"),
    _call("update_drawer", "move", drawer_id="$unicode", wing="texts"),
    _call("update_drawer", "nothing", drawer_id="$banker"),
    _call("update_drawer", "missing", drawer_id="drawer_none", content="x"),
    _call("get_drawer", "updated", drawer_id="$otters"),
    _call("search", "updated", query="otters in kelp"),
    _call("diary_write", agent_name="Ada", entry="READ|otters|♥", topic="nature"),
    _call("diary_write", "alias", agent_name="ada", content="ALIAS|content|is entry"),
    _call("diary_write", "chunked", agent_name="Bob", entry=LONG, wing="home"),
    _call("diary_write", "empty", agent_name="Bob"),
    _call("diary_read", agent_name="ADA"),
    _call("diary_read", "last", agent_name="ada", last_n=1, wing="wing_ada"),
    _call(
        "kg_add", keep={"fact": "triple_id"}, subject="Ada", predicate="works_on", object="otters"
    ),
    _call(
        "kg_add",
        "dated",
        subject="Ada",
        predicate="lives_in",
        object="Hamburg",
        valid_from="2019-05-01",
        valid_to="2021-06-01T12:00:00Z",
        source_closet="c1",
        source_file="/notes/otters.md",
        source_drawer_id="$otters",
    ),
    _call("kg_add", "again", subject="Ada", predicate="works_on", object="otters"),
    _call(
        "kg_add",
        "future",
        subject="Ada",
        predicate="works_on",
        object="bread",
        valid_from="2990-01-01",
    ),
    _call("kg_add", "bad-date", subject="A", predicate="b", object="C", valid_from="yesterday"),
    _call(
        "kg_supersede",
        subject="Ada",
        predicate="works_on",
        old_object="otters",
        new_object="seals",
        at="2021-03-04",
    ),
    _call(
        "kg_supersede",
        "inverted",
        subject="Ada",
        predicate="works_on",
        old_object="seals",
        new_object="otters",
        at="1900-01-01",
    ),
    _call(
        "kg_invalidate", subject="Ada", predicate="lives_in", object="Hamburg", ended="2022-01-01"
    ),
    _call("kg_invalidate", "now", subject="Ada", predicate="works_on", object="seals"),
    _call("kg_query", entity="Ada"),
    _call("kg_query", "as-of", entity="Ada", as_of="2020-01-01", direction="outgoing"),
    _call("kg_query", "incoming", entity="otters", direction="incoming"),
    _call("kg_query", "sideways", entity="Ada", direction="sideways"),
    _call("kg_query", "candidates", entity="Ad"),
    _call("kg_timeline"),
    _call("kg_timeline", "page", entity="Ada", limit=1, offset=1),
    _call("kg_stats"),
    _call("graph_stats"),
    _call(
        "create_tunnel",
        keep={"tunnel": "id"},
        source_wing="nature",
        source_room="sea",
        target_wing="home",
        target_room="kitchen",
        label="both need salt",
        source_drawer_id="$long",
    ),
    _call(
        "create_tunnel",
        "nowhere",
        source_wing="nature",
        source_room="attic",
        target_wing="home",
        target_room="kitchen",
    ),
    _call(
        "create_tunnel",
        "kept",
        source_wing="nature",
        source_room="sea",
        target_wing="home",
        target_room="sea",
    ),
    _call("list_tunnels"),
    _call("list_tunnels", "wing", wing="os"),
    _call("follow_tunnels", wing="nature", room="sea"),
    _call("follow_tunnels", "counted", wing="nature", room="sea"),
    _call("delete_tunnel", tunnel_id="$tunnel"),
    _call("delete_tunnel", "again", tunnel_id="$tunnel"),
    _call("mine", "dry", source="$project", dry_run=True),
    _call("mine", source="$project", wing="mined", agent="ada"),
    _call("mine", "again", source="$project", wing="mined"),
    _call("mine", "convos", source="$chat", mode="convos", wing="chats", extract="exchange"),
    _call("mine", "extract", source="$project", mode="extract"),
    _call("mine", "nowhere", source="/nowhere/at/all"),
    _call("mine", "mode", source="$project", mode="moods"),
    _call("list_drawers", "mined", wing="mined"),
    _call("list_hallways", keep={"hallway": "hallways.0.id"}),
    _call("list_hallways", "page", wing="mined", limit=1, offset=1),
    _call("delete_hallway", hallway_id="$hallway"),
    _call("delete_hallway", "again", hallway_id="$hallway"),
    _call("sync", project_dir="$project"),
    _call("sync", "apply", project_dir="$project", wing="mined", apply=True),
    _call("delete_by_source", source_file="$source"),
    _call("delete_by_source", "really", source_file="$source", dry_run=False),
    _call("event_list", "empty"),
    _call("event_wait", "empty", stream="project/otters", timeout_ms=20),
    _call(
        "event_append",
        keep={"event": "event.id"},
        type="task.note",
        stream="project/otters",
        room="status",
        from_agent="ada",
        to_agent="*",
        correlation_id="c-1",
        branch="main",
        base_commit="abc1234",
        status="open",
        body="The otters are counted. " * 20,
        metadata={"deep": {"list": [1, 2.5, None, True, "ß"]}},
        topic="census",
    ),
    _call("event_append", "bad-type", type="no type", stream="s", room="r", from_agent="ada"),
    _call(
        "task_create",
        keep={"task": "task.id"},
        project="otters",
        from_agent="ada",
        to_agent="bob",
        goal="Count them again",
        branch="main",
        base_commit="0123456789abcdef0123456789abcdef01234567",
        done="A number",
    ),
    _call(
        "task_create",
        "branch",
        project="otters",
        from_agent="ada",
        to_agent="bob",
        goal="g",
        branch="main",
        base_commit="main",
        done="d",
    ),
    _call("event_list"),
    _call("event_list", "preview", stream="project/otters", preview=True, order="asc", limit=1),
    _call("event_list", "since", since_event_id="$event", from_agent="ada"),
    _call("event_list", "writer", writer="bob", to_agent="ada", since_created_at="2020-01-01"),
    _call("event_wait", stream="project/otters", timeout_ms=5000, limit=1),
    _call("event_wait", "nothing", since_event_id="$task", timeout_ms=20, from_agent="bob"),
    _call("event_ack", event_id="$task", from_agent="bob", status="claimed", body="on it"),
    _call("event_ack", "missing", event_id="evt_none", from_agent="bob"),
    _call(
        "artifact_put",
        keep={"artifact": "artifact.id"},
        kind="note",
        content=UNICODE,
        created_by="ada",
        metadata={"of": "otters"},
    ),
    _call("artifact_put", "kind", kind="poem", content="x", created_by="ada"),
    _call("artifact_get", artifact_id="$artifact"),
    _call("artifact_get", "missing", artifact_id="art_none"),
    _call(
        "patch_submit",
        content="--- a\n+++ b\n@@ -1 +1 @@\n-1\n+2\n",
        from_agent="bob",
        stream="project/otters",
        correlation_id="c-1",
        body="counted",
        branch="main",
        base_commit="abc1234",
    ),
    _call("event_list", "all", stream="project/otters", order="ASC"),
    _call("hook_settings"),
    _call("hook_settings", "set", silent_save=False, desktop_toast=True),
    _call("hook_settings", "after"),
    _call("memories_filed_away"),
    _call("memories_filed_away", "again"),
    _call("reconnect"),
    _call("search", "reconnected", query="deadlock"),
    _call("delete_drawer", drawer_id="$banker"),
    _call("delete_drawer", "again", drawer_id="$banker"),
    _call("delete_drawers", drawer_ids=["$long", "drawer_none"]),
    _call("search", "deleted", query="deadlock"),
    # From here on their cache is filled, which stock keeps for a minute, whatever is written:
    # no drawer changes before the wrong calls of these three, which come early.
    _call("traverse", start_room="sea"),
    _call("traverse", "missing", start_room="attic", max_hops=5),
    _call("find_tunnels"),
    _call("find_tunnels", "wings", wing_a="home", wing_b="nature"),
    _call("mesh_peers"),
)

# What the palace holds at the end says whether the changes, too, were the same.
FINAL: tuple[Call, ...] = (
    _call("list_drawers", "final", limit=100),
    _call("diary_read", "final", agent_name="ada", last_n=100),
    _call("kg_timeline", "final"),
    _call("list_tunnels", "final"),
    _call("list_hallways", "final"),
    _call("event_list", "final", limit=500, order="asc"),
    _call("graph_stats", "final"),
    _call("status", "final"),
)

# The first ones are the likeliest mistakes; where calls are dear only those are made.
_WRONG: dict[str, tuple[Any, ...]] = {
    "string": (7, None, "\ud800", ["x"], {"a": 1}, "", "nul\0", "x" * 5000),
    "integer": ("3", 2.9, "x", 3.0, "1e3", -1, 10**30, True, None, float("nan")),
    "number": ("0.5", "x", 1, True, None, float("inf"), [0.5]),
    "boolean": ("yes", None, 0, []),
    "array": ("x", [None], {}, [], None, 5),
    "object": ("x", None, [], {}, 5),
}
_MILLISECONDS = ("3", 2.9, "x", 3.0, -1, [], True)  # none of them makes a wait long
_DEAR = {  # tool -> wrong values tried for each parameter: these embed text or walk a directory
    "mine": 1,
    "sync": 1,
    "checkpoint": 2,
    "add_drawer": 3,
    "update_drawer": 3,
    "diary_write": 3,
    "search": 2,
}
_BASES: dict[str, dict[str, Any]] = {
    "checkpoint": {"items": [{"wing": "home", "room": "kitchen", "content": BREAD}]},
    "event_wait": {"stream": "project/otters", "timeout_ms": 1},
    "kg_supersede": {  # repeated, these facts tie: so let no short page end among them
        "subject": "Bob",
        "predicate": "works_on",
        "old_object": "otters",
        "new_object": "seals",
        "at": "2991-01-01",
    },
}


def wrong_calls(catalogue: list[dict[str, Any]]) -> tuple[Call, ...]:
    """Return calls of every tool with missing, unknown and wrongly typed arguments."""
    sensible = {call.name: call.arguments for call in SENSIBLE} | _BASES
    calls: list[Call] = []
    for entry in catalogue:
        tool = entry["name"].removeprefix("mempalace_")
        odd = _wrong_arguments(tool, sensible[tool], entry["inputSchema"])
        calls += [Call(f"{tool}-wrong-{note}", tool, arguments) for note, arguments in odd]
    return tuple(calls)


def _wrong_arguments(tool: str, base: Any, schema: dict[str, Any]) -> list[tuple[str, Any]]:
    odd: list[tuple[str, Any]] = [
        ("list", []),
        ("text", "x"),
        ("unknown", base | {"bogus": 1}),
        ("unknowns", base | {"bogus": 1, "ßögus": 2}),
        ("internal", base | {"wait_for_previous": True}),
    ]
    if tool != "event_wait":  # which would wait for a minute
        odd += [("none", {}), ("null", None)]
    for name in schema.get("required", []):
        odd.append((f"no-{name}", {key: base[key] for key in base if key != name}))
    for name, parameter in schema.get("properties", {}).items():
        values = _MILLISECONDS if name == "timeout_ms" else _WRONG[parameter["type"]]
        values = values[: _DEAR.get(tool)]
        odd += [(f"{name}-{number}", base | {name: value}) for number, value in enumerate(values)]
    return odd


def fill(value: Any, kept: dict[str, Any]) -> Any:
    """Replace `$name` by what was kept under that name."""
    if isinstance(value, str) and value.startswith("$"):
        return kept[value[1:]]
    if isinstance(value, list):
        return [fill(item, kept) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, kept) for key, item in value.items()}
    return value


def encode_call(call: Call, ident: Any, kept: dict[str, Any]) -> bytes:
    """Return the call as one line."""
    arguments = fill(call.arguments, kept)
    return encode("tools/call", ident, name=f"mempalace_{call.tool}", arguments=arguments)


def encode(method: Any, ident: Any, **params: Any) -> bytes:
    """Return a request as one line."""
    message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def _line(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


IDS = (
    *(1, -1, 0, -0.0, 1.5, 1e100, float("inf"), 2**70, "a", "", "é", "\u2028", "\ud800"),
    *(None, True, False, [1], [], {"a": 1}, {}),
)
METHODS = (
    *("ping", "no/such", "", "tools/list ", "\ud800", "x" * 300),
    *("notifications/initialized", "notifications/", "notifications", "notifications/cancelled"),
    *(5, None, [], {}, True, 1.5),
)
PARAMS = (
    *([], [1], "x", 5, None, True, {}),
    *({"name": None}, {"name": 5}, {"name": []}, {"name": {}}, {"name": ""}),
    *({"name": "mempalace_no_such"}, {"name": "\ud800"}, {"name": "mempalace_kg_stats "}),
    {"arguments": {}},
    *({"name": "mempalace_kg_stats", "arguments": odd} for odd in ([], "x", 0, None, False, [1])),
    {"name": "mempalace_kg_stats", "arguments": {}, "_meta": {"progressToken": 1}},
)
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05", "1999-01-01", "", None, 5, [])
_CLIENT = {"name": "odd \ud800\n name", "version": 5}


def _handshake() -> dict[str, bytes]:
    lines = {"list": _line(id=1, method="tools/list"), "list-no-id": _line(method="tools/list")}
    lines |= {f"ping-{ident!r}": _line(id=ident, method="ping") for ident in IDS}
    for version in VERSIONS:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}
        lines[f"initialize-{version!r}"] = _line(id=1, method="initialize", params=params)
    odd = {"clientInfo": "x"}
    lines["initialize-odd-client"] = _line(id=1, method="initialize", params=odd)
    lines["initialize-no-id"] = _line(method="initialize")
    for method in ("initialize", "tools/list", "ping"):
        for odd_params in PARAMS[:7]:
            line = _line(id=1, method=method, params=odd_params)
            lines[f"{method}-params-{odd_params!r}"] = line
    return lines


def _envelopes() -> dict[str, bytes]:
    call = {"name": "mempalace_kg_stats"}
    lines = {f"call-{ident!r}": _line(id=ident, method="tools/call", params=call) for ident in IDS}
    lines["call-no-id"] = _line(method="tools/call", params=call)
    for ident in IDS:
        lines[f"unknown-method-{ident!r}"] = _line(id=ident, method="no/such")
    for method in METHODS:
        lines[f"method-{method!r}"] = _line(id=1, method=method)
        lines[f"method-{method!r}-no-id"] = _line(method=method)
    for params in PARAMS:
        lines[f"params-{params!r}"] = _line(id=1, method="tools/call", params=params)
        lines[f"params-{params!r}-no-id"] = _line(method="tools/call", params=params)
    return lines


_PING = b'{"id":1,"method":"ping"}'
_QUERY = b'{"id":1,"method":"tools/call","params":{"name":"mempalace_kg_query","arguments":%b}}'
_PAGE = b'{"id":1,"method":"tools/call","params":{"name":"mempalace_kg_timeline","arguments":%b}}'
DEEP = 100_000

# Lines without their newline; none of them holds one.
BYTES: dict[str, bytes] = {
    "malformed": b'{"jsonrpc": "2.0", "id": 1,',
    "word": b"hello",
    "batch": b"[" + _PING + b"," + _PING + b"]",
    "batch-empty": b"[]",
    "number": b"5",
    "string": b'"x"',
    "null": b"null",
    "true": b"true",
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "object-empty": b"{}",
    "empty": b"",
    "blank": b"   ",
    "tab": b" \t ",
    "cr": b"\r",
    "crlf": _PING + b"\r",
    "cr-inside": b'{"id":1,\r"method":"ping"}',
    "spaces-around": b"  \t" + _PING + b"   ",
    "two-in-a-line": _PING + _PING,
    "text-behind": _PING + b" x",
    "bom": b"\xef\xbb\xbf" + _PING,
    "bom-alone": b"\xef\xbb\xbf",
    "nul": b"\0",
    "nul-in-id": b'{"id":"a\0b","method":"ping"}',
    "nul-escaped": b'{"id":"a\\u0000b","method":"ping"}',
    "keys-twice": b'{"id":1,"id":2,"method":"ping","method":"no/such"}',
    "nan-argument": _PAGE % b'{"limit":NaN}',
    "infinity-argument": _PAGE % b'{"limit":Infinity}',
    "float-argument": _PAGE % b'{"limit":2.0}',
    "huge-argument": _PAGE % b'{"limit":1e999}',
    "nan-id": b'{"id":NaN,"method":"no/such"}',
    "surrogate-id": b'{"id":"\\ud800","method":"no/such"}',
    "surrogate-argument": _QUERY % b'{"entity":"a\\udfffb"}',
    "surrogate-key": _QUERY % b'{"a\\udfffb":1}',
    "surrogate-pair": _QUERY % b'{"entity":"\\ud83d\\udc19"}',
    "utf8-broken-id": b'{"id":"\xff\xfe","method":"ping"}',
    "utf8-cut": b'{"id":"\xe2\x82","method":"ping"}',
    "utf8-overlong": b'{"id":"\xc0\xaf\xed\xa0\x80","method":"ping"}',
    "utf8-argument": _QUERY % b'{"entity":"caf\xc3"}',
    "utf8-outside": b"\xff" + _PING,
    "deep-array": b"[" * DEEP,
    "deep-closed": b"[" * DEEP + b"]" * DEEP,
    "deep-object": b'{"a":' * DEEP,
    "deep-id": b'{"id":' + b"[" * 400 + b"]" * 400 + b',"method":"no/such"}',
    "deep-argument": _QUERY % (b'{"entity":' + b"[" * 400 + b"]" * 400 + b"}"),
    "digits-id": b'{"id":' + b"9" * 10_000 + b',"method":"ping"}',
    "digits-4300": b'{"id":' + b"9" * 4300 + b',"method":"ping"}',
    "digits-argument": _PAGE % (b'{"limit":"' + b"9" * 10_000 + b'"}'),
    "garbage": bytes(range(1, 10)) + bytes(range(11, 256)),
    "our-own-header": b"palace/1 goodbye reason=stop read_upto=5 unrun=0",
    "our-own-reply": b"0 {}",
}
# Python's str.strip, which stock applies to a line, knows more white space than JSON does.
SPACES: dict[str, bytes] = {
    "form-feed-around": b"\x0c" + _PING + b"\x0c",
    "vertical-tab-around": b"\x0b" + _PING + b"\x0b",
    "separator-around": b"\x1c" + _PING + b"\x1f",
    "no-break-space-around": b"\xc2\xa0" + _PING,
    "separator-alone": b"\x1c",
    "no-break-space-alone": b"\xc2\xa0",
    "next-line-alone": b"\xc2\x85",
    "line-separator-alone": b"\xe2\x80\xa8",
}
HANDSHAKE = _handshake()
RAW = HANDSHAKE | _envelopes() | BYTES | SPACES
