"""Every tool that changes a palace: what it needs before, how it is called, what it must leave.

Each is called with a nonce of its own, so that one palace serves for many calls.  The effects are
told from the raw stores, and are such that a second run, or half a run, shows in them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes.clients import Speaker
from tests.support.stores.nonces import Stores

CHUNK = 800  # mempalace's default; what is longer is split
DATES = {"valid_from": "2019-05-01", "valid_to": "2021-06-01"}  # what has ended may be added twice


@dataclass(frozen=True)
class CallContext:
    """One call's surroundings: a client, a nonce, and a directory for what it mines."""

    client: Speaker
    nonce: str
    folder: Path


Arguments = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Mutation:
    """`prepare` returns the arguments; `check` asserts that the call was carried out once."""

    tool: str
    prepare: Callable[[CallContext], Arguments]
    check: Callable[[Stores, CallContext, Answer], None]
    non_atomic: bool = False  # an interrupted call keeps what it did and runs again from its start


def long_text(nonce: str, words: str, chunks: int) -> str:
    """Return a text of so many chunks, with the nonce in each of them."""
    line, size = f"{words}, nonce {nonce}. ", CHUNK * chunks - 10
    return (line * (size // len(line))).ljust(size, ".")  # half a nonce may be another one


def documents(stores: Stores, nonce: str) -> list[str]:
    return [record.document or "" for record in stores.holding(nonce)]


def chunks_of(stores: Stores, nonce: str) -> list[int]:
    """Return the chunk numbers of the one drawer or entry that holds a nonce."""
    found = stores.holding(nonce)
    assert len({record.logical for record in found}) == 1, found
    return sorted(record.metadata["chunk_index"] for record in found)


def file_drawer(context: CallContext, content: str, **more: Any) -> str:
    answer = context.client.tool("add_drawer", wing="w", room="r", content=content, **more)
    assert answer["success"], answer
    return str(answer["drawer_id"])


# Drawers.


def _add_drawer(context: CallContext) -> Arguments:
    return {"wing": "w", "room": "r", "content": long_text(context.nonce, "a drawer", 3)}


def _drawer_is_added(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["chunks"] == 3
    assert "reason" not in answer, "nothing of an earlier run may be found"
    assert chunks_of(stores, context.nonce) == [0, 1, 2]


def _update_drawer(context: CallContext) -> Arguments:
    ident = file_drawer(context, long_text(context.nonce, "before", 3))
    return {"drawer_id": ident, "content": long_text(context.nonce, "after", 2)}


def _drawer_is_updated(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"]
    assert chunks_of(stores, context.nonce) == [0, 1]
    assert not [text for text in documents(stores, context.nonce) if "before" in text]


def _delete_drawer(context: CallContext) -> Arguments:
    return {"drawer_id": file_drawer(context, long_text(context.nonce, "to go", 2))}


def _drawer_is_deleted(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert answer["chunks_deleted"] == 2
    assert not stores.holding(context.nonce)


def _delete_drawers(context: CallContext) -> Arguments:
    texts = [f"{context.nonce} number {number}" for number in range(2)]
    texts.append(long_text(context.nonce, "to go", 2))
    return {"drawer_ids": [file_drawer(context, text) for text in texts]}


def _drawers_are_deleted(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert (answer["deleted"], answer["errors"]) == (3, 0)
    assert not stores.holding(context.nonce)


def _checkpoint(context: CallContext) -> Arguments:
    rooms = ("one", "two")
    items = [{"wing": "w", "room": r, "content": f"{context.nonce} item {r}"} for r in rooms]
    diary = {"agent_name": "ada", "entry": f"{context.nonce} entry"}
    return {"items": items, "diary": diary, "dedup_threshold": 2}


def _checkpoint_is_filed(stores: Stores, context: CallContext, answer: Answer) -> None:
    added = [drawer.get("chunks") for drawer in answer["added"]]
    assert (added, answer["duplicates"], answer["errors"]) == ([1, 1], [], [])
    assert answer["diary"]["success"]
    texts = [f"{context.nonce} {what}" for what in ("entry", "item one", "item two")]
    assert sorted(documents(stores, context.nonce)) == texts


def _diary_write(context: CallContext) -> Arguments:
    return {"agent_name": "ada", "entry": long_text(context.nonce, "an entry", 2)}


def _entry_is_written(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert chunks_of(stores, context.nonce) == [0, 1]
    assert {record.logical for record in stores.holding(context.nonce)} == {answer["entry_id"]}


def _delete_by_source(context: CallContext) -> Arguments:
    source = f"/notes/{context.nonce}.md"
    file_drawer(context, f"{context.nonce} one", source_file=source)
    file_drawer(context, f"{context.nonce} two", source_file=source)
    return {"source_file": source, "dry_run": False}


def _source_is_deleted(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert not stores.holding(context.nonce)


# The knowledge graph.


def triples(stores: Stores, nonce: str) -> list[dict[str, Any]]:
    return [row for row in stores.rows["graph:triple"] if nonce in row["object"]]


def _kg_add(context: CallContext) -> Arguments:
    return {"subject": "ada", "predicate": "knew", "object": context.nonce, **DATES}


def _fact_is_added(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert [row["id"] for row in triples(stores, context.nonce)] == [answer["triple_id"]]
    names = [row["name"] for row in stores.rows["graph:entity"]]
    assert names.count(context.nonce) == 1


def _kg_invalidate(context: CallContext) -> Arguments:
    fact = {"subject": "ada", "predicate": "knows", "object": context.nonce}
    context.client.tool("kg_add", **fact)
    return fact | {"ended": "2990-01-01"}


def _fact_is_invalid(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert [row["valid_to"] for row in triples(stores, context.nonce)] == ["2990-01-01"]


def _kg_supersede(context: CallContext) -> Arguments:
    fact = {"subject": f"s{context.nonce}", "predicate": "uses"}
    context.client.tool("kg_add", object=f"{context.nonce}-old", **fact)
    return fact | {"old_object": f"{context.nonce}-old", "new_object": f"{context.nonce}-new"}


def _fact_is_superseded(stores: Stores, context: CallContext, answer: Answer) -> None:
    rows = {row["object"]: row["valid_to"] for row in triples(stores, context.nonce)}
    assert len(triples(stores, context.nonce)) == 2
    assert rows[f"{context.nonce}-old"] is not None
    assert rows[f"{context.nonce}-new"] is None
    assert answer["triple_id"] in {row["id"] for row in triples(stores, context.nonce)}


# Tunnels and hallways.


def _create_tunnel(context: CallContext) -> Arguments:
    for wing in ("near", "far"):
        answer = context.client.tool(
            "add_drawer", wing=wing, room=context.nonce, content=f"in {wing}"
        )
        assert answer["success"], answer
    where = {"source_wing": "near", "target_wing": "far"}
    rooms = {"source_room": context.nonce, "target_room": context.nonce}
    return {**where, **rooms, "label": context.nonce}


def tunnels(stores: Stores, nonce: str) -> list[Any]:
    return [tunnel for tunnel in stores.lists["tunnel"] if tunnel["label"] == nonce]


def _tunnel_is_there(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert [tunnel["id"] for tunnel in tunnels(stores, context.nonce)] == [answer["id"]]
    assert tunnels(stores, context.nonce)[0]["created_at"] == answer["created_at"]
    assert "updated_at" not in answer, "an earlier run may not be found"


def _delete_tunnel(context: CallContext) -> Arguments:
    return {"tunnel_id": context.client.tool("create_tunnel", **_create_tunnel(context))["id"]}


def _tunnel_is_gone(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert "error" not in answer, answer
    assert not tunnels(stores, context.nonce)


def make_project(folder: Path, nonce: str) -> Path:
    """Make three files that mention the same names, so that there is a hallway between these."""
    project = folder / f"project-{nonce}"
    (project / "src").mkdir(parents=True)
    for number, name in enumerate(("README.md", "src/otters.py", "src/seals.py")):
        line = f"Ada Lovelace counts in KelpForest with OtterCounter, {nonce} file {number}.\n"
        (project / name).write_text(line * 8)
    return project


def _mine(context: CallContext) -> Arguments:
    return {
        "source": str(make_project(context.folder, context.nonce)),
        "wing": f"mined{context.nonce}",
    }


def mined(stores: Stores, nonce: str) -> list[str]:
    """Return the files whose drawers are there, as often as there are drawers of the same text."""
    return sorted(
        f"{record.metadata['source_file'].rpartition('/')[2]} {record.metadata['chunk_index']}"
        for record in stores.holding(nonce)
    )


def _all_is_mined(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert mined(stores, context.nonce) == ["README.md 0", "otters.py 0", "seals.py 0"]
    assert hallways(stores, context.nonce)


def hallways(stores: Stores, nonce: str) -> list[Any]:
    return [hall for hall in stores.lists["hallway"] if hall["wing"] == f"mined{nonce}"]


def _delete_hallway(context: CallContext) -> Arguments:
    context.client.tool("mine", **_mine(context))
    wing = f"mined{context.nonce}"
    halls = context.client.tool("list_hallways", wing=wing)["hallways"]
    for hall in halls[1:]:
        context.client.tool("delete_hallway", hallway_id=hall["id"])
    return {"hallway_id": halls[0]["id"]}


def _hallway_is_gone(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer == {"deleted": True}
    assert not hallways(stores, context.nonce)


def _sync(context: CallContext) -> Arguments:
    arguments = _mine(context)
    context.client.tool("mine", **arguments)
    (Path(arguments["source"]) / ".gitignore").write_text("src/\n")
    return {"project_dir": arguments["source"], "wing": arguments["wing"], "apply": True}


def _missing_are_pruned(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert mined(stores, context.nonce) == ["README.md 0"]


# Events and artifacts.

STREAM = {"stream": "project/otters", "from_agent": "ada"}


def events(stores: Stores, nonce: str) -> list[dict[str, Any]]:
    return [row for row in stores.rows["log:event"] if nonce in str(list(row.values()))]


def _event_append(context: CallContext) -> Arguments:
    return {**STREAM, "type": "task.note", "room": "status", "body": f"counted {context.nonce}"}


def _event_is_there(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert [row["id"] for row in events(stores, context.nonce)] == [answer["event"]["id"]]


def _task_create(context: CallContext) -> Arguments:
    sides = {"project": "otters", "from_agent": "ada", "to_agent": "bob", "branch": "main"}
    return {**sides, "goal": context.nonce, "base_commit": "0123456789" * 4, "done": "a number"}


def _task_is_there(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    assert len(events(stores, context.nonce)) == 1


def _event_ack(context: CallContext) -> Arguments:
    event = context.client.tool("event_append", **_event_append(context))["event"]["id"]
    return {"event_id": event, "from_agent": "bob", "status": "claimed", "body": context.nonce}


def _event_is_acknowledged(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    types = [row["type"] for row in events(stores, context.nonce)]
    assert sorted(types) == ["event.ack", "task.note"]


def artifacts(stores: Stores, nonce: str) -> list[dict[str, Any]]:
    return [row for row in stores.rows["log:artifact"] if nonce in str(row["content"])]


def _artifact_put(context: CallContext) -> Arguments:
    return {"kind": "note", "content": f"found {context.nonce}", "created_by": "ada"}


def _artifact_is_there(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert [row["id"] for row in artifacts(stores, context.nonce)] == [answer["artifact"]["id"]]


def _patch_submit(context: CallContext) -> Arguments:
    content = f"--- a\n+++ b\n@@ -1 +1 @@\n-1\n+{context.nonce}\n"
    return {**STREAM, "content": content, "correlation_id": context.nonce, "body": "counted"}


def _patch_is_there(stores: Stores, context: CallContext, answer: Answer) -> None:
    assert answer["success"], answer
    found = artifacts(stores, context.nonce)
    assert (len(found), len(events(stores, context.nonce))) == (1, 1)
    attached = [row["artifact_id"] for row in stores.rows["log:attached"]]
    assert attached.count(found[0]["id"]) == 1


MUTATIONS = {
    mutation.tool: mutation
    for mutation in (
        Mutation("add_drawer", _add_drawer, _drawer_is_added),
        Mutation("update_drawer", _update_drawer, _drawer_is_updated),
        Mutation("delete_drawer", _delete_drawer, _drawer_is_deleted),
        Mutation("delete_drawers", _delete_drawers, _drawers_are_deleted),
        Mutation("checkpoint", _checkpoint, _checkpoint_is_filed),
        Mutation("diary_write", _diary_write, _entry_is_written),
        Mutation("kg_add", _kg_add, _fact_is_added),
        Mutation("kg_invalidate", _kg_invalidate, _fact_is_invalid),
        Mutation("kg_supersede", _kg_supersede, _fact_is_superseded),
        Mutation("create_tunnel", _create_tunnel, _tunnel_is_there),
        Mutation("delete_tunnel", _delete_tunnel, _tunnel_is_gone),
        Mutation("delete_hallway", _delete_hallway, _hallway_is_gone),
        Mutation("event_append", _event_append, _event_is_there),
        Mutation("task_create", _task_create, _task_is_there),
        Mutation("event_ack", _event_ack, _event_is_acknowledged),
        Mutation("artifact_put", _artifact_put, _artifact_is_there),
        Mutation("patch_submit", _patch_submit, _patch_is_there),
        Mutation("mine", _mine, _all_is_mined, non_atomic=True),
        Mutation("sync", _sync, _missing_are_pruned, non_atomic=True),
        Mutation("delete_by_source", _delete_by_source, _source_is_deleted, non_atomic=True),
    )
}
