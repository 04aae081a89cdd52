"""The memory contract's operations (contract/memory-plugin-v1.yaml), carried out by the gate.

Two sorts of clients ask for them.  In the *plugin* role a client says which namespaces there are,
and who may do what in them is its own affair; it reaches nothing else.  A *workspace* has the
namespaces that the tree gives it, by their own names, and makes none.

What a client is told is an answer: a status of HTTP's, and a body.  Whatever is wrong with a
request is an answer, too, and nothing was changed by it.

Pure but for the gate, the register's namespaces and new names, which are handed in.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from palace.memory import contract
from palace.memory.asked import Commit, Search, checked_kind, checked_object
from palace.memory.expiry import is_expired, parse_expires_at, until_s
from palace.memory.gate import Gate
from palace.memory.memory import ID_PREFIX, Memory, moment_text
from palace.memory.redact import redact
from palace.protocol.decoding import decode_json
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.workspaces import PLUGIN, SPACES_MAX, Namespace, called

Json = dict[str, object]
Arguments = Mapping[str, object]
NO_CONTENT: Json = {"status": 204}


class Spaces(Protocol):
    """The plugin role's namespaces as the register keeps them; within the call's group."""

    def count(self) -> int:
        """Return how many there are, with those that are being forgotten."""
        ...

    def put(self, space: Namespace) -> None: ...

    def end(self, space: Namespace) -> None:
        """Let one be over, with all its memories."""
        ...


@attrs.frozen(kw_only=True)
class Operations:
    """One call's; `new_id` makes UUIDs, `new_life` what tells a namespace from an earlier one."""

    gate: Gate
    spaces: Spaces
    new_id: Callable[[], str]
    new_life: Callable[[], str]

    def answer(self, tool: str, arguments: Arguments) -> Json:
        """Return the answer to one of `protocol.tools.CONTRACT_TOOLS`."""
        try:
            return _OPERATIONS[tool](self, arguments)
        except InvalidMemory as problem:
            return refusal(400, "bad_request", problem.message)
        except Forbidden as problem:
            return refusal(403, "forbidden", problem.message)

    # Namespaces.

    def put_namespace(self, arguments: Arguments) -> Json:
        name = self._of_plugin(arguments)
        if redact(name) != name:  # it is kept, and listed, as it is
            raise InvalidMemory("the namespace's name holds a secret. Choose another")
        asked = contract.read(contract.NamespaceUpsert, arguments.get("body"))
        old = self.gate.tree.spaces.get(name)
        if old is not None and self._is_over(old):
            self.spaces.end(old)
            old = None
        if old is None and self.spaces.count() >= SPACES_MAX:
            raise Forbidden(
                f"The register holds {SPACES_MAX} namespaces of this contract, which is as many as "
                "it takes. Delete one."
            )
        space = Namespace(
            name=old.name if old is not None else f"{PLUGIN}:{self.new_life()}:{name}",
            kind=asked.kind,
            created_at=old.created_at if old is not None else self.gate.at,
        )
        return self._put(space, asked)

    def patch_namespace(self, arguments: Arguments) -> Json:
        name = self._of_plugin(arguments)
        asked = contract.read(contract.NamespacePatch, arguments.get("body"))
        space = self._found(name)
        return _lacking(name) if space is None else self._put(space, asked)

    def delete_namespace(self, arguments: Arguments) -> Json:
        name = self._of_plugin(arguments)
        space = self._found(name)
        if space is None:
            return _lacking(name)
        self.spaces.end(space)
        return NO_CONTENT

    def _put(
        self, space: Namespace, asked: contract.NamespaceUpsert | contract.NamespacePatch
    ) -> Json:
        said = asked.model_fields_set
        if "metadata" in said:
            space = attrs.evolve(space, metadata=checked_object(asked.metadata, "metadata"))
        if "expires_at" in said:
            moment = parse_expires_at(asked.expires_at)
            space = attrs.evolve(space, until=until_s(moment), expires_at=moment_text(moment))
        self.spaces.put(space)
        return {"status": 200, "body": _told_namespace(space)}

    def _of_plugin(self, arguments: Arguments) -> str:
        """Return the namespace that is asked about; raises Forbidden in the other role."""
        name = contract.checked("NamespaceName", arguments.get("name"))
        if not self.gate.principal.plugin:
            raise Forbidden(
                f"The namespaces of {self.gate.principal.called} follow from the palace's tree of "
                "workspaces, and are neither made nor changed here. Nothing was done; the palace's "
                "owner does it: palace workspace, palace namespace."
            )
        return name

    def _found(self, name: str) -> Namespace | None:
        space = self.gate.tree.spaces.get(name)
        return None if space is None or self._is_over(space) else space

    def _is_over(self, space: Namespace) -> bool:
        return is_expired(space.until, self.gate.now_s)

    # Memories.

    def commit(self, arguments: Arguments) -> Json:
        name = contract.checked("NamespaceName", arguments.get("name"))
        asked = contract.read(contract.MemoryWrite, arguments.get("body"))
        namespace = self._namespace(name)
        if not namespace:
            return _lacking(name)
        has_end = "expires_at" in asked.model_fields_set
        moment = parse_expires_at(asked.expires_at) if has_end else None
        has_propagation = "propagation" in asked.model_fields_set
        stored = self.gate.put(
            Commit(
                content=asked.content,
                namespace=namespace,
                id=ID_PREFIX + (asked.id or self.new_id()),
                kind=checked_kind(asked.kind),
                source=asked.source,
                until=until_s(moment),
                expires_at=moment_text(moment),
                pinned=asked.pin,
                propagation=(
                    checked_object(asked.propagation, "propagation") if has_propagation else ""
                ),
            )
        )
        return {"status": 201, "body": {"id": _shown_id(stored.memory), "namespace": name}}

    def search(self, arguments: Arguments) -> Json:
        asked = contract.read(contract.SearchRequest, arguments.get("body"))
        wanted = dict.fromkeys(filter(None, map(self._namespace, asked.namespaces)))
        found: list[Memory] = []
        if wanted:
            found = self.gate.find(
                Search(
                    query=asked.query.strip(),
                    namespaces=tuple(wanted),
                    kinds=tuple(map(checked_kind, asked.kinds)),
                    limit=asked.limit,
                    by_words=True,
                )
            )
        if self.gate.warnings:  # a part of what was asked for would be taken for all of it
            return refusal(503, "unavailable", self.gate.warnings[0])
        return {"status": 200, "body": {"memories": [self._told(memory) for memory in found]}}

    def forget(self, arguments: Arguments) -> Json:
        ident = contract.checked("MemoryId", arguments.get("id"))
        asked = contract.read(contract.ForgetRequest, arguments.get("body"))
        found = self.gate.fetch(ID_PREFIX + ident)
        namespace = self._namespace(asked.requested_by_namespace)
        is_named = found is None and bool(namespace)
        if is_named and self.gate.forget_elsewhere(ID_PREFIX + ident, namespace):
            return NO_CONTENT
        # What is in another namespace is none of this one's concern, its existence included.
        if found is None or found.namespace != namespace:
            text = "The namespace that asks for it has no such memory. Nothing was forgotten."
            return refusal(404, "not_found", text)
        self.gate.remove(found)
        return NO_CONTENT

    def _namespace(self, name: str) -> str:
        """Return what a namespace is called here, "" for one that isn't there."""
        if not self.gate.principal.plugin:
            return name
        space = self._found(name)
        return "" if space is None else space.name

    def _told(self, memory: Memory) -> Json:
        told: Json = {
            "id": _shown_id(memory),
            "namespace": called(memory.namespace) or memory.namespace,
            "content": self.gate.text_of(memory),
            "kind": memory.kind,
            "source": memory.source or "agent",
            "pin": memory.pinned,
            "created_at": memory.created_at,
        }
        if memory.expires_at:
            told["expires_at"] = memory.expires_at
        if memory.propagation:
            told["propagation"] = decode_json(memory.propagation)
        if memory.similarity is not None:
            told["score"] = memory.similarity
        return told


def refusal(status: int, code: str, message: str) -> Json:
    """Return the answer that says why nothing was done."""
    return {"status": status, "body": {"code": code, "message": message}}


def _lacking(name: str) -> Json:
    text = f"There is no namespace {redact(name)}. Make it first: PUT."  # answers are kept
    return refusal(404, "not_found", text)


def _shown_id(memory: Memory) -> str:
    return memory.id.removeprefix(ID_PREFIX)


def _told_namespace(space: Namespace) -> Json:
    told: Json = {"name": space.called, "kind": space.kind, "created_at": space.created_at}
    if space.expires_at:
        told["expires_at"] = space.expires_at
    if space.metadata:
        told["metadata"] = decode_json(space.metadata)
    return told


_OPERATIONS: Mapping[str, Callable[[Operations, Arguments], Json]] = {
    "palace_v1_put_namespace": Operations.put_namespace,
    "palace_v1_patch_namespace": Operations.patch_namespace,
    "palace_v1_delete_namespace": Operations.delete_namespace,
    "palace_v1_commit": Operations.commit,
    "palace_v1_search": Operations.search,
    "palace_v1_forget": Operations.forget,
}
