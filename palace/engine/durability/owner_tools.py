"""The owner's tools: how palace's commands change who works here.

A call of one is a call like any other: admitted, journalled as one group under its session and
ordinal, and answered once, whatever dies meanwhile.  What it is asked is checked against the
register as it is when its turn comes, so that two that exclude each other can't both be made.
"""

import os
from collections.abc import Callable, Iterator, Mapping

import attrs

from palace.engine.durability.answering import answered
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.namespaces import (
    check_known,
    check_not_ending,
    custom_in,
    end_namespace,
    leave_all,
    members_in,
    put_custom,
    removable_in,
)
from palace.engine.stores.register import (
    AUDIT,
    NAMESPACE,
    TOKEN,
    WORKSPACE,
    Register,
    row_of,
    row_of_token,
)
from palace.kernel.kernel import Kernel
from palace.protocol.errors import WorkspaceRefused
from palace.protocol.request import ToolCall
from palace.protocol.resolver import HOPS_MAX, Tree
from palace.protocol.workspaces import (
    PLUGIN,
    PREFIX_MIN,
    TOKEN_DIGITS,
    TOKENS_MAX,
    WORKSPACES_MAX,
    Token,
    Workspace,
    checked_id,
    checked_line,
    is_digits,
)

Json = dict[str, object]
UID_MAX = 2**32 - 2
AUDITS_MAX = 1000  # of one answer
RUNTIMES_MAX = 32  # of one workspace

_NAMING = {  # what a tool takes to keep it as it is
    "palace_workspace_add": ("id", "cwd"),
    "palace_namespace_add": ("name",),
    "palace_token_add": ("label",),
}


@attrs.frozen(eq=False)
class OwnerTools:
    """Answers calls of `protocol.tools.OWNER_TOOLS` for one palace; threads share one."""

    register: Register
    groups: CallGroups
    kernel: Kernel

    def answer(self, call: ToolCall, *, read_only: bool) -> Json:
        """Return the reply to a call as JSON-RPC; raises nothing for what was asked."""

        def answer(arguments: Mapping[str, object]) -> Json:
            _check_no_secret(call)
            return self._answers[call.name](arguments)

        path = self.register.path
        return answered(call, answer, self.groups, path, read_only=read_only)

    @property
    def _answers(self) -> Mapping[str, Callable[[Mapping[str, object]], Json]]:
        return {
            "palace_workspace_list": self._list,
            "palace_workspace_add": self._add,
            "palace_workspace_move": self._move,
            "palace_workspace_runtimes": self._equip,
            "palace_workspace_remove": self._remove,
            "palace_workspace_audit": self._audit,
            "palace_namespace_list": self._list_namespaces,
            "palace_namespace_add": self._add_namespace,
            "palace_namespace_remove": self._remove_namespace,
            "palace_token_list": self._list_tokens,
            "palace_token_add": self._add_token,
            "palace_token_revoke": self._revoke,
        }

    # What is asked.

    def _list(self, _arguments: Mapping[str, object]) -> Json:
        tree = self.register.tree()
        return {"workspaces": [_shown(tree.workspaces[ident]) for ident in sorted(tree.workspaces)]}

    def _audit(self, _arguments: Mapping[str, object]) -> Json:
        """Return what was decreed last, the oldest first: by whom, when, and its digest."""
        if not self.register.exists():
            return {"audit": []}
        rows = [payload["row"] for _, payload in self.register.scan(AUDIT)]
        return {"audit": sorted(rows, key=lambda row: str(row["at"]))[-AUDITS_MAX:]}

    def _add(self, arguments: Mapping[str, object]) -> Json:
        workspace = Workspace(
            id=checked_id(arguments.get("id")),
            parent=_parent_in(arguments),
            cwd=_cwd_in(arguments),
            runtimes=_runtimes_in(arguments),
            uid=_uid_in(arguments),
            confined=arguments.get("confined") is True,
            created_at=self.kernel.utc_text(),
        )
        tree = self.register.tree()
        _check_new(tree, workspace)
        _check_parent(tree, workspace)
        _check_alone(tree, workspace)
        _check_has_place(workspace.cwd, workspace.runtimes)
        # What was that of one of this name, whose record was purged.
        check_not_ending(self.register, workspace.key)
        self._revoke_all(workspace.id)
        leave_all(self.register, self.groups, workspace.id)
        return self._put(workspace)

    def _move(self, arguments: Mapping[str, object]) -> Json:
        tree = self.register.tree()
        found = _active(tree, arguments.get("id"))
        moved = attrs.evolve(found, parent=_parent_in(arguments))
        _check_parent(tree, moved)
        return self._put(moved)

    def _equip(self, arguments: Mapping[str, object]) -> Json:
        """Let a workspace's agents run as more programs; what it has stays."""
        found = _active(self.register.tree(), arguments.get("id"))
        both = dict.fromkeys((*found.runtimes, *_runtimes_in(arguments)))
        _check_has_place(found.cwd, tuple(both))
        return self._put(attrs.evolve(found, runtimes=tuple(both)))

    def _remove(self, arguments: Mapping[str, object]) -> Json:
        tree = self.register.tree()
        found = _active(tree, arguments.get("id"))
        below = [ident for ident in tree.below(found.id) if tree.active(ident)]
        self._revoke_all(found.id)
        told = self._put(attrs.evolve(found, removed=True)) | {"below": below}
        if arguments.get("purge") is True:
            end_namespace(self.register, self.groups, found.key, self.kernel.utc_text())
        return told

    def _put(self, workspace: Workspace) -> Json:
        self.register.put(self.groups, WORKSPACE, workspace.key, row_of(workspace))
        return {"workspace": _shown(workspace)}

    # Namespaces.

    def _list_namespaces(self, _arguments: Mapping[str, object]) -> Json:
        return {"namespaces": [attrs.asdict(one) for one in self.register.namespaces()]}

    def _add_namespace(self, arguments: Mapping[str, object]) -> Json:
        name, tree = custom_in(arguments), self.register.tree()
        members = [_active(tree, ident).id for ident in members_in(arguments)]
        at = self.kernel.utc_text()
        return {"namespace": put_custom(self.register, self.groups, name, members, at)}

    def _remove_namespace(self, arguments: Mapping[str, object]) -> Json:
        name = removable_in(arguments)
        check_known(self.register, name)
        if arguments.get("purge") is True:
            end_namespace(self.register, self.groups, name, self.kernel.utc_text())
        else:
            self.register.put(self.groups, NAMESPACE, name, None)
        return {"removed": name}

    # Tokens.

    def _list_tokens(self, _arguments: Mapping[str, object]) -> Json:
        return {"tokens": [self._told(token) for token in self.register.tokens()]}

    def _add_token(self, arguments: Mapping[str, object]) -> Json:
        digest, label = arguments.get("sha256"), arguments.get("label", "")
        if not is_digits(digest, TOKEN_DIGITS, TOKEN_DIGITS):
            raise WorkspaceRefused(f"A token is kept as the {TOKEN_DIGITS} digits of its SHA-256.")
        is_plugins = arguments.get("scope") == PLUGIN
        ident = "" if is_plugins else _active(self.register.tree(), arguments.get("workspace")).id
        known = self.register.rows(TOKEN)
        if digest in known:
            raise WorkspaceRefused("This token is registered already. Make another.")
        if len(known) >= TOKENS_MAX:
            raise WorkspaceRefused(
                f"The register holds {TOKENS_MAX} tokens, which is as many as it takes. Purge the "
                "records of revoked ones: palace token list; palace purge SHA256"
            )
        token = Token(
            digest=str(digest),
            workspace=ident,
            label=checked_line(label, "a token's label"),
            epoch=self.register.epoch,
            created_at=self.kernel.utc_text(),
        )
        self.register.put(self.groups, TOKEN, token.digest, row_of_token(token))
        return {"token": self._told(token)}

    def _revoke(self, arguments: Mapping[str, object]) -> Json:
        prefix = arguments.get("prefix")
        if not is_digits(prefix, PREFIX_MIN, TOKEN_DIGITS):
            raise WorkspaceRefused(
                f"A token is named by at least {PREFIX_MIN} digits that palace token list shows."
            )
        found = [one for one in self.register.tokens() if one.digest.startswith(str(prefix))]
        if len(found) != 1:
            many = f"{len(found)} tokens begin" if found else "No token begins"
            raise WorkspaceRefused(f"{many} with {prefix}. See which there are: palace token list")
        return {"token": self._told(self._end(found[0]))}

    def _revoke_all(self, ident: str) -> None:
        for token in self.register.tokens():
            if token.workspace == ident:
                self._end(token)

    def _end(self, token: Token) -> Token:
        if token.revoked_at:
            return token
        ended = attrs.evolve(token, revoked_at=self.kernel.utc_text())
        self.register.put(self.groups, TOKEN, ended.digest, row_of_token(ended))
        return ended

    def _told(self, token: Token) -> Json:
        return {**attrs.asdict(token), "counts": token.counts(self.register.epoch)}


def _shown(workspace: Workspace) -> Json:
    return {**attrs.asdict(workspace), "runtimes": list(workspace.runtimes)}


# What is refused, before anything is changed.


def _parent_in(arguments: Mapping[str, object]) -> str:
    parent = arguments.get("parent", "")
    return "" if parent == "" else checked_id(parent)


def _cwd_in(arguments: Mapping[str, object]) -> str:
    cwd = checked_line(arguments.get("cwd", ""), "a workspace's directory")
    if cwd and (not os.path.isabs(cwd) or os.path.normpath(cwd) != cwd):
        raise WorkspaceRefused(
            f"{cwd[:200]!r} can't be a workspace's directory: it is no full path."
        )
    return cwd


def _runtimes_in(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of programs; they are formed as ids are, so that none is an option."""
    given = arguments.get("runtimes", [])
    if not isinstance(given, list) or len(given) > RUNTIMES_MAX:
        raise WorkspaceRefused(f"A workspace has a list of up to {RUNTIMES_MAX} runtimes.")
    return tuple(dict.fromkeys(checked_id(one) for one in given))


def _check_has_place(cwd: str, runtimes: tuple[str, ...]) -> None:
    if runtimes and not cwd:
        raise WorkspaceRefused(
            f"A workspace that runs {runtimes[0]} needs the directory in which that is started: "
            "--cwd DIR"
        )


def _uid_in(arguments: Mapping[str, object]) -> int | None:
    uid = arguments.get("uid")
    if uid is None:
        return None
    if type(uid) is not int or not 0 < uid <= UID_MAX:
        raise WorkspaceRefused(f"A workspace's uid is a number from 1 to {UID_MAX}; root has all.")
    if uid == os.geteuid():
        raise WorkspaceRefused(
            f"uid {uid} is the palace's owner, who would lose every right but a workspace's. Give "
            "the workspace a directory instead: --cwd DIR"
        )
    return uid


def _active(tree: Tree, ident: object) -> Workspace:
    """Return a registered workspace; raises WorkspaceRefused, which names those like it."""
    name = checked_id(ident)
    found = tree.active(name)
    if found is not None:
        return found
    gone = "was removed" if name in tree.workspaces else "isn't registered"
    raise WorkspaceRefused(
        f"The workspace {name} {gone}. See which there are: palace workspace list"
    )


def _check_no_secret(call: ToolCall) -> None:
    """Refuse a secret for a name: names are kept and listed as they are, and in every backup."""
    told = [call.arguments.get(name) for name in _NAMING.get(call.name, ())]
    if not any(told):
        return
    from palace.memory.redact import redact  # takes some 100 ms, where something is named only

    if any(isinstance(text, str) and redact(text) != text for text in told):
        raise WorkspaceRefused(
            "The name holds a secret, and would be kept and shown as it is. Nothing was changed; "
            "choose another."
        )


def _check_new(tree: Tree, workspace: Workspace) -> None:
    name = workspace.id
    if name == PLUGIN:
        raise WorkspaceRefused(
            f"No workspace can be called {PLUGIN}: palace token new {PLUGIN} makes a token of the "
            "memory contract's. Choose another id."
        )
    if tree.active(name) is not None:
        raise WorkspaceRefused(
            f"The workspace {name} is registered already. Give it another place in the tree: "
            f"palace workspace move {name} --parent ID"
        )
    if name in tree.workspaces:
        raise WorkspaceRefused(
            f"A workspace {name} was removed, and another one of that name would take over what is "
            f"still filed under it. Choose another id, or destroy the old one's record first: "
            f"palace purge {workspace.key}"
        )
    if len(tree.workspaces) >= WORKSPACES_MAX:
        raise WorkspaceRefused(
            f"The register holds {WORKSPACES_MAX} workspaces, which is as many as it takes. Purge "
            "the records of removed ones: palace purge workspace:ID"
        )


def _check_parent(tree: Tree, workspace: Workspace) -> None:
    """Refuse a parent that isn't there, a cycle, and a chain that is longer than rights reach."""
    if not workspace.parent:
        return
    _active(tree, workspace.parent)
    if workspace.id in tree.chain(workspace.parent):
        raise WorkspaceRefused(
            f"{workspace.parent} is below {workspace.id}, so it can't be above it as well. Move "
            f"{workspace.parent} first: palace workspace move {workspace.parent} --root"
        )
    depth = len(tree.chain(workspace.parent)) + _height(tree, workspace.id)
    if depth > HOPS_MAX:
        raise WorkspaceRefused(
            f"The tree would be {depth + 1} workspaces deep below {workspace.parent}, and rights "
            f"reach over {HOPS_MAX}. Choose a parent that is nearer to the root."
        )


def _height(tree: Tree, ident: str) -> int:
    """Return how many workspaces are below one, in a row."""
    level, height = {ident}, 0
    met = {ident}
    while level:
        level = {other for other, one in tree.workspaces.items() if one.parent in level} - met
        met |= level
        height += bool(level)
    return height


def _check_alone(tree: Tree, workspace: Workspace) -> None:
    """Refuse what would make it doubtful who somebody is."""
    for other in _others(tree, workspace):
        if workspace.cwd and other.cwd == workspace.cwd:
            raise WorkspaceRefused(
                f"{workspace.cwd[:200]} is the directory of the workspace {other.id}: agents there "
                "would be two at once. Choose another directory, or remove that workspace."
            )
        if workspace.uid is not None and other.uid == workspace.uid:
            raise WorkspaceRefused(
                f"uid {workspace.uid} is the user of the workspace {other.id}, and can't be "
                "another one as well. Remove that workspace, or choose another user."
            )


def _others(tree: Tree, workspace: Workspace) -> Iterator[Workspace]:
    return (
        other
        for other in tree.workspaces.values()
        if not other.removed and other.id != workspace.id
    )
