"""The gate: the only way to a memory of a namespace, in or out.

Theory of operation.  A gate is made for one call, with the tree as it is while that call has its
turn, so that nothing lies between a right and its use:

    commit: check what is asked, then the right, take out secrets, store, audit what is decreed
    search: what may be read of what is asked for, the store, drop what is over, wrap what is shared
    forget: the right to write where the memory is, whatever namespace the call names

All that a call changes is one group of the journal (palace/engine/durability/groups.py), so a
memory and its audit are there together, or neither is.

Pure but for the store, the audit and the names of new memories, which are handed in.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from palace.memory.asked import (
    Arguments,
    Commit,
    asked_commit,
    asked_forget,
    asked_search,
    asked_summary,
)
from palace.memory.memory import ID_PREFIX, Memory
from palace.memory.redact import redact
from palace.memory.wrap import wrap
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.principals import Principal
from palace.protocol.resolver import Tree, can_write, everything, intersect_readable, readable
from palace.protocol.workspaces import ORG, key_of

COMMIT, FORGET = "commit", "forget"
Json = dict[str, object]


@attrs.frozen(kw_only=True)
class Wanted:
    """What a store is searched for.  `namespaces` is None for all; no query: the newest first."""

    query: str
    namespaces: tuple[str, ...] | None
    kinds: tuple[str, ...]
    limit: int
    now_s: float


class MemoryStore(Protocol):
    """Where memories are.  It decides nothing."""

    def get(self, ident: str) -> Memory | None:
        """Return what is under an id, expired or not."""
        ...

    def put(self, memory: Memory, old: Memory | None) -> None:
        """Store a memory, in the place of what was under its id."""
        ...

    def delete(self, memory: Memory) -> None: ...

    def find(self, wanted: Wanted) -> Sequence[Memory]:
        """Return what is wanted, the best first, and nothing that is over."""
        ...


@attrs.frozen(kw_only=True)
class Decree:
    """What is kept of a change in an organisation's namespace: no text, its digest."""

    at: str
    workspace: str
    namespace: str
    action: str
    memory_id: str
    sha256: str
    bytes: int


@attrs.frozen(kw_only=True)
class Gate:
    """One call's way to memories; `now_s` is when it is, `at` the same for people."""

    tree: Tree
    principal: Principal
    store: MemoryStore
    audit: Callable[[Decree], None]
    new_id: Callable[[], str]
    now_s: float
    at: str

    # In.

    def commit(self, arguments: Arguments) -> Json:
        return self._store(asked_commit(arguments))

    def commit_summary(self, arguments: Arguments) -> Json:
        return self._store(asked_summary(arguments, self.now_s))

    def _store(self, asked: Commit) -> Json:
        namespace = asked.namespace or self._own()
        if not self._may_write(namespace):
            raise Forbidden(
                f"{self.principal.called} may not write {namespace}. Nothing was stored; "
                "palace_list_writable_namespaces says what it may write."
            )
        ident = asked.id or ID_PREFIX + self.new_id()
        old = self.store.get(ident) if asked.id else None
        if old is not None and old.namespace != namespace:
            # Whose it is, is no concern of whoever asks; nor may it become theirs.
            raise Forbidden(
                f"{ident} is the id of another memory. Nothing was stored; leave the id out to "
                "have one made."
            )
        content = redact(asked.content)
        memory = Memory(
            id=ident,
            namespace=namespace,
            content=content,
            kind=asked.kind,
            until=asked.until,
            expires_at=asked.expires_at,
            pinned=asked.pinned,
            by=self.principal.workspace,
            created_at=self.at,
        )
        self.store.put(memory, old)
        self._note(COMMIT, memory)
        told: Json = {"id": ident, "namespace": namespace, "kind": asked.kind}
        told |= {"expires_at": asked.expires_at or None, "redacted": content != asked.content}
        return {**told, "replaced": old is not None}

    def forget(self, arguments: Arguments) -> Json:
        asked = asked_forget(arguments)
        found = self.store.get(asked.id)
        if found is None or not self._sees(found):
            raise InvalidMemory(f"there is no memory {asked.id} that {self.principal.called} sees")
        if asked.namespace not in ("", found.namespace):
            raise InvalidMemory(f"{asked.id} is in {found.namespace}, not in {asked.namespace}")
        if self.principal.workspace and not self._may_write(found.namespace):
            raise Forbidden(
                f"{self.principal.called} may not write {found.namespace}, where {asked.id} is. "
                "Nothing was forgotten."
            )
        self.store.delete(found)
        self._note(FORGET, found)
        return {"id": asked.id, "namespace": found.namespace, "forgotten": True}

    # Out.

    def search(self, arguments: Arguments) -> Json:
        asked = asked_search(arguments)
        namespaces = self._may_read(asked.namespaces)
        if namespaces == ():  # of all that was asked for nothing, so the store isn't asked
            return {"memories": []}
        found = self.store.find(
            Wanted(
                query=asked.query,
                namespaces=namespaces,
                kinds=asked.kinds,
                limit=asked.limit,
                now_s=self.now_s,
            )
        )
        # Whatever a store returns, what isn't theirs to see doesn't pass.
        seen = [one for one in found if self._sees(one)]
        return {"memories": [self._shown(one) for one in seen[: asked.limit]]}

    def _shown(self, memory: Memory) -> Json:
        own = self.principal.workspace and memory.namespace == key_of(self.principal.workspace)
        content = memory.content if own else wrap(memory.content, memory.id, memory.namespace)
        return {
            "id": memory.id,
            "namespace": memory.namespace,
            "kind": memory.kind,
            "content": content,
            "by": memory.by or None,
            "created_at": memory.created_at,
            "expires_at": memory.expires_at or None,
            "pinned": memory.pinned,
        }

    # Rights, from the tree as it is.

    def _own(self) -> str:
        if not self.principal.workspace:
            raise InvalidMemory(
                "the palace's owner has no namespace of its own. Name one: "
                "palace_list_writable_namespaces says which there are"
            )
        return key_of(self.principal.workspace)

    def _may_write(self, namespace: str) -> bool:
        if self.principal.workspace:
            return can_write(self.tree, self.principal.workspace, namespace)
        return namespace in everything(self.tree)

    def _may_read(self, requested: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return what may be read of what is asked for; None for all there is."""
        if self.principal.workspace:
            return intersect_readable(self.tree, self.principal.workspace, requested)
        return requested or None

    def _sees(self, memory: Memory) -> bool:
        if not memory.namespace or memory.is_expired(self.now_s):
            return False
        ident = self.principal.workspace
        return not ident or memory.namespace in readable(self.tree, ident)

    def _note(self, action: str, memory: Memory) -> None:
        if memory.namespace.partition(":")[0] != ORG:
            return
        content = memory.content.encode("utf-8")
        self.audit(
            Decree(
                at=self.at,
                workspace=self.principal.workspace,
                namespace=memory.namespace,
                action=action,
                memory_id=memory.id,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
            )
        )
