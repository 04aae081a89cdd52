"""milvus-lite's database, open in this process: the one that mempalace asks over a socket.

By itself it listens on a port of the loopback address, where any user of the machine could read and
write all memories.  Here it listens at a socket in a directory that is its user's alone.
"""

import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import attrs

from palace.engine.stores.drawers import RecordPayload, vector_of
from palace.journal.record import JsonObject
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreUnavailable
from palace.settings.paths import MILVUS_MARK, SUN_PATH_BYTES_MAX

WAIT_S = 10.0  # for whoever has it open, a command of stock's as a rule
PAUSE_S = 0.1
_LOCK_FILE = "LOCK"
SOCKET = "milvus.sock"
_LOCK = threading.Lock()  # of which databases this process has open
_MARK_BYTES_MAX = 1 << 16


@attrs.define(eq=False)
class Database:
    """An open database; `backend` is mempalace's, apart from the one that serves its calls."""

    path: str
    backend: Any
    config: Any
    client: Any
    palace: Any
    _collections: dict[str, Any] = attrs.field(factory=dict)

    @property
    def _engine(self) -> Any:
        return _servers()[self.path][1]

    def has(self, name: str) -> bool:
        return bool(self._engine.has_collection(name))

    def seq(self, name: str) -> int:
        """Return the newest number of a collection, 0 where there is none."""
        if not self.has(name):
            return 0
        following: int = self._table(name)._next_seq  # noqa: SLF001
        return following - 1

    def _table(self, name: str) -> Any:
        """Return milvus-lite's own collection, which can be read."""
        table = self._engine.get_collection(name)
        if table.load_state != "loaded":
            table.load()
        return table

    def rows(self, name: str, ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of these ids, of those that are there."""
        if not self.has(name):
            return []
        found: list[dict[str, Any]] = self._table(name).get(list(ids), output_fields=list(columns))
        return found

    def ids(self, name: str) -> list[str]:
        if not self.has(name):
            return []
        return [row["id"] for row in self._table(name).query(None, output_fields=["id"])]

    def delete(self, name: str, ids: Sequence[str]) -> None:
        if ids:
            self._table(name).delete(list(ids))

    def put(self, name: str, records: Mapping[str, RecordPayload]) -> None:
        """Write records as stock does."""
        self._collection(name).upsert(
            ids=list(records),
            documents=[record["document"] or "" for record in records.values()],
            metadatas=[record["metadata"] or {} for record in records.values()],
            embeddings=[vector_of(record) for record in records.values()],
        )

    def _collection(self, name: str) -> Any:
        if name not in self._collections:
            from mempalace.backends.milvus import MilvusCollection

            self._collections[name] = MilvusCollection(
                backend=self.backend,
                client=self.client,
                config=self.config,
                palace=self.palace,
                collection_name=name,
                remote_collection=name,
            )
        return self._collections[name]

    def write_collection(self, name: str, model: JsonObject | None) -> None:
        if model is None:
            self._collections.pop(name, None)
            if self.has(name):
                self.client.drop_collection(name)
        elif not self.has(name) and model.get("dimension"):
            self.backend._create_remote_collection(  # noqa: SLF001
                self.client,
                name,
                model["dimension"],
                consistency_level=self.config.consistency_level,
            )

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        self.backend.close()
        *_, socket = _servers()[self.path]
        server_manager_instance.release_server(self.path)
        Kernel().unlink(socket)
        _sync_all(self.path)


def serve_privately() -> None:
    """Have milvus-lite listen at private sockets from now on; raises StoreUnavailable."""
    check_milvus()
    from milvus_lite.server_manager import ServerManager

    ServerManager.start_and_get_uri = _start


def leave(path: str) -> None:
    """Let nobody else come in: this process is about to end, and what it has is in its log."""
    entry = _servers().get(os.path.abspath(path))
    if entry is not None:
        Kernel().unlink(str(entry[-1]))


def check_milvus() -> None:
    """Raise StoreUnavailable where what keeps such drawers is not installed."""
    missing = [name for name in ("pymilvus", "milvus_lite", "pyarrow") if find_spec(name) is None]
    if missing:
        raise StoreUnavailable(
            "The drawers are in milvus, which needs pymilvus and milvus-lite beside mempalace, and "
            f"{' and '.join(missing)} can't be found: pip install 'palace-broker[engine,milvus]'"
        )


def _start(manager: Any, path: str, args: object = None) -> str:  # noqa: ARG001 - as stock asks
    """Open a database, unless it is open, and return where it listens; raises StoreUnavailable."""
    place = os.path.abspath(path)
    with _LOCK:
        if place not in _servers():
            _servers()[place] = _serve(place)
        return f"unix:{_servers()[place][-1]}"


def _serve(path: str) -> tuple[Any, Any, str]:
    from milvus_lite.adapter.grpc.server import DEFAULT_MAX_WORKERS, _build_server
    from milvus_lite.db import MilvusLite
    from milvus_lite.exceptions import MilvusLiteError

    _wait_for(path)
    try:
        database = MilvusLite(path)
    except (MilvusLiteError, OSError) as error:
        raise StoreUnavailable(f"milvus-lite can't open {path}: {error}.") from None
    server = _build_server(database, DEFAULT_MAX_WORKERS)
    socket = f"{os.path.dirname(path)}/{SOCKET}"
    Kernel().unlink(socket)  # of a process that was killed
    try:
        if len(os.fsencode(socket)) > SUN_PATH_BYTES_MAX:
            raise RuntimeError
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError:  # the path is too long, or its file system has no sockets
        socket = f"{tempfile.mkdtemp(prefix='palace-milvus-')}/{SOCKET}"
        server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server, database, socket


def _sync_all(path: str) -> None:
    """Make durable what was written: milvus-lite leaves that to the kernel."""
    kernel = Kernel()
    for directory, _, names in os.walk(path):
        for name in names:
            fd = kernel.open_read(f"{directory}/{name}")
            try:
                kernel.sync(fd)
            finally:
                kernel.close(fd)
        kernel.sync_directory(directory)


def open_database(path: str, made_for: str) -> Database:
    """Open a palace's database, or make it; raises StoreUnavailable.

    The mark that stock looks for is made so that it is that of the palace in `made_for`.
    """
    serve_privately()
    from mempalace.backends.base import PalaceRef
    from mempalace.backends.milvus import MilvusBackend

    root = os.path.dirname(path)
    backend = MilvusBackend()
    palace = PalaceRef(id=made_for, local_path=root)
    config = backend._effective_config(palace, None)  # noqa: SLF001
    mark(root, made_for)
    client = backend._client(config)  # noqa: SLF001
    backend._write_marker = lambda *_: None  # noqa: SLF001 - it is there, and of `made_for`
    return Database(os.path.abspath(path), backend, config, client, palace)


def mark(root: str, made_for: str) -> None:
    """Have stock know by a file of its own that a palace is in this database.

    Stock writes it in place, and may be killed meanwhile; and what it says is the directory's path,
    which may be another one by now.
    """
    from mempalace.backends.base import PalaceRef
    from mempalace.backends.milvus import MilvusBackend

    backend, kernel = MilvusBackend(), Kernel()
    palace = PalaceRef(id=made_for, local_path=made_for)
    config = backend._effective_config(palace, None)  # noqa: SLF001
    target = backend._marker_target(palace, config)  # noqa: SLF001
    path = f"{root}/{MILVUS_MARK}"
    try:
        found = decode_json(kernel.read_hint(path, _MARK_BYTES_MAX) or b"null")
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("milvus") == target:
        return
    told = {
        "backend": backend.name,
        "schema_version": 1,
        "created_at": kernel.utc_text(),
        "palace_id": made_for,
        "milvus": target,
    }
    kernel.write_durable(path, json.dumps(told, indent=2).encode())


def _servers() -> dict[str, Any]:
    from milvus_lite.server_manager import server_manager_instance

    found: dict[str, Any] = server_manager_instance._servers  # noqa: SLF001
    return found


def _wait_for(path: str) -> None:
    """Wait until no other process has the database open; raises StoreUnavailable."""
    until_s = time.monotonic() + WAIT_S
    while not _is_free(f"{path}/{_LOCK_FILE}"):
        if time.monotonic() > until_s:
            raise StoreUnavailable(
                f"{path} is open in another process, and milvus-lite lets one have it at a time. "
                "Nothing was changed. palace doctor shows which it is."
            )
        time.sleep(PAUSE_S)


def _is_free(lock: str) -> bool:
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
