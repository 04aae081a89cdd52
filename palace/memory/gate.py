"""The gate: the only way to a memory of a namespace, in or out.

Theory of operation.  A gate is made for one call, with the tree as it is while that call has its
turn, so that nothing lies between a right and its use:

    commit: check what is asked, then the right, take out secrets, store, audit what is decreed
    search: what may be read of what is asked for, the store, drop what is over, wrap what is shared
    forget: the right to write where the memory is, whatever namespace the call names

palace's own tools are answered by it as they are; stock's basic ones, which confined sessions have,
by palace/memory/confined.py, in the same steps.

All that a call changes is one group of the journal (palace/engine/durability/groups.py), so a
memory and its audit are there together, or neither is.

Pure but for the store, the audit and the names of new memories, which are handed in.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from palace.memory.asked import (
    Arguments,
    Commit,
    Search,
    asked_commit,
    asked_forget,
    asked_search,
    asked_summary,
)
from palace.memory.both import copy_of, merged
from palace.memory.memory import ID_PREFIX, Memory
from palace.memory.redact import redact
from palace.memory.wrap import is_wrapped, wrap
from palace.protocol.decoding import decode_json
from palace.protocol.errors import Forbidden, InvalidMemory, PluginUnavailable
from palace.protocol.policy import DEFAULT, OFF, Policy
from palace.protocol.principals import Principal
from palace.protocol.resolver import (
    Tree,
    can_write,
    everything,
    intersect_readable,
    is_there,
    over,
    readable,
    writable,
)
from palace.protocol.workspaces import ORG, PLUGIN, called, key_of

ELSEWHERE_MAX = 100  # memories that a server finds at once
COMMIT, FORGET, END = "commit", "forget", "end"  # the last is nobody's doing
Json = dict[str, object]


@attrs.frozen(kw_only=True)
class Wanted:
    """What a store is searched for.  `namespaces` is None for all; no query: the newest first.

    All but those of `without`, where it is all: what is over must take nobody's place.

    `since` and `before` are instants as memories carry them (expiry.py), "" for no bound: the first
    is included, the second is not.  `by_words`: by a query's words as well as by its meaning.
    """

    query: str
    namespaces: tuple[str, ...] | None
    kinds: tuple[str, ...]
    limit: int
    now_s: float
    since: str = ""
    before: str = ""
    without: tuple[str, ...] = ()
    by_words: bool = False


class MemoryStore(Protocol):
    """Where memories are.  It decides nothing."""

    def get(self, ident: str) -> Memory | None:
        """Return what is under an id, expired or not."""
        ...

    def put(self, memory: Memory, old: Memory | None) -> int:
        """Store a memory, in the place of what was under its id; return in how many records."""
        ...

    def delete(self, memories: Sequence[Memory]) -> None: ...

    def over(self, namespaces: Sequence[str], now_s: float, most: int) -> Sequence[Memory]:
        """Return memories of these namespaces, and such as are over; some if there are many."""
        ...

    def find(self, wanted: Wanted) -> Sequence[Memory]:
        """Return what is wanted, the best first, and nothing that is over."""
        ...

    def tally(self, wanted: Wanted) -> Mapping[tuple[str, str], int]:
        """Count what is wanted, whatever its limit and query, by namespace and kind."""
        ...

    def idents(self, namespace: str) -> Sequence[str]:
        """Return the ids of all that is in a namespace."""
        ...


class OtherStore(Protocol):
    """Namespaces that a server holds elsewhere (palace/plugin/elsewhere.py), "" for none of it.

    Each of these raises PluginUnavailable, and InvalidMemory for what the server doesn't take.
    """

    def holds(self, namespace: str) -> bool: ...

    def id_of(self, ident: str) -> str:
        """Return the id under which a memory of ours is there."""
        ...

    def commit(self, memory: Memory) -> Memory:
        """Store a memory; return it as it is called there."""
        ...

    def search(self, wanted: Wanted, namespaces: Sequence[str]) -> Sequence[Memory]:
        """Return what is wanted of these namespaces, the best first."""
        ...

    def forget(self, ident: str, namespaces: Sequence[str]) -> str:
        """Forget a memory; return in which of these namespaces it was, "" for none.

        Raises Forbidden where one of them was refused, and it was in none of the others.
        """
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
class Stored:
    """What has become of a commit; `records` are those that hold it."""

    memory: Memory
    redacted: bool
    replaced: bool
    records: int


@attrs.frozen(kw_only=True)
class Gate:
    """One call's way to memories; `now_s` is when it is, `at` the same for people.

    `elsewhere` holds some namespaces in the place of `store`; None: none.  What of a search it
    could not answer is told in `warnings`.
    """

    tree: Tree
    principal: Principal
    store: MemoryStore
    audit: Callable[[Decree], None]
    new_id: Callable[[], str]
    now_s: float
    at: str
    policy: Policy = DEFAULT
    elsewhere: OtherStore | None = None
    warnings: list[str] = attrs.field(factory=list)

    # In.

    def commit(self, arguments: Arguments) -> Json:
        return _told(self.put(asked_commit(arguments)))

    def commit_summary(self, arguments: Arguments) -> Json:
        return _told(self.put(asked_summary(arguments, self.now_s)))

    def put(self, asked: Commit, instead: Memory | None = None) -> Stored:
        """Store what is asked for; raises Forbidden and InvalidMemory, and nothing was done.

        `instead` is the memory that was fetched to be changed: only in its place is it stored.
        """
        namespace = asked.namespace or self._own()
        if not self._may_write(namespace):
            raise Forbidden(
                f"{self.principal.called} may not write {namespace}. Nothing was stored; "
                "palace_list_writable_namespaces says what it may write."
            )
        ident = asked.id or ID_PREFIX + self.new_id()
        if self._is_elsewhere(namespace):
            return self._put_elsewhere(self._memory(asked, ident, namespace), asked)
        old = instead or (self.store.get(ident) if asked.id else None)
        is_over = old is not None and self._is_over(old)
        if old is not None and old.namespace != namespace and not is_over:
            # Whose it is, is no concern of whoever asks; nor may it become theirs.
            raise Forbidden(
                f"{ident} is the id of another memory. Nothing was stored; leave the id out to "
                "have one made."
            )
        memory = self._memory(asked, ident, namespace)
        records = self.store.put(memory, old)
        if old is not None and is_over:  # its rows went, and no sweep will meet them
            self._note(END, old)
        self._note(COMMIT, memory)
        return Stored(
            memory=memory,
            redacted=memory.content != asked.content,
            replaced=old is not None and not is_over,
            records=records,
        )

    def _memory(self, asked: Commit, ident: str, namespace: str) -> Memory:
        return Memory(
            id=ident,
            namespace=namespace,
            content=self._clean(asked.content),
            kind=asked.kind,
            until=asked.until,
            expires_at=asked.expires_at,
            pinned=asked.pinned,
            topic=self._clean(asked.topic),
            propagation=asked.propagation,
            source=asked.source,
            by=self.principal.signature,
            created_at=asked.created_at or self.at,
        )

    def _put_elsewhere(self, memory: Memory, asked: Commit) -> Stored:
        """Store a memory where its namespace is held; whether it replaced one is not told."""
        assert self.elsewhere is not None, "it holds the namespace"
        stored = self.elsewhere.commit(memory)
        self._note(COMMIT, stored)
        redacted = memory.content != asked.content
        return Stored(memory=stored, redacted=redacted, replaced=False, records=1)

    def forget(self, arguments: Arguments) -> Json:
        asked = asked_forget(arguments)
        found = self.fetch(asked.id)
        if found is None:
            where = self.forget_elsewhere(asked.id, asked.namespace)
            if where:
                return {"id": asked.id, "namespace": where, "forgotten": True}
            raise InvalidMemory(f"there is no memory {asked.id} that {self.principal.called} sees")
        if asked.namespace not in ("", found.namespace):
            raise InvalidMemory(f"{asked.id} is in {found.namespace}, not in {asked.namespace}")
        self.remove(found)
        return {"id": asked.id, "namespace": found.namespace, "forgotten": True}

    def forget_elsewhere(self, ident: str, namespace: str = "") -> str:
        """Forget a memory that is held elsewhere; return its namespace, "" where it isn't there.

        A server finds a memory by its namespace alone: without one, all that may be written are
        asked.  What is noted of a decree that goes so has no digest: nobody here has read it.
        """
        if self.elsewhere is None:
            return ""
        names = (namespace,) if namespace else self._writable()  # never another than is named
        there = tuple(filter(self._is_elsewhere, names))
        for name in there:
            if not self._may_write(name):
                raise Forbidden(
                    f"{self.principal.called} may not write {name}. Nothing was forgotten."
                )
        where = self.elsewhere.forget(ident, there) if there else ""
        if where:
            copy = copy_of(self.store, self.elsewhere, ident, where)
            if copy is not None:  # else going back would show it
                self.store.delete([copy])
            self._note(FORGET, Memory(id=ident, namespace=where, content=""))
        return where

    def remove(self, found: Memory) -> None:
        """Forget a memory that was fetched; raises Forbidden."""
        limited = self.principal.workspace or self.principal.plugin
        if limited and not self._may_write(found.namespace):
            raise Forbidden(
                f"{self.principal.called} may not write {found.namespace}, where {found.id} is. "
                "Nothing was forgotten."
            )
        self.store.delete([found])
        self._note(FORGET, found)

    def sweep(self, ending: Sequence[str], most: int) -> int:
        """Forget what is over, and what is in namespaces that end; return how many, 0 if all is.

        Nobody sees what goes: reads pass over it, whoever has swept.
        """
        found = self.store.over(ending, self.now_s, most)
        if found:
            self.store.delete(found)
        for memory in found:
            self._note(END, memory)
        return len(found)

    # Out.

    def search(self, arguments: Arguments) -> Json:
        asked = asked_search(arguments)
        told: Json = {"memories": [self._shown(one) for one in self.find(asked)]}
        return {**told, "warnings": self.warnings} if self.warnings else told

    def find(self, asked: Search) -> list[Memory]:
        """Return what is asked for of what may be read."""
        wanted = self._wanted(asked)
        if wanted.namespaces == ():  # of all that was asked for nothing, so the store isn't asked
            return []
        wanted, there = self._divided(wanted)
        # Whatever a store returns, what isn't theirs to see doesn't pass.
        here = [] if wanted.namespaces == () else self.store.find(wanted)
        seen = [one for one in here if self._sees(one)]
        if there:
            others = [one for one in self._found_elsewhere(wanted, there) if self._sees(one)]
            seen = merged(seen, others, by_time=not asked.query)
        return seen[: asked.limit]

    def tally(self, asked: Search) -> Mapping[tuple[str, str], int]:
        """Count what may be read, by namespace and kind."""
        wanted = self._wanted(asked)
        if wanted.namespaces == ():
            return {}
        wanted, there = self._divided(wanted)
        counts = Counter({} if wanted.namespaces == () else self.store.tally(wanted))
        if there:  # nobody counts there: as many as one search finds
            most = attrs.evolve(wanted, query="", limit=ELSEWHERE_MAX)
            found = self._found_elsewhere(most, there)
            counts.update((one.namespace, one.kind) for one in found)
        return {key: count for key, count in counts.items() if self._may_see(key[0])}

    # Elsewhere.

    def _is_elsewhere(self, namespace: str) -> bool:
        return self.elsewhere is not None and self.elsewhere.holds(namespace)

    def _divided(self, wanted: Wanted) -> tuple[Wanted, tuple[str, ...]]:
        """Return what is wanted of what is here, and which namespaces are held elsewhere.

        What was stored here of these, before they were elsewhere, is passed over.
        """
        if self.elsewhere is None:
            return wanted, ()
        named = wanted.namespaces
        there = tuple(filter(self._is_elsewhere, everything(self.tree) if named is None else named))
        if named is None:
            return attrs.evolve(wanted, without=(*wanted.without, *there)), there
        return attrs.evolve(wanted, namespaces=tuple(set(named) - set(there))), there

    def _found_elsewhere(self, wanted: Wanted, there: Sequence[str]) -> Sequence[Memory]:
        """Return what is found elsewhere; where it can't be asked, what is here is shown alone."""
        assert self.elsewhere is not None, "it holds these"
        try:
            return self.elsewhere.search(wanted, there)
        except PluginUnavailable as problem:
            if wanted.namespaces == ():
                raise
            self.warnings.append(problem.message)
            return ()

    def fetch(self, ident: str) -> Memory | None:
        """Return a memory by its id, None for what isn't there or may not be read.

        A copy that was left here of what is elsewhere now may be stale, or forgotten there.
        """
        found = self.store.get(ident)
        if found is not None and self._is_elsewhere(found.namespace):
            return None
        return found if found is not None and self._sees(found) else None

    def left_in(self, ident: str) -> str:
        """Return the namespace of which a copy was left here, "" for none that may be read."""
        found = self.store.get(ident)
        is_left = found is not None and self._is_elsewhere(found.namespace) and self._sees(found)
        return found.namespace if found is not None and is_left else ""

    def text_of(self, memory: Memory) -> str:
        """Return a memory's content as it is shown: others' and shared ones marked as such."""
        if self.principal.plugin:
            return memory.content  # who serves agents marks it for them
        own = self.principal.workspace and memory.namespace == key_of(self.principal.workspace)
        if own or not is_wrapped(memory.namespace, self.policy.wrap):
            return memory.content
        return wrap(memory.content, memory.id, memory.namespace)

    def _clean(self, text: str) -> str:
        return text if self.policy.redact == OFF else redact(text)

    def _wanted(self, asked: Search) -> Wanted:
        namespaces = self._may_read(asked.namespaces)
        return Wanted(
            query=asked.query,
            namespaces=namespaces,
            without=over(self.tree, self.now_s) if namespaces is None else (),
            kinds=asked.kinds,
            limit=asked.limit,
            now_s=self.now_s,
            since=asked.since,
            before=asked.before,
            by_words=asked.by_words,
        )

    def _shown(self, memory: Memory) -> Json:
        return {
            "id": memory.id,
            "namespace": memory.namespace,
            "kind": memory.kind,
            "content": self.text_of(memory),
            "by": memory.by or None,
            "created_at": memory.created_at,
            "expires_at": memory.expires_at or None,
            "pinned": memory.pinned,
            **({"propagation": decode_json(memory.propagation)} if memory.propagation else {}),
        }

    # Rights, from the tree as it is.

    def _writable(self) -> tuple[str, ...]:
        ident = self.principal.workspace
        return writable(self.tree, ident) if ident else everything(self.tree)

    def _own(self) -> str:
        if not self.principal.workspace:
            raise InvalidMemory(
                "the palace's owner has no namespace of its own. Name one: "
                "palace_list_writable_namespaces says which there are"
            )
        return key_of(self.principal.workspace)

    def _may_write(self, namespace: str) -> bool:
        if self.principal.plugin:
            return self._may_see(namespace)
        if self.principal.workspace:
            return can_write(self.tree, self.principal.workspace, namespace)
        return namespace in everything(self.tree)

    def _may_read(self, requested: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return what may be read of what is asked for; None for all there is."""
        if self.principal.plugin:  # who asks for nothing gets nothing
            return tuple(name for name in requested if self._may_see(name))
        if self.principal.workspace:
            return intersect_readable(self.tree, self.principal.workspace, requested)
        return requested or None

    def _sees(self, memory: Memory) -> bool:
        if not memory.namespace or memory.is_expired(self.now_s):
            return False
        return self._may_see(memory.namespace)

    def _is_over(self, memory: Memory) -> bool:
        """Tell whether a memory is as if it had never been there; what is no memory never is."""
        if not memory.namespace:
            return False
        is_left = is_there(self.tree, memory.namespace, self.now_s)
        return memory.is_expired(self.now_s) or not is_left

    def _may_see(self, namespace: str) -> bool:
        if not is_there(self.tree, namespace, self.now_s):
            return False
        if self.principal.plugin:
            return namespace.startswith(f"{PLUGIN}:")
        ident = self.principal.workspace
        return not ident or namespace in readable(self.tree, ident)

    def _note(self, action: str, memory: Memory) -> None:
        name = called(memory.namespace) or memory.namespace
        if name.partition(":")[0] != ORG:
            return
        content = memory.content.encode("utf-8")
        self.audit(
            Decree(
                at=self.at,
                workspace="" if action == END else self.principal.signature,
                namespace=memory.namespace,
                action=action,
                memory_id=memory.id,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
            )
        )


def _told(stored: Stored) -> Json:
    memory = stored.memory
    told: Json = {"id": memory.id, "namespace": memory.namespace, "kind": memory.kind}
    told |= {"expires_at": memory.expires_at or None, "redacted": stored.redacted}
    return {**told, "replaced": stored.replaced}
