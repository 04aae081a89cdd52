"""Whom a session acts as: the palace's owner, or one of its workspaces.

A principal is bound to a session once, and is the same until the session ends, over its broker's
death as well; what it may do follows from the tree at each call (resolver.py).  It is, in order,

0. the workspace whose token its shim has shown: *confined*; nobody, for a token that is none;
1. the workspace to which the user at the other end is mapped, as the kernel says: *confined*;
2. the owner, where nothing can say more: for whoever comes by HTTP, as a guest, from a container or
   as another user without a workspace;
3. what the session was before: its shim says so to the next broker;
4. the workspace in whose directory the session's shim was started, the nearest if several are;
5. the owner.

3 and 4 are a client's own words.  They are taken of the owner's processes alone, which could as
well be started elsewhere: they guard against mistakes, not against a program that lies.

What 0 and 1 prove is asked again at each call: a token that is revoked, and a user who is given a
workspace, count at once.

A confined principal may use palace's own tools and stock's basic ones, which reach nothing but the
memories of its namespaces then (palace/memory/confined.py); so may one whose workspace says that it
is confined.  One whose workspace was removed may use nothing.

Pure.
"""

import attrs

from palace.protocol.resolver import Tree
from palace.protocol.rights import Peer, Who
from palace.protocol.tools import BASIC_TOOLS, CONTRACT_TOOLS, OWN_TOOLS
from palace.protocol.workspaces import DIGITS_SHOWN, PLUGIN, Workspace

UNKNOWN_PRINCIPAL = (
    "This palace has workspaces, and it isn't known just now which of them a session is: the "
    "register is read once the palace's own journal is open. Nothing was done. Ask again later; "
    "palace doctor says what keeps it closed."
)
# Those of whom the kernel says that they see the broker's files, and are who owns them.
_NEIGHBOURS = frozenset({Who.OWNER, Who.ROOT})


@attrs.frozen
class Principal:
    """The owner has no workspace (""). `confined`: it was proven to be nobody else.

    `token` is the digest of the token that has proven it, "" for none.  `plugin`: it is a client of
    the memory contract, which decides itself who may do what in the namespaces that it makes; it
    is confined to those.
    """

    workspace: str = ""
    confined: bool = False
    token: str = ""
    plugin: bool = False

    @property
    def signature(self) -> str:
        """Return what is recorded of it beside what it does; "" for the palace's owner.

        A workspace's id, or `plugin`, and after a colon the first digits of its token's digest, as
        `palace token list` shows them.  No id has a colon.
        """
        if not self.plugin:
            return self.workspace
        return f"{PLUGIN}:{self.token[:DIGITS_SHOWN]}" if self.token else PLUGIN

    @property
    def called(self) -> str:
        if self.plugin:
            return "a client of the memory contract"
        return f"the workspace {self.workspace}" if self.workspace else "the palace's owner"


OWNER = Principal()


@attrs.frozen(kw_only=True)
class Whence:
    """What is known of a session's other end.

    `token` is the digest of the token that it has shown, "" for none.  `cwd` is where it was
    started, "" where that is no directory of the broker's machine; `said` is what it says that it
    was before, None where it says nothing.
    """

    peer: Peer
    token: str = ""
    cwd: str = ""
    said: str | None = None


def plugin_with(token: str) -> Principal:
    """Return the contract's client that has shown a token, "" for the palace's owner's own."""
    return Principal(confined=True, token=token, plugin=True)


def proven(tree: Tree, peer: Peer, token: str) -> Principal | None:
    """Return whom a token, or the kernel, proves a process to be; None where neither says so.

    A user whose workspace was removed has lost its rights by that, and not become the owner.
    """
    if token:
        return Principal(tree.tokens.get(token, ""), confined=True, token=token)
    mapped = [
        one for one in tree.workspaces.values() if one.uid is not None and one.uid == peer.uid
    ]
    if not mapped:
        return None
    workspace = next((one for one in mapped if not one.removed), mapped[0])
    return Principal(workspace.id, confined=True)


def principal_of(tree: Tree, whence: Whence) -> Principal:
    """Return whom a session acts as from now on."""
    found = proven(tree, whence.peer, whence.token)
    if found is not None:
        return found
    if whence.peer.who not in _NEIGHBOURS:
        return OWNER
    if whence.said is not None and (not whence.said or whence.said in tree.workspaces):
        return Principal(whence.said)
    nearest = _nearest(tree, whence.cwd)
    return OWNER if nearest is None else Principal(nearest.id)


def _nearest(tree: Tree, cwd: str) -> Workspace | None:
    around = [
        workspace
        for workspace in tree.workspaces.values()
        if workspace.cwd and not workspace.removed and _is_within(cwd, workspace.cwd)
    ]
    return max(around, key=lambda workspace: len(workspace.cwd), default=None)


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def is_confined(tree: Tree, principal: Principal) -> bool:
    """Tell whether a principal is kept to the memories of its namespaces."""
    found = tree.active(principal.workspace) if principal.workspace else None
    return principal.confined or (found is not None and found.confined)


def refusal_of(tree: Tree, principal: Principal, tool: str) -> str:
    """Say why a principal may not call a tool now, "" where it may."""
    if principal.plugin and tool not in CONTRACT_TOOLS:
        return f"{tool[:80]} is no operation of the memory contract. Nothing was done."
    known = tree.plugins if principal.plugin else tree.tokens
    if principal.token and principal.token not in known:
        return (
            "The token that this session has shown is no workspace's: it was revoked, it is of "
            "another palace, or this one was restored from a backup since. Nothing was done. The "
            "palace's owner makes another: palace token new WORKSPACE --out FILE"
        )
    if not principal.workspace:
        return ""
    found = tree.active(principal.workspace)
    if found is None:
        return (
            f"The workspace {principal.workspace} was removed, so this session may do nothing any "
            "more. Nothing was done. End it, or have its palace's owner register another workspace."
        )
    allowed = tool in OWN_TOOLS or tool in BASIC_TOOLS or tool in CONTRACT_TOOLS
    if is_confined(tree, principal) and not allowed:
        basic = ", ".join(sorted(name.removeprefix("mempalace_") for name in BASIC_TOOLS))
        return (
            f"{tool[:80]} is not for {principal.called}, which is confined: it may use "
            f"{', '.join(sorted(OWN_TOOLS))}, and of mempalace's {basic}. Nothing was done; ask "
            "the palace's owner to do it."
        )
    return ""
