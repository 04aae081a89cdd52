"""Queries, while another program has the right to write: answered from a copy of the stores.

Stock's lock keeps writers apart, and the owner opens no store without it.  But whoever only asks
should not have to wait for hours.  So a process of its own (palace/engine/hosting/reader.py) copies
the stores and answers from the copy, as stock's read-only server would; the palace itself is only
read.  Where the palace has changed since the copy was made, a reply says of when it is; an old copy
is replaced first.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

import attrs

from palace.engine.api import Call, Reply
from palace.engine.hosting.degraded import reads_drawers
from palace.engine.stores.snapshot import Originals
from palace.journal.record import JsonObject
from palace.protocol import jsonrpc
from palace.protocol.decoding import decode_json
from palace.protocol.errors import Forbidden, ForeignWriter, PalaceError, StoreUnavailable
from palace.protocol.principals import UNKNOWN_PRINCIPAL
from palace.settings.stock_config import backend_of

READER = "palace.engine.hosting.reader"
START_S = 180.0  # to copy, to load what stock loads, and to open the copy
ANSWER_S = 120.0
FRESH_S = 10.0  # a younger copy is not replaced by a newer one
FAILED_S = 5.0  # for which a copy that could not be made is not tried again
END_S = 5.0

logger = logging.getLogger("palace.broker")


class _Reader:
    """One such process; any thread may ask it, and they take turns."""

    def __init__(self, originals: Originals, into: str, environ: Mapping[str, str]) -> None:
        paths = originals.paths
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", READER, paths.root, paths.found_by, into],
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what it prints may quote a memory
        )
        self._turn = threading.Lock()
        self._asked = 0
        self.begun_s = originals.kernel.monotonic()  # what it copies is as of then, or later
        self.into = into
        self.first = self._read(START_S)
        self.ready_s = originals.kernel.monotonic()
        if "failed" in self.first:
            self.close()
            raise StoreUnavailable(str(self.first["failed"]))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def is_behind(self, originals: Originals) -> bool:
        """Tell whether the palace is not as it was when it was copied."""
        now = {path: found and list(found) for path, found in originals.stamp().items()}
        return bool(now != self.first["copied"])

    def ask(self, message: JsonObject) -> JsonObject | None:
        """Return stock's reply; raises StoreUnavailable where the process has ended."""
        with self._turn:
            self._asked += 1
            line = json.dumps({"id": self._asked, "message": message}).encode() + b"\n"
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError):
                raise self._ended() from None
            reply: JsonObject | None = self._read(ANSWER_S)["reply"]
            return reply

    def _read(self, within_s: float) -> JsonObject:
        """Return its next line; a process that takes too long is ended."""
        timer = threading.Timer(within_s, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise self._ended()
        found: JsonObject = decode_json(line)
        return found

    def _ended(self) -> StoreUnavailable:
        return StoreUnavailable("the process that reads the copy has ended")

    def close(self) -> None:
        """End it once it has answered what it was asked; blocks."""
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                self._process.stdin.close()
            except OSError:
                pass  # it is dead
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            shutil.rmtree(self.into, ignore_errors=True)


@attrs.define(eq=False, kw_only=True)
class Reading:
    """Answers an owner's queries from copies; `who` returns who has the stores, for errors.

    Any thread may ask.  Nothing is copied before the first question; `close` comes last.
    """

    originals: Originals
    directory: str  # beneath which copies are made, ours alone
    environ: Mapping[str, str]
    who: Callable[[], str]
    _reader: _Reader | None = None
    _failure: PalaceError | None = None
    _failed_s: float = 0.0
    _copies: int = 0
    _since: str = ""
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def begin(self) -> None:
        """Note since when queries are answered from copies."""
        self._since = self.originals.kernel.utc_text()

    def report(self) -> JsonObject:
        """Return what `palace status` says of the copy that answers; waits for no lock."""
        reader, failure, kernel = self._reader, self._failure, self.originals.kernel
        return {
            "since": self._since,
            "of": str(reader.first["at"]) if reader is not None else "",
            "age_s": round(kernel.monotonic() - reader.begun_s, 3) if reader is not None else None,
            "behind": reader is not None and reader.is_behind(self.originals),
            "lacks": str(reader.first["lacks"]) if reader is not None else "",
            "problem": str(failure) if failure is not None else "",
        }

    def answer(self, call: Call) -> Reply:
        """Answer a query as stock does, and say what may be missing in the reply.  Blocks."""
        if call.principal is None:
            refused = jsonrpc.failure(call.request.id, Forbidden(UNKNOWN_PRINCIPAL))
            return Reply(payload=jsonrpc.encode(refused))
        try:
            self._check_copied(call.request.name)
            reader, behind = self._current()
            reply = reader.ask(call.message)
        except (PalaceError, OSError) as error:
            text = f"{self.who()} Its memories can't be read meanwhile either: {error}."
            reply = jsonrpc.failure(call.request.id, ForeignWriter(text))
            return Reply(payload=jsonrpc.encode(reply))
        if reply is None:
            return Reply(payload=None)
        note = _note(reader.first, behind=behind)
        return Reply(payload=jsonrpc.encode(_with_note(reply, note) if note else reply))

    def _check_copied(self, tool: str) -> None:
        """Raise StoreUnavailable for a tool whose answer stands in no file."""
        config = self.originals.config
        root = self.originals.paths.root
        backend = backend_of(root, config.config_dir, config.environment)
        if reads_drawers(tool) and not backend.is_file:
            why = f"{backend.name} keeps its drawers elsewhere"
            if backend.is_milvus_lite:
                why = "none is made of what milvus-lite keeps"
            raise StoreUnavailable(f"queries are answered from a copy of its files, and {why}")

    def close(self) -> None:
        """End the reader, and remove its copy.  Blocks."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            shutil.rmtree(self.directory, ignore_errors=True)

    def _current(self) -> tuple[_Reader, bool]:
        """Return who can answer, and whether the palace has changed since; all share one wait."""
        with self._lock:
            reader = self._reader if self._reader is not None and self._reader.alive else None
            if reader is not None and not reader.is_behind(self.originals):
                return reader, False
            now_s = self.originals.kernel.monotonic()
            if reader is not None and now_s - reader.ready_s < FRESH_S:
                return reader, True
            try:
                self._replace(now_s)
            except (PalaceError, OSError):
                if reader is None:
                    raise
                return reader, True
            assert self._reader is not None
            return self._reader, self._reader.is_behind(self.originals)

    def _replace(self, now_s: float) -> None:
        if self._failure is not None and now_s - self._failed_s < FAILED_S:
            raise self._failure
        self._copies += 1
        os.makedirs(self.directory, 0o700, exist_ok=True)
        try:
            reader = _Reader(self.originals, f"{self.directory}/{self._copies}", self.environ)
        except PalaceError as error:
            self._failure, self._failed_s = error, self.originals.kernel.monotonic()
            logger.warning("the palace can't be read beside its writer: %s", error)
            raise
        old, self._reader, self._failure = self._reader, reader, None
        logger.info("queries are answered from a copy of %s", reader.first["at"])
        if old is not None:
            old.close()


def _note(first: JsonObject, *, behind: bool) -> str:
    """Say what a reply may lack, "" for nothing."""
    notes = []
    if behind:
        notes.append(
            f"As of {first['at']}: another program writes to this palace just now, and what it has "
            "written since then is not in this reply."
        )
    if first["lacks"]:
        notes.append(
            "This reply may lack memories. Another program has the palace, and palace reads it "
            f"without being able to check it: {first['lacks']}."
        )
    return " ".join(notes)


def _with_note(reply: JsonObject, note: str) -> JsonObject:
    """Say it where stock's shape has room: after a result's own text, or in an error's."""
    result, error = reply.get("result"), reply.get("error")
    if isinstance(result, dict) and isinstance(result.get("content"), list):
        result["content"].append({"type": "text", "text": note})
    elif isinstance(error, dict):
        error["message"] = f"{error.get('message', '')}. {note}"
    return reply
