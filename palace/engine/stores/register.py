"""The register: what palace itself keeps of a palace beside stock's stores, in `palace.sqlite3`.

Who works here (workspaces), what proves it (tokens), what they share (namespaces), and what was
decreed (audit).  No memory is in it, nor any part of one.

Theory of operation.  It is a projection of the journal like stock's tables (rows.py), and nobody
but palace writes it.  So where the file differs from the journal it is the file that is wrong:
nothing of it is ever adopted (reconciliation.py).  What rights are computed from is kept in memory
besides, and changes with the file.  A palace without a workspace has no file, and no fingerprint of
it in its journal (docs/decisions/0046).
"""

import json
import threading
from collections.abc import Iterable, Mapping

import attrs

from palace.engine.stores.own_rows import OwnRows, Row, file_of
from palace.engine.stores.projection import Change
from palace.engine.stores.rows import Table
from palace.journal.record import Json, JsonObject
from palace.kernel.kernel import Kernel
from palace.ownership.format import need_register
from palace.protocol.decoding import decode_json
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import (
    CUSTOM,
    FOREVER,
    PLUGIN,
    Namespace,
    Token,
    Workspace,
    id_in,
    key_of,
)
from palace.settings.paths import Paths

NAME = "register"
WORKSPACE, TOKEN, NAMESPACE, AUDIT = (
    f"palace:{name}" for name in ("workspace", "token", "namespace", "audit")
)
TABLES = (
    Table(kind=WORKSPACE, name="workspace"),
    Table(kind=TOKEN, name="token", key=("sha256",)),
    Table(kind=NAMESPACE, name="namespace", key=("name",)),
    Table(kind=AUDIT, name="audit"),
)
IN_MEMORY = (WORKSPACE, TOKEN, NAMESPACE)  # audits are many, and nobody's rights hang on them
ACTIVE, REMOVED = "active", "removed"
_SCHEMA = """
CREATE TABLE workspace (
    id TEXT PRIMARY KEY, parent TEXT, cwd TEXT, runtimes TEXT, uid INTEGER, confined INTEGER,
    status TEXT, created_at TEXT);
CREATE TABLE token (
    sha256 TEXT PRIMARY KEY, scope TEXT, label TEXT, epoch INTEGER, created_at TEXT,
    revoked_at TEXT);
CREATE TABLE namespace (
    name TEXT PRIMARY KEY, kind TEXT, expires_at TEXT, metadata TEXT, created_at TEXT);
CREATE TABLE audit (
    id TEXT PRIMARY KEY, at TEXT, workspace TEXT, namespace TEXT, action TEXT, memory_id TEXT,
    sha256 TEXT, bytes INTEGER);
"""


@attrs.define(eq=False, kw_only=True)
class Register(OwnRows):
    """One palace's register; a missing file is an empty one.  From `open_register`.

    Threads share one.
    """

    epoch: int = 0  # of the owner that has it
    _memory: dict[str, dict[str, Row]] = attrs.field(factory=dict)  # replaced, never changed
    _tree: Tree | None = None  # made of it when it is asked for
    _guard: threading.Lock = attrs.field(factory=threading.Lock)

    # What it says.

    def rows(self, kind: str) -> Mapping[str, Row]:
        """Return the rows of a kind that is in memory, by id; they never change."""
        return self._memory.get(kind, {})

    def tree(self) -> Tree:
        """Return the workspaces as they are now."""
        with self._guard:
            if self._tree is None:
                found = map(workspace_of, self.rows(WORKSPACE).values())
                self._tree = Tree(
                    {workspace.id: workspace for workspace in found},
                    customs=self._customs(),
                    tokens=self._counting(plugin=False),
                    plugins=frozenset(self._counting(plugin=True)),
                    spaces={one.called: one for one in self.namespaces() if _is_space(one)},
                    ended=frozenset(one.name for one in self.namespaces() if one.ends),
                    keeps=bool(self.rows(NAMESPACE)),
                )
            return self._tree

    def namespaces(self) -> list[Namespace]:
        """Return what is kept of namespaces, by name: custom ones, and those that end."""
        rows = self.rows(NAMESPACE)
        return [namespace_of(rows[name]) for name in sorted(rows)]

    def _customs(self) -> dict[str, frozenset[str]]:
        return {
            one.name: frozenset(one.members)
            for one in self.namespaces()
            if one.name.startswith(f"{CUSTOM}:") and not one.ends
        }

    def tokens(self) -> list[Token]:
        """Return all tokens, revoked ones as well, oldest first."""
        return sorted(map(token_of, self.rows(TOKEN).values()), key=lambda one: one.created_at)

    def _counting(self, *, plugin: bool) -> dict[str, str]:
        found = map(token_of, self.rows(TOKEN).values())
        return {
            token.digest: token.workspace
            for token in found
            if token.counts(self.epoch) and (not token.workspace) is plugin
        }

    # As the journal uses it.

    def applied(self, changes: Iterable[Change]) -> None:
        listed = list(changes)
        super().applied(listed)
        with self._guard:
            for change in listed:
                rows = dict(self._memory.get(change.kind, {}))
                rows.pop(change.id, None)
                if isinstance(change.after, dict) and change.kind in IN_MEMORY:
                    rows[change.id] = change.after["row"]
                self._memory[change.kind] = rows
            self._tree = None

    def read_fingerprint(self) -> JsonObject | None:
        super().read_fingerprint()
        with self._guard:
            self._memory = {
                kind: {ident: payload["row"] for ident, payload in self.scan(kind)}
                for kind in IN_MEMORY
                if self.exists()
            }
            self._tree = None
        return self.fingerprint()


def workspace_of(row: Row) -> Workspace:
    """Return a row of the table as what it says."""
    return Workspace(
        id=id_in(row["id"]),
        parent=row["parent"],
        cwd=row["cwd"],
        runtimes=tuple(decode_json(row["runtimes"])),
        uid=row["uid"],
        confined=bool(row["confined"]),
        removed=row["status"] != ACTIVE,
        created_at=row["created_at"],
    )


def row_of(workspace: Workspace) -> Row:
    """Return a workspace as a row of the table."""
    return {
        "id": workspace.key,
        "parent": workspace.parent,
        "cwd": workspace.cwd,
        "runtimes": json.dumps(workspace.runtimes),
        "uid": workspace.uid,
        "confined": 1 if workspace.confined else 0,
        "status": REMOVED if workspace.removed else ACTIVE,
        "created_at": workspace.created_at,
    }


def token_of(row: Row) -> Token:
    """Return a row of the table as what it says."""
    scope = row["scope"]
    return Token(
        digest=row["sha256"],
        workspace="" if scope == PLUGIN else id_in(scope),
        label=row["label"],
        epoch=row["epoch"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"] or "",
    )


def row_of_token(token: Token) -> Row:
    """Return a token as a row of the table."""
    return {
        "sha256": token.digest,
        "scope": key_of(token.workspace) if token.workspace else PLUGIN,
        "label": token.label,
        "epoch": token.epoch,
        "created_at": token.created_at,
        "revoked_at": token.revoked_at or None,
    }


def namespace_of(row: Row) -> Namespace:
    """Return a row of the table as what it says."""
    told = decode_json(row["metadata"])
    return Namespace(
        name=row["name"],
        members=tuple(told["members"]),
        ends=told["ends"],
        created_at=row["created_at"],
        kind=row["kind"] if row["name"].startswith(f"{PLUGIN}:") else "",
        metadata=told.get("metadata", ""),
        until=told.get("until", FOREVER),
        expires_at=row["expires_at"],
    )


def _is_space(namespace: Namespace) -> bool:
    return bool(namespace.called) and not namespace.ends


def row_of_namespace(namespace: Namespace) -> Row:
    """Return a namespace as a row of the table."""
    told: dict[str, Json] = {"members": namespace.members, "ends": namespace.ends}
    if namespace.metadata:
        told["metadata"] = namespace.metadata
    if namespace.until != FOREVER:
        told["until"] = namespace.until
    return {
        "name": namespace.name,
        "kind": namespace.kind or namespace.name.partition(":")[0],
        "expires_at": namespace.expires_at,
        "metadata": json.dumps(told),
        "created_at": namespace.created_at,
    }


def open_register(paths: Paths, kernel: Kernel) -> Register:
    """Return a palace's register; nothing is opened yet."""
    return Register(
        name=NAME,
        tables=TABLES,
        **file_of(paths.register, _SCHEMA, kernel),
        keep_older_away=lambda: need_register(paths, kernel),
    )
