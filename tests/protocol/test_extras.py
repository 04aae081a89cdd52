"""Resources, prompts and completion, where a palace has them; stock's answers where it has not."""

import json
from typing import Any

import pytest

from palace.protocol import extras, jsonrpc, modern
from palace.protocol.jsonrpc import NOT_INLINE, Catalogue
from palace.protocol.request import ExtraCall, extra_call, read_request
from tests.protocol.test_jsonrpc import CATALOGUE
from tests.protocol.test_modern import META, request

SERVED = CATALOGUE.served(extras=True)
TAXONOMY = {"taxonomy": {"sea": {"otters": 3, "kelp": 1}, "land & air": {"owls": 2}}}
SEA, OTTERS = "mempalace://wing/sea", "mempalace://wing/sea/room/otters"


def legacy(method: str, **params: Any) -> Any:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def told(message: Any, *, extras: bool = True) -> Any:
    catalogue = SERVED if extras else CATALOGUE
    return modern.inline_reply(message, catalogue, read_only=False)


def asked(message: Any, said: Any) -> Any:
    """Return the answer to a request whose tool has said that."""
    call = extra_call(read_request(json.dumps(message).encode()))
    result = {"content": [{"type": "text", "text": json.dumps(said)}]}
    payload = jsonrpc.encode(jsonrpc.result(call.id, result))
    return jsonrpc.parse(extras.shaped(call.asked, payload, modern=call.modern))


@pytest.mark.parametrize("method", sorted(extras.METHODS))
def test_a_palace_without_them_answers_as_stock(method: str) -> None:
    assert told(legacy(method), extras=False)["error"]["message"] == f"Unknown method: {method}"
    assert told(request(method), extras=False)["error"]["code"] == -32601
    assert told(request(method)).__class__ is dict or told(request(method)) is NOT_INLINE


def test_they_are_told_of_where_they_are_served() -> None:
    begun = told(legacy("initialize"))["result"]["capabilities"]
    found = told(request("server/discover"))["result"]["capabilities"]

    assert begun == {"tools": {}, "resources": {}, "prompts": {}, "completions": {}}
    assert found.keys() == begun.keys() | {"extensions"}
    assert told(legacy("initialize"), extras=False)["result"]["capabilities"] == {"tools": {}}
    assert told(legacy("tools/list")) == told(legacy("tools/list"), extras=False)


def test_the_catalogue_keeps_it() -> None:
    assert Catalogue.from_json(SERVED.to_json()).extras
    assert not Catalogue.from_json(CATALOGUE.to_json()).extras
    assert b"extras" not in CATALOGUE.to_json()


def test_templates_and_prompts_need_no_engine() -> None:
    templates = told(request("resources/templates/list"))["result"]
    prompts = told(request("prompts/list"))["result"]
    plain = told(legacy("prompts/list"))["result"]

    assert [one["name"] for one in templates["resourceTemplates"]] == ["wing", "room", "drawer"]
    assert [one["name"] for one in prompts["prompts"]] == ["recall_topic", "file_session"]
    assert (prompts["resultType"], prompts["ttlMs"]) == ("complete", 300_000)
    assert "io.modelcontextprotocol/serverInfo" in prompts["_meta"]
    assert plain.keys() == {"prompts"}


def text_of(reply: Any) -> str:
    [message] = reply["result"]["messages"]
    return str(message["content"]["text"])


def test_a_prompt_says_what_was_asked_for() -> None:
    recall = told(legacy("prompts/get", name="recall_topic", arguments={"topic": "kelp"}))
    within = {"topic": "kelp", "wing": "sea"}
    there = told(request("prompts/get", name="recall_topic", arguments=within))
    file = told(legacy("prompts/get", name="file_session", arguments={"wing": "w", "room": "r"}))
    plain = told(legacy("prompts/get", name="file_session"))

    assert "for kelp with" in text_of(recall)
    assert "for kelp, in the wing sea with" in text_of(there)
    assert there["result"]["resultType"] == "complete"
    assert "ttlMs" not in there["result"]
    assert "palace, in the wing w, in the room r:" in text_of(file)
    assert "memory palace:" in text_of(plain)


@pytest.mark.parametrize(
    "params", [{}, {"name": 7}, {"name": "other"}, {"name": "recall_topic"}, {"arguments": []}]
)
def test_a_prompt_that_is_not_there_or_lacks_its_topic_is_refused(params: Any) -> None:
    assert told(legacy("prompts/get", **params))["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("message", "tool", "arguments"),
    [
        (legacy("resources/list"), "get_taxonomy", {}),
        (legacy("resources/read", uri=SEA), "get_taxonomy", {}),
        (
            legacy("resources/read", uri=OTTERS),
            "list_drawers",
            {"wing": "sea", "room": "otters", "limit": 100},
        ),
        (
            request("resources/read", uri="mempalace://drawer/a%2Fb"),
            "get_drawer",
            {"drawer_id": "a/b"},
        ),
        (
            legacy(
                "completion/complete",
                ref={"type": "ref/prompt", "name": "file_session"},
                argument={"name": "wing", "value": ""},
            ),
            "get_taxonomy",
            {},
        ),
    ],
)
def test_the_rest_is_asked_of_a_tool(message: Any, tool: str, arguments: Any) -> None:
    assert told(message) is NOT_INLINE
    call = extra_call(read_request(json.dumps(message).encode()))

    assert isinstance(call, ExtraCall)
    assert (call.name, call.arguments) == (f"mempalace_{tool}", arguments)
    assert call.message["params"] == {"name": call.name, "arguments": arguments}
    assert not call.may_be_task


@pytest.mark.parametrize(
    "uri",
    [
        *(None, 7, "", "file:///etc/passwd", "mempalace://", "mempalace://wing/"),
        *("mempalace://drawer/", "mempalace://drawer/a/b", "mempalace://wing/a/room/"),
        *("mempalace://wing/a/hall/b", "wing/a", "https://wing/a"),
    ],
)
def test_what_is_no_resource_is_not_found(uri: object) -> None:
    old, new = (told(ask("resources/read", uri=uri))["error"] for ask in (legacy, request))

    assert (old["code"], new["code"]) == (-32002, -32602)
    assert old["data"].keys() == {"uri"}


def test_wings_and_rooms_are_listed_page_by_page() -> None:
    result = asked(legacy("resources/list"), TAXONOMY)["result"]
    many = {"taxonomy": {f"w{number:03}": {} for number in range(extras.PAGE + 1)}}
    first = asked(legacy("resources/list"), many)["result"]
    second = asked(legacy("resources/list", cursor=first["nextCursor"]), many)["result"]
    none = asked(request("resources/list"), {"error": "No palace found"})["result"]

    assert [one["uri"] for one in result["resources"]] == [
        SEA,
        OTTERS,
        "mempalace://wing/sea/room/kelp",
        "mempalace://wing/land%20%26%20air",
        "mempalace://wing/land%20%26%20air/room/owls",
    ]
    assert result["resources"][0]["description"] == "2 rooms, 4 drawers"
    assert "nextCursor" not in result
    assert (len(first["resources"]), len(second["resources"])) == (extras.PAGE, 1)
    assert "nextCursor" not in second
    assert (none["resources"], none["ttlMs"], none["cacheScope"]) == ([], 0, "private")


@pytest.mark.parametrize("cursor", [7, "", "x", "-1", "\u0663"])
def test_a_cursor_that_was_never_given_is_refused(cursor: object) -> None:
    assert told(legacy("resources/list", cursor=cursor))["error"]["code"] == -32602


def test_a_resource_is_what_its_tool_says() -> None:
    drawer = "mempalace://drawer/d1"
    whole = asked(request("resources/read", uri=drawer), {"content": "kelp", "id": "d1"})
    wing = asked(legacy("resources/read", uri=SEA), TAXONOMY)
    room = asked(legacy("resources/read", uri=OTTERS), {"drawers": [{"id": "a"}], "total": 1})

    [text] = whole["result"]["contents"]
    assert text == {"uri": drawer, "mimeType": "text/plain", "text": "kelp"}
    assert whole["result"]["ttlMs"] == 0
    [content] = wing["result"]["contents"]
    assert json.loads(content["text"]) == TAXONOMY["taxonomy"]["sea"]
    assert json.loads(room["result"]["contents"][0]["text"])["drawers"] == [{"id": "a"}]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mempalace://drawer/d", {"error": "Drawer not found: d"}),
        ("mempalace://drawer/d", {}),
        ("mempalace://wing/none", TAXONOMY),
        ("mempalace://wing/sea/room/none", {"drawers": [], "total": 0}),
    ],
)
def test_a_resource_that_its_tool_does_not_find_is_not_found(uri: str, said: Any) -> None:
    error = asked(legacy("resources/read", uri=uri), said)["error"]

    assert (error["code"], error["data"]) == (-32002, {"uri": uri})


def test_an_error_of_the_tool_stays_one() -> None:
    payload = jsonrpc.encode(jsonrpc.error(1, -31047, "not open"))

    assert extras.shaped(legacy("resources/list"), payload, modern=False) == payload


def completion(name: str, value: str, **more: Any) -> Any:
    ref = {"type": "ref/resource", "uri": "mempalace://wing/{wing}/room/{room}"}
    argument = {"name": name, "value": value}
    message = legacy("completion/complete", ref=ref, argument=argument, **more)
    return asked(message, TAXONOMY)["result"]["completion"]


def test_names_are_completed() -> None:
    within = {"arguments": {"wing": "sea"}}

    assert completion("wing", "S")["values"] == ["sea"]
    assert completion("room", "")["values"] == ["kelp", "otters", "owls"]
    assert completion("room", "o", context=within) == {
        "values": ["otters"],
        "total": 1,
        "hasMore": False,
    }
    assert completion("room", "", context={"arguments": {"wing": "none"}})["values"] == []
    assert completion("id", "")["values"] == []


def test_a_name_is_one_part_of_its_uri() -> None:
    uri = extras.uri_of("wing", "a/b", "room", "50 % c")

    assert uri == "mempalace://wing/a%2Fb/room/50%20%25%20c"
    assert extras.parts_of(uri) == {"wing": "a/b", "room": "50 % c"}


@pytest.mark.parametrize(
    "params",
    [{}, {"ref": {}}, {"ref": {"name": "other"}, "argument": {}}, {"ref": 1, "argument": {}}],
)
def test_what_can_t_be_completed_is_refused(params: Any) -> None:
    assert told(legacy("completion/complete", **params))["error"]["code"] == -32602


def test_a_request_about_a_task_is_told_from_others() -> None:
    assert modern.names_task(request("tasks/get", meta=META))
    assert not modern.names_task(legacy("tasks/get"))
    assert not modern.names_task(request("prompts/get"))
