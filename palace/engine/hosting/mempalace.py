"""The real mempalace, hosted in the broker's process.  It alone imports mempalace's server.

Its 47 tools and its files are what users have, so none of it is rewritten.  What hosting
needs is done by named adjustments (palace/engine/hosting/adjustments.py).
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs

from palace.engine.api import Call, Reply
from palace.engine.durability.calls import open_durable_calls
from palace.engine.durability.healing import Health, look_at_stores
from palace.engine.durability.journalled import JournalledEngine
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.pinned import (
    WATCHED,
    check_not_older,
    installed_versions,
    note_served,
)
from palace.engine.durability.refusals import refused, unjournalled
from palace.engine.embedding.sources import Progress
from palace.engine.embedding.supply import ModelState, ModelSupply, ModelUnavailable
from palace.engine.hosting import adjustments
from palace.engine.hosting.degraded import (
    CHROMA,
    index_patches,
    load_error,
    reads_lists,
    refusal,
    reopening,
    words,
)
from palace.engine.hosting.delegations import DELEGATIONS, answer_delegations
from palace.engine.hosting.host import Host, HostedState
from palace.engine.hosting.light_imports import import_server
from palace.engine.hosting.lookup_cache import metadata_file, stamp_of
from palace.engine.hosting.replies import error_code, succeeded
from palace.engine.hosting.succession import Succession, ask_successor
from palace.engine.hosting.writes import DrawerBatch
from palace.engine.patches import Patches
from palace.engine.stock import JsonObject, Server
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.versions import check_installed, installed_version
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.kernel.collector import imports_uncollected
from palace.kernel.kernel import Kernel
from palace.kernel.odd_files import open_regular
from palace.ownership.lock import Ownership
from palace.protocol import jsonrpc
from palace.protocol.errors import (
    Forbidden,
    PalaceError,
    StoreCorrupt,
    StoreUnavailable,
)
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.resend import Verdict
from palace.protocol.tools import MESH_TOOLS, Kind, Lane
from palace.settings.config import Config
from palace.settings.embedder import MINILM, configured_embedder
from palace.settings.environment import forbids_downloads
from palace.settings.paths import Paths, holds_store, home_dir
from palace.settings.process import QUIET
from palace.settings.stock_config import MILVUS, backend_of, check_backend_fits

if TYPE_CHECKING:
    from palace.engine.hosting.memories import Memories

# What keeps the libraries of embedders that stock offers beside its default from downloading.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# What stock imports within calls: after an upgrade under a broker it would be another version's.
IMPORTED_BY_CALLS = (
    *("daemon", "logsync", "mcp_proxy", "repair", "server_registry", "service", "sync", "tasks"),
    "update_awareness",
)
TABLES = "palace.engine.stores.pgvector"
# The lanes whose calls change drawers and have turns; mine yields by stock's own lock.
CHANGING = (Lane.WRITER, Lane.LARGE, Lane.LONG)
_OUTDATED_CODE = -32005
_DAMAGED_CODE = -32002
_SQLITE_MAGIC = b"SQLite format 3\0"

logger = logging.getLogger("palace.engine")


class MempalaceEngine(JournalledEngine):
    """One palace, opened by the one process that may (see `Engine` for the promises)."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        environ: Mapping[str, str],
        kernel: Kernel | None = None,
        stamp: Stamp | None = None,
        ownership: Ownership | None = None,
    ) -> None:
        self._paths = paths
        self._config = config
        self._environ = environ
        self._kernel = kernel or Kernel()
        self._stamp = stamp
        self._ownership = ownership
        self._server: Server | None = None
        self._lock_free: frozenset[str] = frozenset()  # tools that change none of the drawers
        self._state = HostedState(environ)
        self._versions = installed_versions()
        self._stats = {name: stamp_of(metadata_file(name)) for name in WATCHED}
        self._succession = Succession(partial(ask_successor, paths, dict(environ)))
        self._state.refuses_outdated = self._refuses_outdated
        self._loading = "starting"
        self._fingerprint = ""
        self._why_no_journal = ""
        self._lost: Callable[[], str] = str
        self._health = Health()

    def check(self) -> None:
        """Raise EngineError where what is installed can't be loaded; opens nothing."""
        try:
            self._import()
        except Exception as error:
            raise load_error(error) from None

    def _import(self) -> Server:
        check_installed()
        check_not_older(self._paths, self._kernel, self._versions)
        self._prepare_model()
        self._loading = "importing mempalace"
        self._set_environment()
        with imports_uncollected():
            server = cast("Server", import_server(self._config.adjustments_off))
        adjustments.apply_all(
            Host(server=server, state=self._state, paths=self._paths, config=self._config)
        )
        return server

    def load(self) -> Catalogue:
        server = self._import()
        self._loading = "opening the palace"
        self._take_writer_lock(server)
        note_served(self._paths, self._kernel, self._versions)
        self._open_memory(server)
        self._check_store()
        left = self._health.left_of(CHROMA)
        if left is not None and left.damage.index:
            Patches().apply(index_patches(server, left))
        server._startup_preflight()  # noqa: SLF001
        self._server = server
        self._lock_free = frozenset(server._HTTP_LOCK_FREE_TOOLS) | frozenset(MESH_TOOLS)  # noqa: SLF001
        if self._is_whole(server) and self._memory is not None:
            self._memory.recover()
        self._warm(server)
        for name in IMPORTED_BY_CALLS:
            importlib.import_module(f"mempalace.{name}")
        if self._state.supply is not None:
            self._state.supply.begin()  # after all imports: two threads would wait for each other's
        if self._memory is not None:
            self._memory.go_on_adopting()
        self._fingerprint = str(server._config.search_config_fingerprint)  # noqa: SLF001
        return self._catalogue(server)

    def _open_memory(self, server: Server) -> None:
        config = self._config
        backend = backend_of(self._paths.root, config.config_dir, config.environment)
        if backend.name == MILVUS:
            from palace.engine.stores.milvus_open import serve_privately

            serve_privately()
        if not backend.is_journalled:
            self._why_no_journal = f"none, since the backend is {backend.name}"
            logger.warning("there is no journal: %s", self._why_no_journal)
        if config.journal == "off" or self._stamp is None or self._why_no_journal:
            Journal.note_pause(self._paths.journal, self._kernel)
            if backend.is_journalled:
                stores = unopened_stores(self._paths, config, self._kernel)
                if stores.pgvector is not None:
                    from palace.engine.stores.pgvector_seam import fence_off

                    self._lost = fence_off(stores.pgvector)
                self._health = look_at_stores(stores)
            return
        remembered = self._ownership.memory if self._ownership is not None else None
        palace = OwnedPalace(
            paths=self._paths,
            config=config,
            kernel=self._kernel,
            stamp=self._stamp,
            memory=remembered,
            keys=remembered.keys if remembered is not None else None,
            ownership=self._ownership,
        )
        memory = open_durable_calls(
            palace,
            lambda: server._get_client()._server,  # noqa: SLF001
            self._tell,
            context=self._state.current,
        )
        self._health = memory.health
        self._state.at_boundary = memory.groups.at_boundary
        if self._state.writer is not None:
            self._state.writer.durable = memory.groups
        memory.open_store = partial(self._open_store, server)
        self.remember(memory)

    def _open_store(self, server: Server) -> "Memories":
        from palace.engine.hosting.memories import Memories  # with all that finds secrets

        return Memories(server, self._state, self._paths)

    def _tell(self, stage: str, fraction: float) -> None:
        self._loading = f"{stage} ({fraction:.0%})"

    def loading_text(self) -> str:
        return self._loading

    def call(self, call: Call) -> Reply:
        assert self._server is not None, "load() comes first"
        if call.batch is None:
            return self.cleanly(call, self._answer_in_turn)
        with call.batch.member():
            return self._answer_in_turn(call)

    def _answer_in_turn(self, call: Call) -> Reply:
        """Answer a call; one that changes drawers waits for its turn, with its vectors at hand."""
        if call.tool.lane not in CHANGING or call.request.name in self._lock_free:
            return self._answer(call)
        state = self._state
        if call.tool.lane is Lane.LARGE and not call.read_only and state.ahead is not None:
            message = self.to_embed(call)
            if message is not None:
                state.ahead.prepare(message)
        try:
            with state.turns.turn(call.batch, call.party):
                return self._answer(call)
        finally:
            state.current.forget_vectors()

    def _answer(self, call: Call) -> Reply:
        shared = call.tool.kind is Kind.QUERY and not reads_lists(call.request.name)
        memory = self._memory
        trouble = memory.trouble(shared=shared) if memory is not None else self._lost()
        problem: PalaceError | None = reopening(trouble) if trouble else None
        if problem is None:
            problem = self.not_permitted(call) or refusal(self._health, call.request.name)
            problem = problem or self._not_held(call)
        if problem is not None:
            return attrs.evolve(self.refuse(call, problem), reopen=trouble)
        if memory is not None:
            reply = memory.answer(call, lambda: self._dispatch(call))
            lost = call.tool.kind is Kind.QUERY and memory.lost()
            return attrs.evolve(self.refuse(call, reopening(lost)), reopen=lost) if lost else reply
        verdict = unjournalled(call)
        return self._dispatch(call) if verdict is Verdict.RUN else refused(call, verdict)

    def _dispatch(self, call: Call) -> Reply:
        # The broker only passes on what `batch` below returned.
        batch = cast("DrawerBatch | None", call.batch)
        yields = call.tool.lane is Lane.LONG
        self._state.begin_call(
            read_only=call.read_only,
            batch=batch,
            yields=yields,
            party=call.party,
            is_stopping=call.is_stopping,
        )
        try:
            reply = self._handle(call)
        except Exception:
            # Stock's stdio loop answers so for whatever escapes its dispatcher.
            logger.exception("the engine failed")
            ident = jsonrpc.request_id(call.message)
            if ident is None:
                return Reply(payload=None)
            reply = jsonrpc.error(ident, jsonrpc.INTERNAL_ERROR, "Internal error")
        finally:
            problem = self._state.current.problem
            self._state.end_call()
        if reply is None:
            return Reply(payload=None)
        if problem is not None and not (call.tool.kind is Kind.MUTATION and succeeded(reply)):
            # Stock's own words lack the remedy, and it may answer a search without its vectors.
            failure = jsonrpc.failure(jsonrpc.request_id(call.message), problem)
            return Reply(payload=jsonrpc.encode(failure))
        left = self._health.left_of(CHROMA)
        if left is not None and error_code(reply) == _DAMAGED_CODE:
            reply["error"]["message"] += f". {words(left)}"
        return Reply(payload=jsonrpc.encode(reply), outdated=error_code(reply) == _OUTDATED_CODE)

    def _handle(self, call: Call) -> JsonObject | None:
        assert self._server is not None
        state = self._state
        if call.request.name in DELEGATIONS:
            return answer_delegations(self._server, call.request)
        if call.request.name in MESH_TOOLS:
            from palace.engine.hosting.mesh import answer_mesh  # where there are peers alone

            return answer_mesh(self._server, call.request)
        own = self.answer_own(call)
        if own is not None:
            return own
        if call.batch is not None and state.writer is not None:
            return state.writer.answer(call.message)
        is_reader = call.tool.lane in (Lane.READER, Lane.POLL)
        if is_reader and state.prefetch is not None:
            state.prefetch.prepare(call.message)
            if state.current.problem is not None:
                return {}  # which says no more than the problem does
        showing = self.showing(call)
        if showing is not None and call.request.arguments.get("cli_compatible"):
            state.current.screen = showing.marked_row
        with nullcontext() if is_reader else state.lookups.suspended(), self._held(call):
            reply = self._server._http_dispatch(call.message)  # noqa: SLF001
        return reply if showing is None or reply is None else showing.marked(reply)

    def file(self, params: JsonObject) -> JsonObject:
        assert self._server is not None
        message = {"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params}
        with self._state.lookups.suspended():
            reply = self._server._http_dispatch(message)  # noqa: SLF001
        assert reply is not None, "a request is answered"
        return reply

    def _held(self, call: Call) -> AbstractContextManager[None]:
        """Hold a call to what its client was lent."""
        lent = self._state.lent
        return nullcontext() if lent is None else lent.held_to(call.request.beneath)

    def _not_held(self, call: Call) -> Forbidden | None:
        """Say why a call that must be held can't be."""
        if not call.request.beneath or self._state.lent is not None:
            return None
        return Forbidden(
            "Files that others were lent are not read while the adjustment 'lent_files' is off: a "
            "link in them could lead anywhere. Take it out of adjustments_off (palace config)."
        )

    def batch(self, messages: Sequence[JsonObject]) -> DrawerBatch | None:
        return self._state.writer.batch(messages) if self._state.writer is not None else None

    def status(self) -> JsonObject:
        if self._memory is not None:
            return self._memory.status()
        unknown = self._server is None and self._config.journal != "off"
        state = "not open yet" if unknown else self._why_no_journal or "off"
        return {"journal": state, "stores": self._health.as_json()}

    def search_fingerprint(self) -> str:
        return self._fingerprint

    def progress(self) -> int:
        return self._state.progress

    def replaced(self) -> str:
        change = self._change()
        if not change:
            self._succession.nothing_changed()
            return ""
        return change if self._may_hand_over(change) else ""

    def put_back_s(self, party: str) -> float:
        return self._state.turns.put_back_s(party)

    def outlives(self) -> str:
        return self._succession.problem

    def _change(self) -> str:
        """Say which installed version differs from the loaded one."""
        for name in WATCHED:
            stamp = stamp_of(metadata_file(name))
            if stamp == self._stats[name]:
                continue
            version = installed_version(name)
            if version and version != self._versions[name]:
                return f"{name} {self._versions[name]} -> {version}"
            if version:
                self._stats[name] = stamp  # the same version, installed again
        return ""

    def _may_hand_over(self, change: str) -> bool:
        installed = [stamp_of(metadata_file(name)) for name in (*WATCHED, "palace-broker")]
        return self._succession.is_possible(change, installed)

    def _refuses_outdated(self) -> bool:
        """Tell whether stock's refusal to write with a replaced package stands."""
        change = self._change()
        return bool(change) and self._may_hand_over(change)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        elif tables := sys.modules.get(TABLES):  # else it has a right to none
            tables.release_tables(self._paths.root, settled=None)  # nobody looked into a journal
        if self._server is not None:
            self._server._release_mcp_writer_lock()  # noqa: SLF001
            self._server = None

    def _check_store(self) -> None:
        """Refuse a store that is no SQLite database before anything could touch it."""
        try:
            with open_regular(self._paths.store) as file:  # no other process has it open: we own it
                head = file.read(len(_SQLITE_MAGIC))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreUnavailable(
                f"{self._paths.store} can't be read: {error.strerror}."
            ) from None
        if head and head != _SQLITE_MAGIC:
            raise StoreCorrupt(
                f"{self._paths.store} is not a SQLite database any more. Restore it from a backup, "
                "or move it away to begin with an empty palace; nothing was changed."
            )

    def _prepare_model(self) -> None:
        """Say where the model comes from, if it is missing: only calls that embed will wait."""
        if not self._uses_default_model():
            return
        home = Path(home_dir(self._environ))
        forbidden = forbids_downloads(self._environ)

        def fetch(progress: Progress) -> None:
            from palace.engine.embedding.model import Source, install_model  # numpy takes 100 ms

            source = Source.NOWHERE if forbidden else Source.AUTO
            install_model(home, progress=progress, source=source)

        def note(problem: ModelUnavailable) -> None:
            self._state.current.problem = problem

        self._state.supply = ModelSupply(home, fetch, note)

    def model(self) -> ModelState:
        return self._state.supply.state() if self._state.supply is not None else ModelState()

    def _uses_default_model(self) -> bool:
        return configured_embedder(self._config.config_dir, self._environ) == MINILM

    def _set_environment(self) -> None:
        os.environ["MEMPALACE_HUB_FORWARD"] = "0"
        os.environ["MEMPALACE_MCP_IDLE_HOURS"] = "0"
        os.environ["MEMPALACE_CONFIG_DIR"] = self._config.config_dir
        os.environ["MEMPALACE_PALACE_PATH"] = self._paths.root
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        if forbids_downloads(self._environ):
            os.environ.update(OFFLINE)
        # mempalace takes the directories of PYTHONPATH out of sys.path; here it names palace's own.
        for name in ("MEMPALACE_MCP_READ_ONLY", "PYTHONPATH"):
            os.environ.pop(name, None)

    def _take_writer_lock(self, server: Server) -> None:
        ok, reason = server._acquire_mcp_writer_lock()  # noqa: SLF001
        if not ok:
            check_backend_fits(self._paths.root, self._config.config_dir, self._environ)
            raise StoreUnavailable(f"mempalace's own writer lock was refused: {reason}")

    def _is_whole(self, server: Server) -> bool:
        return not server._sqlite_integrity_errors and not self._health.left  # noqa: SLF001

    def _warm(self, server: Server) -> None:
        """Load the index before the first call; a palace without a store stays untouched."""
        if not holds_store(self._paths.root):
            return
        if not self._is_whole(server):  # opening it would change it
            logger.error("a store is damaged and stays closed: calls that need it say so")
            return
        self._loading = "warming up"
        collection = server._get_collection(create=False)  # noqa: SLF001
        if collection is not None:
            return
        problem = server._collection_error_or_no_palace()  # noqa: SLF001
        logger.warning("the palace opened without its drawers: %s", problem)

    def _catalogue(self, server: Server) -> Catalogue:
        entries = [server._tool_catalog_entry(n, t) for n, t in server.TOOLS.items()]  # noqa: SLF001
        return Catalogue(
            engine_version=self._versions["mempalace"],
            protocol_versions=tuple(server.SUPPORTED_PROTOCOL_VERSIONS),
            tools=tuple(entries),
            read_only_refused=frozenset(server._READ_ONLY_REFUSED_TOOLS),  # noqa: SLF001
        )
