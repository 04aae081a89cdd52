"""Workspaces and namespaces: how they are named, and what one workspace is to another.

A *workspace* is an agent that the palace's owner has registered: an id, and the workspace above it.
A *namespace* is what memories belong to: `workspace:ID` (one agent's own), `team:ID` (those below
one workspace), `org:ID` (all below one root), and `custom:NAME` (whom its owner has named).  Those
of the memory contract's plugin role are made by its clients, who may call them anything: here they
are `plugin:LIFE:NAME`, which no agent can name, and another LIFE (eight digits) each time one is
made, so that what was in an earlier one of that name is never in a later one.

Names come from agents, commands and files.  They are ASCII and bounded, so that no two look alike,
none is an option of a program, and none leads anywhere as a path.

Pure.
"""

import hashlib
import re

import attrs

from palace.protocol.errors import WorkspaceRefused

ID_CHARS_MAX = 63
NAMESPACE_CHARS_MAX = 256
TEXT_CHARS_MAX = 4096  # of a directory or a label
WORKSPACES_MAX = 10_000  # removed ones as well: they are read into memory
TOKEN_DIGITS = 64  # of a token, in hexadecimal; its digest has as many
TOKENS_MAX = 10_000  # revoked ones as well
CUSTOMS_MAX = 1000  # custom namespaces
SPACES_MAX = 10_000  # of the contract's plugin role; ended ones as well
MEMBERS_MAX = 100  # of one of them
DIGITS_SHOWN = 12  # of a token's digest, where it is named
PREFIX_MIN = 8  # digits of a digest by which a token is named
FOREVER = float("inf")  # of what has no end
# Between two owners' epochs: so much a restored palace is ahead of the one that was backed up.
RESTORED = 1_000_000
_DIGITS = re.compile(r"[0-9a-f]+")
_ID = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{ID_CHARS_MAX - 1}}}")
_CUSTOM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_LIFE_DIGITS = 8
_SPACE = re.compile(rf"[0-9a-f]{{{_LIFE_DIGITS}}}:[a-z]+:[A-Za-z0-9_:.-]+")

WORKSPACE, TEAM, ORG, CUSTOM, PLUGIN = "workspace", "team", "org", "custom", "plugin"
LIFE_BYTES = _LIFE_DIGITS // 2


@attrs.frozen(kw_only=True)
class Workspace:
    """One workspace.  `parent` is "" for a root; `uid` None where no user is mapped to it.

    A `confined` one never acts for the owner.  One that was `removed` has no rights, and stays what
    it was to those below it.
    """

    id: str
    parent: str = ""
    cwd: str = ""
    runtimes: tuple[str, ...] = ()
    uid: int | None = None
    confined: bool = False
    removed: bool = False
    created_at: str = ""

    @property
    def key(self) -> str:
        return key_of(self.id)


@attrs.frozen(kw_only=True)
class Token:
    """What proves a process to be a workspace: of the token itself, its digest alone is kept.

    One without a workspace ("") is for the memory contract's plugin role.  `epoch` is that of the
    owner under which it counts; `revoked_at` is "" while it isn't revoked.
    """

    digest: str
    workspace: str
    label: str = ""
    epoch: int
    created_at: str = ""
    revoked_at: str = ""

    def counts(self, epoch: int) -> bool:
        """Tell whether it proves anything to an owner of this epoch.

        A restored palace's owners accept none that was made before: what has been revoked since
        the backup would be back.
        """
        return not self.revoked_at and epoch - self.epoch < RESTORED


@attrs.frozen(kw_only=True)
class Namespace:
    """What the register keeps of a namespace: whom a custom one is for, or that one is ending.

    One that `ends` is nobody's any more, and its memories are being forgotten.  One of the plugin
    role is a `kind` of the contract's, has `metadata` (JSON, "" for none), and is over from `until`
    on, in seconds since 1970; `expires_at` is the same for people, "" for no end.
    """

    name: str
    members: tuple[str, ...] = ()
    ends: bool = False
    created_at: str = ""
    kind: str = ""
    metadata: str = ""
    until: float = FOREVER
    expires_at: str = ""

    @property
    def called(self) -> str:
        """Return what the contract's clients call it."""
        return called(self.name)


def called(namespace: str) -> str:
    """Return what clients of the contract call a namespace, "" for one that isn't theirs."""
    kind, _, name = namespace.partition(":")
    return name[_LIFE_DIGITS + 1 :] if kind == PLUGIN else ""


def digest_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_digits(text: object, least: int, most: int) -> bool:
    """Tell whether a text is of so many hexadecimal digits, in lower case."""
    is_long = isinstance(text, str) and least <= len(text) <= most
    return is_long and _DIGITS.fullmatch(str(text)) is not None


def key_of(ident: str) -> str:
    """Return the name of a workspace's own namespace, which is its id among a palace's entities."""
    return f"{WORKSPACE}:{ident}"


def id_in(key: str) -> str:
    """Return the id of the workspace whose own namespace this is."""
    return key.removeprefix(f"{WORKSPACE}:")


def checked_id(text: object) -> str:
    """Return a workspace's id as it is; raises WorkspaceRefused for what can't be one."""
    if isinstance(text, str) and _ID.fullmatch(text):
        return text
    raise WorkspaceRefused(
        f"{_shown(text)} can't be a workspace's id. Use up to {ID_CHARS_MAX} lower-case letters, "
        "digits and hyphens, with a letter or a digit first."
    )


def checked_namespace(text: object) -> str:
    """Return a namespace's name as it is; raises WorkspaceRefused for what can't be one."""
    if isinstance(text, str) and len(text) <= NAMESPACE_CHARS_MAX:
        kind, _, name = text.partition(":")
        if kind in (WORKSPACE, TEAM, ORG) and _ID.fullmatch(name):
            return text
        if kind == CUSTOM and _CUSTOM.fullmatch(name) and ".." not in name:
            return text
    if isinstance(text, str) and _is_space(text):
        return text
    raise WorkspaceRefused(
        f"{_shown(text)} can't be a namespace. It is workspace:ID, team:ID or org:ID with a "
        f"workspace's id, or custom:NAME with ASCII letters, digits and _ . : - inside, up to "
        f"{NAMESPACE_CHARS_MAX} characters in all."
    )


def _is_space(text: str) -> bool:
    kind, _, name = text.partition(":")
    short = len(name) <= NAMESPACE_CHARS_MAX + _LIFE_DIGITS + 1
    return kind == PLUGIN and short and _SPACE.fullmatch(name) is not None


def checked_line(text: object, what: str) -> str:
    """Return a text of one line that a terminal can show; raises WorkspaceRefused."""
    if isinstance(text, str) and len(text) <= TEXT_CHARS_MAX and text.isprintable():
        return text
    raise WorkspaceRefused(
        f"{_shown(text)} can't be {what}: it has to be one printable line of at most "
        f"{TEXT_CHARS_MAX} characters."
    )


def _shown(value: object) -> str:
    """Return a value for an error, whatever it is."""
    text = value if isinstance(value, str) else type(value).__name__
    return ascii(text[:60])
