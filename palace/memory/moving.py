"""Memories on the move: what a palace's owner exports, imports, and copies to a server.

A page at a time, in the order of ids, so that whoever is cut off goes on behind the last id that
was told; a memory that is copied or imported twice is there once, by its id.

Pure, as the gate is.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs

from palace.memory.asked import asked_commit, is_id
from palace.memory.both import copy_of
from palace.memory.expiry import is_expired, parse_expires_at, written
from palace.memory.gate import Gate, Json, OtherStore, Wanted
from palace.memory.memory import Memory
from palace.memory.redact import redact
from palace.protocol.decoding import decode_json
from palace.protocol.errors import Forbidden, InvalidMemory, WorkspaceRefused
from palace.protocol.resolver import everything
from palace.protocol.workspaces import WORKSPACE, checked_namespace

PAGE_MAX = 32
NAMESPACE_MAX = 10_000  # memories of one namespace, which are read for each page of it
FOUND_MAX = 100  # that a server finds at once
QUERY_CHARS_MAX = 10_000  # of the contract's
_REFUSALS = (Forbidden, InvalidMemory, WorkspaceRefused)
Arguments = Mapping[str, object]


@attrs.frozen(kw_only=True)
class Moving:
    """One call's.  `server` is what is copied to, None where the settings name none."""

    gate: Gate
    server: OtherStore | None = None

    def answer(self, tool: str, arguments: Arguments) -> Json:
        return _ANSWERS[tool](self, arguments)

    # Out.

    def page(self, arguments: Arguments) -> Json:
        """Return the namespaces there are, or some memories of one that is named, without secrets.

        Of a namespace that is held elsewhere no more than a server finds at once.
        """
        if arguments.get("namespace") is None:
            return {"namespaces": self._namespaces()}
        name = checked_namespace(arguments["namespace"])
        found, is_all = self._all_of(name, is_here=arguments.get("here") is True)
        part = _behind(found, arguments)
        return {
            "memories": [_row(one) for one in part],
            "more": bool(part) and part[-1].id != found[-1].id,
            "whole": is_all,
        }

    def _namespaces(self) -> list[Json]:
        server = self.server
        return [
            {
                "name": name,
                "server": server is not None and server.holds(name),
                "counts": self._counts(name),
            }
            for name in everything(self.gate.tree)
        ]

    def _counts(self, name: str) -> bool:
        """Tell whether a namespace is held elsewhere already."""
        other = self.gate.elsewhere
        return other is not None and other.holds(name)

    def _all_of(self, name: str, *, is_here: bool) -> tuple[list[Memory], bool]:
        """Return what a namespace holds in the order of ids, and whether that is all.

        `is_here`: what is stored here, whoever holds it now.
        """
        other = self.gate.elsewhere
        if other is not None and self._counts(name) and not is_here:
            found, most = other.search(self._wanted(name, FOUND_MAX), [name]), FOUND_MAX
        else:
            most = NAMESPACE_MAX
            found = self.gate.store.find(self._wanted(name, most))
        return sorted(found, key=lambda one: one.id), len(found) < most

    def _wanted(self, name: str, limit: int, query: str = "") -> Wanted:
        now_s = self.gate.now_s
        return Wanted(query=query, namespaces=(name,), kinds=(), limit=limit, now_s=now_s)

    # To a server.

    def copy(self, arguments: Arguments) -> Json:
        """Store some memories of a namespace at the server, or with `verify` look for them there.

        What is stored here stays.  Raises PluginUnavailable, and then the same page may be asked
        for again.
        """
        name = checked_namespace(arguments.get("namespace"))
        server = self.server
        if server is None or not server.holds(name):
            raise InvalidMemory(
                f"{name} is for no server: name one, and which namespaces it shall hold "
                "(memory_plugin, memory_plugin_kinds)"
            )
        is_trial = arguments.get("verify") is True
        if not is_trial and self._counts(name):
            raise InvalidMemory(
                f"{name} is at the server since memory_cutover is on: a copy of what was left here "
                "would bring back what was forgotten there, and overwrite what is newer. To go "
                "back to what is here: palace config set memory_cutover=false; palace stop"
            )
        found = self._left(name)
        if len(found) >= NAMESPACE_MAX:
            raise InvalidMemory(f"{name} holds {NAMESPACE_MAX} memories or more, too many to copy")
        ordered = sorted(found, key=lambda one: one.id)
        part = _behind(ordered, arguments)
        work = self._missed if is_trial else self._stored
        problems = [{"id": one.id, "why": why} for one in part if (why := work(server, one))]
        return {
            "done": len(part) - len(problems),
            "problems": problems,
            "last": part[-1].id if part else "",
            "more": bool(part) and part[-1].id != ordered[-1].id,
        }

    def _stored(self, server: OtherStore, memory: Memory) -> str:
        """Store a memory there; say why it was not taken."""
        try:
            server.commit(attrs.evolve(memory, content=redact(memory.content)))
        except _REFUSALS as problem:
            return problem.message
        return ""

    def _missed(self, server: OtherStore, memory: Memory) -> str:
        """Say what a reader there would miss of a memory, "" for nothing."""
        there = self._found(server, memory)
        if there is None:
            return "it isn't found there"
        names = [
            name
            for name in ("kind", "expires_at", "pinned", "propagation")
            if getattr(there, name) != getattr(memory, name)
        ]
        names += ["content"] if there.content != redact(memory.content) else []
        return f"its {', '.join(names)} differ there" if names else ""

    def _found(self, server: OtherStore, memory: Memory) -> Memory | None:
        """Return a memory of ours as a search for its own words finds it there."""
        query = redact(memory.content)[:QUERY_CHARS_MAX].strip()
        found = server.search(self._wanted(memory.namespace, FOUND_MAX, query), [memory.namespace])
        ident = server.id_of(memory.id)
        return next((one for one in found if one.id == ident), None)

    # What was left here.

    def retire(self, arguments: Arguments) -> Json:
        """Forget copies that were left here of a namespace that the server holds by now.

        Of all of them, a page at a time, those that are found there; `id` names one, as it is
        called there or here, wherever it is.  Raises PluginUnavailable, as `copy` does.
        """
        if arguments.get("id") is not None:
            return self._retire_one(arguments["id"])
        name = checked_namespace(arguments.get("namespace"))
        server = self.gate.elsewhere
        if server is None or not server.holds(name):
            raise InvalidMemory(
                f"{name} is held here: what is stored of it is no copy that was left (memory_plugin"
                ", memory_plugin_kinds, memory_cutover)"
            )
        ordered = sorted(self._left(name), key=lambda one: one.id)
        part = _behind(ordered, arguments)
        gone = [one for one in part if self._found(server, one) is not None]
        if gone:
            self.gate.store.delete(gone)
        why = "it isn't found at the server, and stays here; name its id to forget it all the same"
        return {
            "done": len(gone),
            "problems": [{"id": one.id, "why": why} for one in part if one not in gone],
            "last": part[-1].id if part else "",
            "more": bool(part) and part[-1].id != ordered[-1].id,
        }

    def _left(self, name: str) -> Sequence[Memory]:
        """Return what is stored here of a namespace, whoever holds it now."""
        return self.gate.store.find(self._wanted(name, NAMESPACE_MAX))

    def _retire_one(self, ident: object) -> Json:
        server = self.gate.elsewhere
        if not isinstance(ident, str) or not is_id(ident):
            raise InvalidMemory("the id must be one that a memory has")
        for name in filter(self._counts, everything(self.gate.tree)):
            assert server is not None, "it holds it"
            copy = copy_of(self.gate.store, server, ident, name)
            if copy is not None:
                self.gate.store.delete([copy])
                return {"done": 1, "problems": [], "last": copy.id, "more": False}
        raise InvalidMemory(f"no copy of {ident} was left here of what a server holds now")

    # In.

    def store(self, arguments: Arguments) -> Json:
        """Store exported memories; of namespaces that aren't here they are passed over."""
        rows = arguments.get("memories")
        if not isinstance(rows, list) or len(rows) > PAGE_MAX:
            raise InvalidMemory(f"memories must be a list of at most {PAGE_MAX} objects")
        known = set(everything(self.gate.tree))
        told: dict[str, list[object]] = {"stored": [], "skipped": [], "problems": []}
        for row in rows:
            ident = row.get("id") if isinstance(row, dict) else None
            shown = ident if isinstance(ident, str) and is_id(ident) else ""
            if isinstance(row, dict) and row.get("namespace") not in known:
                told["skipped"].append(shown)
                continue
            try:
                told["stored"].append(self._store(row, is_trial=arguments.get("trial") is True))
            except _REFUSALS as problem:
                told["problems"].append({"id": shown, "why": problem.message})
        return {**told}

    def _store(self, row: object, *, is_trial: bool) -> str:
        if not isinstance(row, dict):
            raise InvalidMemory("it is no object")
        names = ("id", "namespace", "content", "kind", "expires_at", "pin", "propagation")
        asked = asked_commit({name: row[name] for name in names if row.get(name) is not None})
        if not asked.id:
            raise InvalidMemory("it has no id, and would be stored anew each time")
        if is_expired(asked.until, self.gate.now_s):
            raise InvalidMemory("it is over")
        source = row.get("source")
        asked = attrs.evolve(
            asked,
            created_at=written(parse_expires_at(row.get("created_at"))),
            source=source if source in ("agent", "runtime", "user") else "",
        )
        return asked.id if is_trial else self.gate.put(asked).memory.id


def _behind(found: Sequence[Memory], arguments: Arguments) -> list[Memory]:
    """Return the next page, behind the id that is named."""
    after, most = arguments.get("after"), arguments.get("most")
    after = after if isinstance(after, str) else ""
    most = most if type(most) is int and 0 < most < PAGE_MAX else PAGE_MAX
    return [one for one in found if one.id > after][:most]


def _row(memory: Memory) -> Json:
    scope, _, name = memory.namespace.partition(":")
    return {
        "id": memory.id,
        "namespace": memory.namespace,
        "workspace_name": name if scope == WORKSPACE else "",
        "scope": scope,
        "content": redact(memory.content),
        "kind": memory.kind,
        "source": memory.source or "agent",
        "created_at": memory.created_at,
        "expires_at": memory.expires_at or None,
        "pin": memory.pinned,
        "propagation": decode_json(memory.propagation) if memory.propagation else None,
    }


_ANSWERS: Mapping[str, Callable[[Moving, Arguments], Json]] = {
    "palace_memory_page": Moving.page,
    "palace_memory_copy": Moving.copy,
    "palace_memory_store": Moving.store,
    "palace_memory_retire": Moving.retire,
}
