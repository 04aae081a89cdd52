"""What palace reads of memories: names, arguments, texts with secrets, and rows of a lent store.

Nothing but the errors that are declared comes out, whatever was written; a secret that is certain
to be one is in nothing that comes out; and what is over is never shown.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from palace.memory.asked import (
    CONTENT_CHARS_MAX,
    LIMIT_MAX,
    NAMES_MAX,
    TTL_MAX_S,
    asked_commit,
    asked_forget,
    asked_search,
    asked_summary,
)
from palace.memory.expiry import NEVER_S, parse_expires_at, written
from palace.memory.memory import BY, END, KIND, NAMESPACE, PINNED, UNTIL, Memory, memory_of
from palace.memory.redact import find_secrets, redact
from palace.memory.reserved import refused_record, refused_write
from palace.memory.shown import shown, shown_row
from palace.memory.views import unwrapped, view_of
from palace.memory.wing import RESERVED, is_reserved_wing, wing_of
from palace.memory.wrap import prefixes_in, wrap
from palace.protocol.errors import InvalidMemory, WorkspaceRefused
from palace.protocol.workspaces import checked_namespace
from tests.security.source import Source, steps_at_most

DRIVES = tuple(
    f"palace.memory.{name}"
    for name in (
        *("asked", "assignments", "blocks", "carriers", "expiry", "memory", "redact", "reserved"),
        *("shown", "tokens", "views", "weighing", "wing", "wrap"),
    )
)
STEPS = 400_000
NOW_S = 1.8e9
CHARS_MAX = 4096
# Made up; in two halves, so that nobody takes this file for one that holds a secret.
TOKEN = "ghp_" + "q7Zt0K2mVx9LrB4cNw6YsH3dJf8PaG1uTe5R"
OVER = "WHAT-IS-OVER"
HIDDEN = ("", "\u200b", "\u00ad", "\u2060", "\ufeff", "\x00", "\u0301", "\x1b[31m", "\ud800")
PIECES = (
    *(" ", "\n", "\r\n", "\\n", "\\", "=", ":", '"', "'", "`", "|", ">", "<", "[", "]", "\t"),
    *("password", "passwort = ", "token: ", "api_key=", "secret", "Authorization: Bearer ", "-u "),
    *("https://user:", "@host/", "Cookie: a=", "ghp_", "sk-", "eyJ", "AKIA", "xoxb-", "mnemonic: "),
    *("-----BEGIN RSA PRIVATE KEY-----\n", "-----END RSA PRIVATE KEY-----", "Private-Lines: 9"),
    *("[REDACTED:jwt]", "[REDACTED:", "[MEMORY id=x scope=ORG ns=org:r]: ", "[memory", "\uff3bMEM"),
    *("\ue000", "\u202e", "\u2028", "\x85", "\uff47", "é", "Zm9vOmJhcg==", "hunter2!x", "0" * 40),
    *("Ab3" * 20, "correct horse battery staple", "a" * 300, "x=" * 60),
)
NAMESPACES = (
    *("team:core", "org:root", "workspace:lead", "custom:a.b", "custom:a..b", "team:", ":x"),
    *("team:X", "org:-a", "workspace:../x", "custom:\u0430", "other:x", "team:a\n"),
    *("custom:" + "a" * 249, "custom:" + "a" * 250, "team:xa", "team:" + "a" * 63),
)
IDENTS = ("mem-1", "mem-1", "mem-a_chunk_000001", "drawer_x", "mem-\n]", "", "mem-" + "a" * 200)
# What Chroma keeps as a number, should it be written by another program.
NUMBERS_KEPT = (0, 1, -1, 2**63 - 1, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"))
TOOLS = ("mempalace_add_drawer", "mempalace_checkpoint", "mempalace_delete_drawers", "mempalace_x")


def one(data: bytes) -> None:
    source = Source(data)
    reader: Callable[[Source], None] = source.pick((_texts, _texts, _rows, _rows, _names, _asked))
    reader(source)


# Texts.


def _text(source: Source) -> str:
    pieces = []
    while source and len(pieces) < 40:
        kind = source.byte()
        if kind < 160:
            pieces.append(PIECES[kind % len(PIECES)])
        elif kind < 190:
            pieces.append(source.pick(HIDDEN))
        elif kind < 210:
            pieces.append(_planted(source))
        else:
            pieces.append(source.raw().decode("utf-8", "replace"))
    return "".join(pieces)[:CHARS_MAX]


def _planted(source: Source) -> str:
    """Return the token with characters in it that show nothing, and perhaps one line break."""
    pieces = list(TOKEN)
    for _ in range(source.below(4)):
        pieces[source.below(len(TOKEN) - 1)] += source.pick(HIDDEN)
    if source.byte() % 3 == 0:
        pieces[source.below(len(TOKEN) - 1)] += source.pick(("\n", "\r\n", "\\n", "\n  ", "\\\n"))
    return "".join(pieces)


def _texts(source: Source) -> None:
    text = _text(source)
    _check_views(text)
    with steps_at_most(STEPS) if source.byte() % 4 == 0 else nullcontext():
        found = find_secrets(text)
    try:
        left = redact(text)
    except InvalidMemory:
        return
    ends = [0, *(finding.end for finding in found)]
    assert all(end <= one.start < one.end for end, one in zip(ends, found, strict=False)), found
    assert redact(left) == left
    assert TOKEN not in _read(left), "a token is left"
    _check_wrapped(left)


def _read(text: str) -> str:
    """Return what a reader could make of a text: it shows, and its lines are joined."""
    view = view_of(text)
    joined = unwrapped(view)
    return view.text + "\n\n" + (joined.text if joined is not None else "")


def _check_views(text: str) -> None:
    for view in (view_of(text), unwrapped(view_of(text))):
        if view is None or view.origin is None:
            continue
        assert len(view.origin) == len(view.text)
        assert all(a <= b for a, b in zip(view.origin, view.origin[1:], strict=False))
        assert not view.origin or view.origin[-1] < len(text)


def _check_wrapped(content: str) -> None:
    wrapped = wrap(content, "mem-1", "org:root")
    head, _, guarded = wrapped.partition("]: ")
    assert head == "[MEMORY id=mem-1 scope=ORG ns=org:root"
    for place in reversed(prefixes_in(guarded)):
        assert guarded[place - 1 : place] == "\\", "a line begins like a prefix"
        guarded = guarded[: place - 1] + guarded[place:]
    assert guarded == content, "nothing is lost"


# What a store says, which containers may have written.


def _metadata(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {NAMESPACE: source.pick(NAMESPACES), UNTIL: source.pick((NEVER_S, 0.0))}
    for name in (NAMESPACE, UNTIL, KIND, END, PINNED, BY, "filed_at", "wing", "parent_drawer_id"):
        if source.byte() % 3 == 0:
            found[name] = source.pick((source.text(), source.pick(NUMBERS_KEPT), True, False))
    return found


def _rows(source: Source) -> None:
    memories = {}
    for ident in IDENTS:
        if source.byte() % 2:
            memories[ident] = memory_of(ident, "", _metadata(source))
    _check_memories(memories)

    def look(idents: Sequence[str]) -> Mapping[str, Memory]:
        found = {ident: memories[ident] for ident in idents if ident in memories}
        return {ident: memory for ident, memory in found.items() if memory.namespace}

    told = _reply(source, memories)
    assert OVER not in shown(json.dumps(told, indent=2, ensure_ascii=False), look, NOW_S)
    metadata = _metadata(source)
    row = shown_row(source.pick(IDENTS), "text", metadata, NOW_S)
    assert row is None or row.endswith("text")
    refused_record(metadata, source.pick((None, metadata, {}, {"wing": source.json(1)})))


def _check_memories(memories: Mapping[str, Memory]) -> None:
    """What no gate has stored is over, so that it stands in nobody's way."""
    for memory in memories.values():
        assert isinstance(memory.until, float)
        if memory.namespace and not memory.is_expired(NOW_S):
            assert wrap("x", memory.id, memory.namespace).endswith(": x")


def _reply(source: Source, memories: Mapping[str, Memory]) -> Any:
    def hit() -> dict[str, Any]:
        ident = source.pick(IDENTS)
        memory = memories.get(ident)
        is_over = ident.startswith("mem-")
        if memory is not None and memory.namespace:
            is_over = memory.is_expired(NOW_S)
        found = {source.pick(("id", "drawer_id")): ident, "wing": RESERVED + "team.core"}
        found[source.pick(("text", "content", "x"))] = OVER if is_over and ident else "text"
        return found

    def value(depth: int) -> Any:
        kind = source.below(8 if depth else 4)
        if kind < 3:
            return hit()
        if kind == 3:
            return source.pick((None, True, 0, 2**63, "", "\ud800", OVER.lower()))
        if kind < 6:
            return [value(depth - 1) for _ in range(source.below(4))]
        names = ("results", "errors", "count", "matches", "is_duplicate", "also_in", "drawers")
        return {source.pick(names): value(depth - 1) for _ in range(source.below(4))}

    told = value(3)
    return told if isinstance(told, dict) else {"results": told}  # as all of stock's tools do


# Names and arguments.


def _names(source: Source) -> None:
    text = source.pick((*NAMESPACES, source.raw().decode("utf-8", "replace"), source.json(2)))
    named = {"wing": text, "drawer_ids": source.json(2), "items": source.json(2), "diary": text}
    tool = source.pick(TOOLS)
    said = refused_write(tool, named)
    assert said.isascii()
    assert said.isprintable()
    try:
        wing = wing_of(text)
    except WorkspaceRefused:
        return
    assert checked_namespace(text) == text
    assert re.fullmatch(r"ns\.(workspace|team|org|custom)\.[a-z0-9-]+", wing)
    assert len(wing) <= 128
    assert is_reserved_wing(wing)
    for passes in (
        wing.upper(),
        f" {wing}",
        f"__{wing}",
        f"\u200b{wing}",
        wing.replace("n", "\uff4e"),
    ):
        assert is_reserved_wing(passes), passes
    for other in NAMESPACES:
        with suppress(WorkspaceRefused):
            assert other == text or wing_of(other) != wing


def _asked(source: Source) -> None:
    names = (
        *("content", "namespace", "id", "kind", "expires_at", "pin", "ttl_s", "query", "limit"),
        *("namespaces", "kinds", "workspace"),
    )
    arguments: dict[str, Any] = {"content": "x"}
    for _ in range(source.below(5)):
        arguments[source.pick(names)] = _argument(source)
    with suppress(InvalidMemory, WorkspaceRefused):
        commit = asked_commit(arguments)
        assert commit.content.strip()
        assert len(commit.content) <= CONTENT_CHARS_MAX
        assert commit.content.encode().decode() == commit.content
        assert not commit.id or re.fullmatch(r"mem-[A-Za-z0-9-]{1,100}", commit.id)
        assert commit.until == NEVER_S or written(parse_expires_at(commit.expires_at))
    with suppress(InvalidMemory, WorkspaceRefused):
        summary = asked_summary(arguments, NOW_S)
        assert NOW_S <= summary.until <= NOW_S + TTL_MAX_S + 1
    with suppress(InvalidMemory, WorkspaceRefused):
        asked = asked_search({k: v for k, v in arguments.items() if k != "content"})
        assert 1 <= asked.limit <= LIMIT_MAX
        assert len(asked.namespaces) <= NAMES_MAX
        assert len(asked.kinds) <= NAMES_MAX
    with suppress(InvalidMemory, WorkspaceRefused):
        assert asked_forget({k: v for k, v in arguments.items() if k != "content"}).id


def _argument(source: Source) -> Any:
    texts = (
        *NAMESPACES,
        *IDENTS,
        *("2027-01-31T18:00:00Z", "9999-12-31T23:59:60Z", "0001-01-01T00:00:00+23:59", "1e9"),
        *("2027-01-31T18:00:00." + "9" * 60 + "Z", TOKEN, "\ud800", "\u200b", "memory"),
    )
    kind = source.below(4)
    if kind == 0:
        return source.pick(texts)
    if kind == 1:
        return [source.pick(texts) for _ in range(source.below(80))]
    return source.json(2) if kind == 2 else source.pick((1e-9, 1, 50, 1e300, 3_153_600_000, True))
