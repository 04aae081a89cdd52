"""Upkeep in a process of its own that stays, for one palace after another.

As a program (`python -P tests/support/engines/maintenance.py`) it answers lines of JSON;
`MaintenanceProcess` starts it and asks.  Every palace that it touches is closed again before it
answers.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from palace.commands import maintenance, restore
from palace.commands import move_store as moving
from palace.commands import purge as purging
from palace.commands import set_embedder as embedding
from palace.commands.backup import find_backup, keys_of, make_backup
from palace.commands.config import change_settings
from palace.doctor.drift import drifted
from palace.doctor.journal import inspect_journal
from palace.doctor.remembered import unfinished_purge
from palace.engine.durability import offline
from palace.engine.durability.rebuild import Rebuilt
from palace.engine.stores.milvus_open import mark
from palace.engine.stores.palace_stores import open_chroma
from palace.journal.purge import Going, purge_journal
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel
from palace.ownership import exclusive
from palace.ownership.keys import accept_keys, known_keys
from palace.ownership.served import forget_served, read_served
from palace.protocol.errors import PalaceError
from palace.protocol.keyring import Key, Keyring
from palace.protocol.wire import identity_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import backend_of
from palace.settings.user_settings import read_toml, read_user_settings


class Interrupted(BaseException):
    """Somebody has pulled the plug."""


class FrailKernel(Kernel):
    """The real kernel, until so many renames were carried out; sealing's own are left out."""

    renames = sys.maxsize
    made = 0
    last = ""  # the failpoint that ends it, "" for none

    def failpoint(self, name: str) -> None:
        if name == FrailKernel.last:
            raise Interrupted

    def rename(self, old: str, new: str) -> None:
        if not old.endswith(".tmp"):
            self._count()
        super().rename(old, new)

    def rename_beneath(self, directory: str, old: str, new: str) -> None:
        self._count()
        super().rename_beneath(directory, old, new)

    @staticmethod
    def _count() -> None:
        if FrailKernel.made >= FrailKernel.renames:
            raise Interrupted
        FrailKernel.made += 1


def _environment() -> ShimEnvironment:
    return ShimEnvironment(os.environ)


def rebuild(root: str, *, partial: bool = False, renames: int = sys.maxsize) -> Any:
    """Rebuild; stop for good before the rename after so many (`made` says how many there were)."""
    FrailKernel.renames, FrailKernel.made = renames, 0
    exclusive.Kernel = FrailKernel  # type: ignore[attr-defined]
    try:
        made = maintenance.rebuild_palace(
            Paths(root), _environment(), stop=False, allow_gaps=partial
        )
    except Interrupted:
        return {"interrupted": FrailKernel.made}
    finally:
        exclusive.Kernel = Kernel  # type: ignore[attr-defined]
    assert isinstance(made, Rebuilt)
    return {"entities": made.entities, "kept": made.kept, "renames": FrailKernel.made}


def move_store(root: str, backend: str, *, renames: int = sys.maxsize, last: str = "") -> Any:
    """Let another backend keep the drawers.

    Stop for good before the rename after so many, or at a failpoint, if one is named.
    """
    FrailKernel.renames, FrailKernel.made, FrailKernel.last = renames, 0, last
    exclusive.Kernel = FrailKernel  # type: ignore[attr-defined]
    try:
        moved = moving.move_store(Paths(root), _environment(), backend, stop=False)
    except Interrupted:
        return {"interrupted": last or FrailKernel.made}
    finally:
        FrailKernel.last = ""
        exclusive.Kernel = Kernel  # type: ignore[attr-defined]
    return {"kept": moved.rebuilt.kept, "was": moved.was, "renames": FrailKernel.made}


def set_embedder(root: str, name: str, url: str, model: str, *, last: str = "") -> Any:
    """Embed anew; stop for good at a failpoint, if one is named."""
    FrailKernel.renames, FrailKernel.made, FrailKernel.last = sys.maxsize, 0, last
    exclusive.Kernel = FrailKernel  # type: ignore[attr-defined]
    wish = embedding.Wish(name=name, url=url, model=model)
    try:
        changed = embedding.set_embedder(Paths(root), _environment(), wish, stop=False)
    except Interrupted:
        return {"interrupted": last}
    finally:
        FrailKernel.last = ""
        exclusive.Kernel = Kernel  # type: ignore[attr-defined]
    return {"kept": changed.rebuilt.kept}


def back_up(root: str, into: str) -> Any:
    made = make_backup(Paths(root), os.environ, into)
    contents = made.manifest.contents
    return {"path": made.path, "entities": contents.entities, "seq": contents.seq}


def restore_from(
    root: str,
    source: str,
    *,
    replace: bool = False,
    keep_tokens: bool = False,
    renames: int = sys.maxsize,
) -> Any:
    """Restore; stop for good before the rename after so many."""
    FrailKernel.renames, FrailKernel.made = renames, 0
    exclusive.Kernel = FrailKernel  # type: ignore[attr-defined]
    try:
        backup = find_backup(source, Kernel())
        keys = keys_of(backup, os.environ, Kernel(), trust=False)
        how = restore.How(replace=replace, keep_tokens=keep_tokens)
        made = restore.restore_backup(Paths(root), _environment(), backup, keys, how)
    except Interrupted:
        return {"interrupted": FrailKernel.made}
    finally:
        exclusive.Kernel = Kernel  # type: ignore[attr-defined]
    return {
        "entities": made.entities,
        "epoch": made.epoch,
        "same": made.same,
        "kept": made.kept,
        "renames": FrailKernel.made,
    }


def prove(root: str) -> int:
    """Prove a backup."""
    backup = find_backup(root, Kernel())
    keys = keys_of(backup, os.environ, Kernel(), trust=False)
    return restore.prove_backup(_environment(), backup, keys).entities


def open_palace(root: str) -> None:
    """Own it for a moment, as the next broker would, and let it go."""
    with offline.hold_palace(Paths(root), _environment(), ask_to_leave=None):
        pass


def purge(root: str, ids: list[str], *, last: str = "") -> Any:
    """Purge; stop for good at a failpoint, if one is named."""
    FrailKernel.renames, FrailKernel.made, FrailKernel.last = sys.maxsize, 0, last
    exclusive.Kernel = FrailKernel  # type: ignore[attr-defined]
    try:
        return _told(purging.purge_memories(Paths(root), _environment(), ids, stop=False))
    except Interrupted:
        return {"interrupted": last}
    finally:
        FrailKernel.last = ""
        exclusive.Kernel = Kernel  # type: ignore[attr-defined]


def preview_purge(root: str, ids: list[str]) -> Any:
    return _told(purging.preview_purge(Paths(root), _environment(), ids))


def _told(purged: purging.Purged) -> Any:
    derived = purged.derived
    return {
        "records": purged.records,
        "entities": {f"{kind} {ident}": why for (kind, ident), why in derived.entities.items()},
        "alike": [f"{kind} {ident}" for kind, ident in derived.shared],
        "copies": [leftover.path for leftover in purged.leftovers],
        "code": purged.exit_code,
    }


def _keys(root: str) -> Keyring:
    return known_keys(Paths(root), os.environ, Kernel())


def purge_journal_alone(root: str, ids: list[str]) -> int:
    """Do the first half of a purge and no more."""
    going = Going(entities=frozenset(("chroma:mempalace_drawers", ident) for ident in ids))
    return purge_journal(Paths(root).journal, Kernel(), going, _keys(root))


def doctor(root: str) -> Any:
    found = inspect_journal(Paths(root).journal, Kernel(), _keys(root))
    found += unfinished_purge(Paths(root), os.environ, Kernel())
    found += drifted(Paths(root), _environment(), no_progress, ask_to_leave=None)
    return [[finding.level, finding.code, finding.text] for finding in found]


def contents(root: str) -> Any:
    """Return every entity of the stores by kind and id."""
    with offline.hold_palace(Paths(root), _environment(), ask_to_leave=None) as held:
        with offline.open_stores(held) as stores:
            for store in stores.all:
                store.read_fingerprint()
            return {kind: dict(store.scan(kind)) for store in stores.all for kind in store.kinds()}


def end_databases() -> None:
    """Close what milvus-lite has open in this process."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_all()


def nearest(root: str, collection: str, vectors: list[list[float]], count: int) -> Any:
    """Return the ids that are found for each vector, the nearest first."""
    with offline.hold_palace(Paths(root), _environment(), ask_to_leave=None) as held:
        query = {"query_embeddings": vectors, "n_results": count, "include": []}
        named = backend_of(root, "", os.environ)
        if named.is_given_vectors:
            # Late: mempalace takes what PYTHONPATH names out of where modules are looked for.
            from mempalace.backends import registry

            if named.is_milvus_lite:  # stock opens no copy under another path
                mark(root, root)
            backend: Any = type(registry.get_backend(named.name))()
            try:
                found = backend.get_collection(root, collection, options={"read_only": True})
                return found.query(**query)["ids"]
            finally:
                backend.close()
                if named.is_milvus_lite:
                    end_databases()
        client: Any = open_chroma(held.paths.root)
        try:
            return client.get_collection(collection, embedding_function=None).query(**query)["ids"]
        finally:
            client.close()


REQUESTS = (
    rebuild,
    move_store,
    set_embedder,
    back_up,
    restore_from,
    prove,
    open_palace,
    purge,
    preview_purge,
    purge_journal_alone,
    doctor,
    contents,
    nearest,
)


def _know_the_others(root: str) -> None:
    """Accept what processes of other homes write with the key that tests give them (probe.py).

    And agree to where they have found stock's configuration, as this home's user would.
    """
    paths, kernel = Paths(root), Kernel()
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    if identity:
        accept_keys(identity, [Key(b"t" * 32)], os.environ, kernel)
    user = read_user_settings(paths, os.environ, kernel)
    if user.other_id:  # a test has put another palace there
        os.unlink(user.path)
    served = read_served(root, os.environ, kernel)
    if served is not None and served.palace_id != identity:
        forget_served(root, os.environ, kernel)
    recorded = read_toml(paths.settings, kernel).get("config_dir")
    if recorded:
        change_settings(paths, _environment(), {"config_dir": recorded}, kernel)


def serve() -> None:
    requests = {request.__name__: request for request in REQUESTS}
    out = os.fdopen(os.dup(1), "w")  # importing mempalace rewires stdout
    for line in sys.stdin:
        name, arguments = json.loads(line)
        _know_the_others(arguments["root"])
        try:
            reply = [requests[name](**arguments), None]
        except PalaceError as error:
            reply = [None, [error.name, error.exit_code, error.message]]
        print(json.dumps(reply), file=out, flush=True)


class Refused(Exception):
    """What palace refused, by its name, with its exit code and its words."""

    def __init__(self, name: str, code: int, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.code, self.message = name, code, message


class MaintenanceProcess:
    """Asks; methods are the functions above.  End it."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        self._log = log
        self.home = Path(environ["HOME"])
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def ask(self, request: str, root: Path, /, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps([request, {"root": str(root)} | arguments])
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, self._log.read_text()[-4000:]
        value, problem = json.loads(said)
        if problem is not None:
            raise Refused(*problem)
        return value


if __name__ == "__main__":
    serve()
