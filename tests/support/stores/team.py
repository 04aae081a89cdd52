"""A palace of workspaces: its register in a real file, its memories in a store in memory.

The tools are palace's own (owner_tools.py, own_tools.py), each call is one group of a journal on a
disk in memory, and its owner may die at any call of the kernel.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import attrs

from palace.engine.durability.groups import CallGroups
from palace.engine.durability.own_tools import OwnTools
from palace.engine.durability.owner_tools import OwnerTools
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.register import AUDIT, Register, open_register
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel
from palace.memory.gate import Wanted
from palace.memory.memory import Memory
from palace.protocol.principals import OWNER, Principal
from palace.protocol.request import tool_call
from palace.protocol.tools import MOVING_TOOLS, OWNER_TOOLS
from palace.settings.paths import Paths
from tests.support.disks.memory import Disk, all_kept
from tests.support.stores.memory import JOURNAL, KEYS, MemoryStore, Platter

KIND = "memory"
FIELDS = [field.name for field in attrs.fields(Memory) if field.name != "rows"]


@attrs.define(eq=False)
class Shelf:
    """Memories in a store in memory, found by a word of theirs.

    A `careless` one returns whatever it holds, whoever may see it and however old it is.
    """

    store: MemoryStore
    groups: CallGroups
    careless: bool = False
    asked: int = 0

    def refusal(self, _call: object) -> None:
        return None

    def held(self, _call: object) -> nullcontext[None]:
        return nullcontext()

    def look(self, _idents: Sequence[str]) -> dict[str, Memory]:
        raise NotImplementedError("stock's tools are not here")

    def tasks(self, _call: object, _speaker: object) -> dict[str, object]:
        raise NotImplementedError("there is no log of events here")

    def get(self, ident: str) -> Memory | None:
        found = self.store.read(KIND, [ident]).get(ident)
        return None if found is None else Memory(**found)

    def put(self, memory: Memory, _old: Memory | None) -> int:
        payload = {name: getattr(memory, name) for name in FIELDS}
        self.store.set(self.groups, KIND, {memory.id: payload})
        return 1

    def delete(self, memories: Sequence[Memory]) -> None:
        self.store.set(self.groups, KIND, {memory.id: None for memory in memories})

    def over(self, namespaces: Sequence[str], now_s: float, most: int) -> Sequence[Memory]:
        stored = (Memory(**row) for _, row in self.store.scan(KIND))
        ended = (one for one in stored if one.is_expired(now_s) or one.namespace in namespaces)
        return list(islice(ended, most))

    def find(self, wanted: Wanted) -> Sequence[Memory]:
        self.asked += 1
        if self.careless:
            return [Memory(**payload) for _, payload in self.store.scan(KIND)]
        found = [
            attrs.evolve(one, distance=0.0, similarity=1.0) if wanted.query else one
            for one in self._wanted(wanted)
            if wanted.query in one.content
        ]
        return sorted(found, key=lambda one: one.created_at, reverse=True)[: wanted.limit]

    def tally(self, wanted: Wanted) -> Counter[tuple[str, str]]:
        self.asked += 1
        return Counter((one.namespace, one.kind) for one in self._wanted(wanted))

    def idents(self, namespace: str) -> list[str]:
        return [ident for ident, row in self.store.scan(KIND) if row["namespace"] == namespace]

    def _wanted(self, wanted: Wanted) -> list[Memory]:
        def takes(one: Memory) -> bool:
            in_place = wanted.namespaces is None or one.namespace in wanted.namespaces
            in_place = in_place and one.namespace not in wanted.without
            of_kind = not wanted.kinds or one.kind in wanted.kinds
            in_time = wanted.since <= one.created_at < (wanted.before or "9")
            return in_place and of_kind and in_time and one.until > wanted.now_s

        return [one for one in (Memory(**row) for _, row in self.store.scan(KIND)) if takes(one)]


@attrs.define(eq=False, kw_only=True)
class Team:
    """One owner's life; `now` is what its clock shows, in seconds since 1970."""

    disk: Disk
    root: Path
    journal: Journal
    groups: CallGroups
    register: Register
    shelf: Shelf
    owner: OwnerTools
    own: OwnTools
    now: list[float]
    calls: int = 0

    def basic(self, who: str, name: str, /, **arguments: Any) -> Any:
        """Return what one of stock's basic tools tells a confined session."""
        return self.ask(Principal(who, confined=True), f"mempalace_{name}", **arguments)

    def ask(self, who: str | Principal, name: str, /, **arguments: Any) -> Any:
        """Return what a call is answered, or its error; who is a workspace, "" for the owner."""
        self.calls += 1
        principal = Principal(who) if isinstance(who, str) else who
        name = name if name.startswith("mempalace_") else f"palace_{name}"
        params = {"name": name, "arguments": arguments}
        call = tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        key = f"s{self.journal.stamp.epoch}:{self.calls}"
        with self.groups.group(key, non_atomic=False) as group:
            if call.name in OWNER_TOOLS and call.name not in ("palace_sweep", *MOVING_TOOLS):
                reply: Any = self.owner.answer(call, read_only=False)
            else:
                reply = self.own.answer(principal, call, read_only=False)
        self.journal.sync(self.groups.commit(group, json.dumps(reply)))
        if "error" in reply:
            return reply["error"]
        return json.loads(reply["result"]["content"][0]["text"])

    def add(self, ident: str, parent: str = "", **more: Any) -> None:
        assert "workspace" in self.ask(OWNER, "workspace_add", id=ident, parent=parent, **more)

    def commit(self, who: str, content: str, **more: Any) -> Any:
        return self.ask(who, "commit_memory", content=content, **more)

    def found(self, who: str | Principal, **more: Any) -> list[Any]:
        found: list[Any] = self.ask(who, "search_memory", **more)["memories"]
        return found

    @property
    def memories(self) -> dict[str, Any]:
        """Return what the store holds, by id."""
        return {i: payload for (_, i), payload in self.shelf.store.platter.contents.items()}

    @property
    def audits(self) -> list[Any]:
        """Return what the register's file says was decreed."""
        return [payload["row"] for _, payload in self.register.scan(AUDIT)]

    def heir(self, disk: Disk | None = None) -> "Team":
        """Return the next owner's life, by default after a death that lost nothing but memory."""
        disk = disk or self.disk.power_cut(all_kept)
        platter = self.shelf.store.platter.copy()
        return team(self.root, disk, platter, self.journal.stamp.epoch + 1, self.now)


def team(
    root: Path,
    disk: Disk | None = None,
    platter: Platter | None = None,
    epoch: int = 1,
    now: list[float] | None = None,
) -> Team:
    """Open a palace of workspaces as a broker does."""
    root.mkdir(exist_ok=True)
    disk, clock = disk or Disk(), now or [1_900_000_000.0]
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS))
    register = open_register(Paths(str(root)), Kernel())
    store = MemoryStore(name="one", kinds_=(KIND,), kernel=disk, platter=platter or Platter())
    recovery = Recovery(
        journal=journal,
        projections=[store, register],
        progress=no_progress,
        dual=False,
        own=frozenset({register.name}),
    )
    recovery.scan()
    journal.fingerprints = recovery.fingerprints
    recovery.run()
    register.epoch = epoch
    groups = CallGroups(journal)
    shelf = Shelf(store, groups)
    return Team(
        disk=disk,
        root=root,
        journal=journal,
        groups=groups,
        register=register,
        shelf=shelf,
        owner=OwnerTools(register, groups, Kernel()),
        own=OwnTools(register, groups, Kernel(), shelf, clock=lambda: clock[0]),
        now=clock,
    )
