"""Which namespaces a workspace may read and write: computed from the tree as it is, each time.

Nothing is remembered between two questions, so that a workspace that moves has its new rights, and
only these, with its next call.  The rules:

- The *chain* of a workspace leads from itself to its root, over removed ones as well.  It has at
  most `HOPS_MAX` links, and ends before a workspace that it has met.
- It reads its own namespace, its team's (the one of the workspace above; a root's own) and its
  organisation's (the one of the chain's end).  It writes the first two, and its organisation's only
  if it is a root: what the root decrees is not for others to rewrite.
- It reads and writes the custom namespaces that name it as a member.
- One that was removed, or that nobody knows, has no rights.

Pure.
"""

from collections.abc import Iterable, Iterator, Mapping

import attrs

from palace.protocol.workspaces import ORG, PLUGIN, TEAM, Namespace, Workspace, called, key_of

HOPS_MAX = 50


@attrs.frozen
class Tree:
    """All workspaces by id, and the members of each custom namespace by its name.

    `tokens` are those that count, by their digests: whose they are; `plugins` the digests of those
    for the contract's plugin role, and `spaces` its namespaces, by what its clients call them.
    `ended` are the names of those, of whichever kind, whose memories are being forgotten.
    `keeps`: the register says something of namespaces, or did when they were last swept.
    """

    workspaces: Mapping[str, Workspace] = attrs.field(factory=dict)
    customs: Mapping[str, frozenset[str]] = attrs.field(factory=dict)
    tokens: Mapping[str, str] = attrs.field(factory=dict)
    plugins: frozenset[str] = frozenset()
    spaces: Mapping[str, Namespace] = attrs.field(factory=dict)
    ended: frozenset[str] = frozenset()
    keeps: bool = False

    @property
    def has_memories(self) -> bool:
        """Tell whether there may be memories of namespaces, which plain tools must not touch."""
        return bool(self.workspaces or self.spaces or self.keeps)

    def active(self, ident: str) -> Workspace | None:
        """Return a workspace that has rights."""
        found = self.workspaces.get(ident)
        return None if found is None or found.removed else found

    def chain(self, ident: str) -> tuple[str, ...]:
        """Return the ids from a workspace to its root, both included; its own alone if unknown.

        A parent that nobody knows any more is the end: what it has shared keeps its name.
        """
        links = [ident]
        while len(links) <= HOPS_MAX:
            found = self.workspaces.get(links[-1])
            if found is None or not found.parent or found.parent in links:
                break
            links.append(found.parent)
        return tuple(links)

    def below(self, ident: str) -> Iterator[str]:
        """Yield the ids of those whose parent a workspace is, in order."""
        for other in sorted(self.workspaces):
            if self.workspaces[other].parent == ident:
                yield other


def is_there(tree: Tree, namespace: str, now_s: float) -> bool:
    """Tell whether a namespace is not over: it ends, or is the plugin role's and past its time."""
    if namespace in tree.ended:
        return False
    if not namespace.startswith(f"{PLUGIN}:"):
        return True
    found = tree.spaces.get(called(namespace))
    return found is not None and found.name == namespace and now_s < found.until


def over(tree: Tree, now_s: float) -> tuple[str, ...]:
    """Return the namespaces that the register knows and that are over, in order."""
    past = {one.name for one in tree.spaces.values() if one.until <= now_s}
    return tuple(sorted(tree.ended | past))


def _shared(tree: Tree, found: Workspace) -> tuple[str, str]:
    """Return the namespaces of a workspace's team and of its organisation."""
    chain = tree.chain(found.id)
    return f"{TEAM}:{found.parent or found.id}", f"{ORG}:{chain[-1]}"


def _customs(tree: Tree, ident: str) -> Iterator[str]:
    return (name for name, members in sorted(tree.customs.items()) if ident in members)


def readable(tree: Tree, ident: str) -> tuple[str, ...]:
    """Return what a workspace may read: its own, its team's, its organisation's, then others."""
    found = tree.active(ident)
    if found is None:
        return ()
    return (key_of(ident), *_shared(tree, found), *_customs(tree, ident))


def writable(tree: Tree, ident: str) -> tuple[str, ...]:
    """Return what a workspace may write, in the same order."""
    found = tree.active(ident)
    if found is None:
        return ()
    team, org = _shared(tree, found)
    decreed = () if found.parent else (org,)
    return (key_of(ident), team, *decreed, *_customs(tree, ident))


def everything(tree: Tree) -> tuple[str, ...]:
    """Return what anybody may read, in order: what the palace's owner may read and write."""
    read = {name for ident in tree.workspaces for name in readable(tree, ident)}
    return tuple(sorted(read | set(tree.customs)))


def can_write(tree: Tree, ident: str, namespace: str) -> bool:
    return namespace in writable(tree, ident)


def intersect_readable(tree: Tree, ident: str, requested: Iterable[str]) -> tuple[str, ...]:
    """Return what a workspace may read of what it asks for; of nothing in particular, all.

    What it may not read is left out in silence: whether it exists is no concern of it either.
    """
    wanted = frozenset(requested)
    mine = readable(tree, ident)
    return tuple(name for name in mine if name in wanted) if wanted else mine
