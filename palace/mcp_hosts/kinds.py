"""The kinds of entries that palace puts into configurations: servers, and stock's save hooks."""

from typing import Any

from palace.mcp_hosts.entries import starts_palace, words_of
from palace.mcp_hosts.takeover import CannotKeep, Edit, edits_to_palace
from palace.mcp_hosts.values import Place, value_at


class Servers:
    """Entries of MCP servers."""

    def is_ours(self, entry: Any) -> bool:
        return starts_palace(entry)

    def is_rival(self, entry: Any) -> bool:
        return not self.is_ours(entry)

    def identity(self, entry: Any) -> list[str]:
        return words_of(entry)

    def edits(self, entry: Any, wanted: Any) -> list[Edit]:
        return edits_to_palace(entry, words_of(wanted))

    def own_part(self, entry: Any) -> Place:  # noqa: ARG002 - all of it, whatever it is
        return ()


class SaveHooks:
    """Groups of hooks, one of which runs mempalace; a group may have others of its user's."""

    def is_ours(self, entry: Any) -> bool:
        return any(" hook run --hook " in command for command in self.identity(entry))

    def is_rival(self, entry: Any) -> bool:
        return "mempal" in repr(entry)

    def identity(self, entry: Any) -> list[str]:
        return [value_at(entry, (*place, "command")) for place in _stocks_hooks(entry)]

    def edits(self, entry: Any, wanted: Any) -> list[Edit]:
        places = _stocks_hooks(entry)
        if len(places) != 1:
            raise CannotKeep(f"{len(places)} of its hooks run mempalace, and one would remain")
        (ours,) = self.identity(wanted)
        if self.identity(entry) == [ours]:
            return []
        return [Edit(place=(*places[0], "command"), value=ours)]

    def own_part(self, entry: Any) -> Place:
        places = _stocks_hooks(entry)
        alone = len(value_at(entry, ("hooks",))) == 1
        return () if alone or len(places) != 1 else places[0]


def _stocks_hooks(entry: Any) -> list[Place]:
    """Return where in a group the hooks stand that run a command of mempalace's."""
    hooks = value_at(entry, ("hooks",))
    found: list[Place] = []
    for index, hook in enumerate(hooks if isinstance(hooks, list) else []):
        command = hook.get("command") if isinstance(hook, dict) else None
        if isinstance(command, str) and "mempal" in command:
            found.append(("hooks", index))
    return found
