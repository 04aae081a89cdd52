"""Memories of the namespaces that the server holds, as the gate asks for them.

What is sent has passed the gate: rights, secrets, ends.  What comes back is others' writing: it
loses its secrets again, and whatever no gate of ours could have stored is left out.

A memory's id is the contract's behind `mem-`.  One that a caller named otherwise stands for the
UUID that follows from it, so that naming it again replaces it.
"""

from collections.abc import Collection, Iterator, Sequence
from uuid import UUID, uuid5

import attrs

from palace.memory import contract
from palace.memory.asked import checked_content, checked_kind, checked_object
from palace.memory.expiry import NEVER_S, parse_expires_at, until_s, written
from palace.memory.gate import Wanted
from palace.memory.held import SEED
from palace.memory.memory import ID_PREFIX, Memory
from palace.memory.redact import redact
from palace.plugin.client import Client
from palace.protocol.decoding import decode_json
from palace.protocol.errors import Forbidden, InvalidMemory, PluginUnavailable

OWN_SOURCE = "agent"
QUERY_CHARS_MAX = 10_000
FORGET_S = 10.0  # for all the namespaces that a memory may be in


def id_there(ident: str) -> str:
    """Return what a memory's id is to the server."""
    name = ident.removeprefix(ID_PREFIX)
    try:
        if str(UUID(name)) == name:
            return name
    except ValueError:
        pass
    return str(uuid5(SEED, name))


@attrs.frozen(kw_only=True)
class Elsewhere:
    """The namespaces of some kinds, which a server holds; threads share one."""

    client: Client
    kinds: Collection[str]

    def holds(self, namespace: str) -> bool:
        return namespace.partition(":")[0] in self.kinds

    @property
    def out_of_reach(self) -> "OutOfReach":
        return OutOfReach(kinds=self.kinds, called=self.client.called)

    def id_of(self, ident: str) -> str:
        """Return the id under which a memory of ours is there."""
        return f"{ID_PREFIX}{id_there(ident)}"

    def commit(self, memory: Memory) -> Memory:
        """Store a memory; return it as it is called there.  Raises PluginUnavailable."""
        ident = id_there(memory.id)
        fields: dict[str, object] = {
            "id": ident,
            "content": memory.content,
            "kind": memory.kind,
            "source": memory.source or OWN_SOURCE,
        }
        if memory.until != NEVER_S:
            self._check_can("ttl", "let memories end")
            fields["expires_at"] = memory.expires_at
        if memory.pinned:
            self._check_can("pin", "pin memories")
            fields["pin"] = True
        if memory.propagation:
            self._check_can("propagation", "keep how a memory spreads")
            fields["propagation"] = decode_json(memory.propagation)
        asked = contract.read(contract.MemoryWrite, fields)
        self.client.commit(memory.namespace, memory.namespace.partition(":")[0], asked)
        return attrs.evolve(memory, id=f"{ID_PREFIX}{ident}")

    def _check_can(self, capability: str, what: str) -> None:
        """Refuse what the server would pass over in silence."""
        if capability not in self.client.health().capabilities:
            raise InvalidMemory(
                f"the memory plugin {self.client.called} can't {what} (it has no {capability!r}). "
                "Leave that out"
            )

    def search(self, wanted: Wanted, namespaces: Sequence[str]) -> list[Memory]:
        """Return what is found in these namespaces, the best first, and nothing that is over."""
        found: list[Memory] = []
        most = contract.NAMES_MAX
        for start in range(0, len(namespaces), most):
            told = {
                "namespaces": list(namespaces[start : start + most]),
                "limit": min(wanted.limit, contract.LIMIT_MAX),
                **({"query": wanted.query[:QUERY_CHARS_MAX]} if wanted.query else {}),
                **({"kinds": list(wanted.kinds)} if wanted.kinds else {}),
            }
            asked = contract.read(contract.SearchRequest, told)
            found += self._taken(self.client.search(asked), wanted)
        return found

    def _taken(self, found: Sequence[contract.Memory], wanted: Wanted) -> Iterator[Memory]:
        met: set[str] = set()
        for one in found:
            memory = _memory_of(one)
            if memory is None or memory.id in met or memory.is_expired(wanted.now_s):
                continue
            in_time = wanted.since <= memory.created_at
            if in_time and (not wanted.before or memory.created_at < wanted.before):
                met.add(memory.id)
                yield memory

    def drop(self, namespace: str) -> None:
        """Let a namespace be there no more, nor any memory of it; it may have been there never."""
        self.client.drop_namespace(namespace)

    def forget(self, ident: str, namespaces: Sequence[str]) -> str:
        """Forget a memory; return in which of these namespaces it was, "" for none.

        A namespace that the server refuses keeps nobody from asking for the others; it is told
        when the memory was in none of them.  After `FORGET_S` no further one is asked for.
        """
        name = ident.removeprefix(ID_PREFIX)
        names = tuple(dict.fromkeys((name, id_there(ident))))  # what came there otherwise
        until_s = self.client.clock() + FORGET_S
        refused: Forbidden | None = None
        for namespace in namespaces:
            if self.client.clock() >= until_s:
                raise PluginUnavailable(
                    f"The memory plugin {self.client.called} did not say in time where {ident} is, "
                    f"and was not asked for {namespace}. Name the memory's namespace in the call."
                )
            try:
                if any(self.client.forget(one, namespace) for one in names):
                    return namespace
            except Forbidden as problem:
                refused = problem
        if refused is not None:
            raise refused
        return ""


@attrs.frozen(kw_only=True)
class OutOfReach:
    """Stands for `Elsewhere` where a call can't wait for a server: it may hold up others."""

    kinds: Collection[str]
    called: str

    def holds(self, namespace: str) -> bool:
        return namespace.partition(":")[0] in self.kinds

    def commit(self, memory: Memory) -> Memory:
        raise self._problem(memory.namespace)

    def search(self, _wanted: Wanted, namespaces: Sequence[str]) -> list[Memory]:
        raise self._problem(namespaces[0])

    def forget(self, _ident: str, namespaces: Sequence[str]) -> str:
        raise self._problem(namespaces[0])

    def id_of(self, ident: str) -> str:
        return f"{ID_PREFIX}{id_there(ident)}"

    def _problem(self, namespace: str) -> PluginUnavailable:
        return PluginUnavailable(
            f"{namespace} is held by the memory plugin {self.called}, and this call can't ask it. "
            "Nothing was done; name the namespace in the call, or ask again."
        )


def _memory_of(told: contract.Memory) -> Memory | None:
    """Return a server's memory as one of ours; None for what can't be one."""
    try:
        content = checked_content(redact(told.content))
        until, end = NEVER_S, ""
        if "expires_at" in told.model_fields_set:
            moment = parse_expires_at(told.expires_at)
            until, end = until_s(moment), written(moment)
        propagation = ""
        if "propagation" in told.model_fields_set:
            propagation = checked_object(told.propagation, "propagation")
        return Memory(
            id=f"{ID_PREFIX}{told.id}",
            namespace=told.namespace,
            content=content,
            kind=checked_kind(told.kind),
            until=until,
            expires_at=end,
            pinned=told.pin,
            propagation=propagation,
            source=told.source,
            created_at=written(parse_expires_at(told.created_at)),
        )
    except InvalidMemory:
        return None
