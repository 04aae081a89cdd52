"""Tasks at the shim (palace/protocol/tasks.py): a call that takes long is answered with a handle.

The call's line stays in the ledger as it was: it goes to the next broker after a death, with what
may have run, and the journal's reply becomes the task's.  So a task outlives every broker, and
lasts as long as its session: the shim that has told its client of it.

Rule for this file: light, since every shim imports it; JSON is read only where tasks are declared.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from palace.protocol.ledger import Ledger
    from palace.protocol.tasks import Task
    from palace.settings.site import Site
    from palace.shim.progress import ProgressNotes

DECLARES = b"modelcontextprotocol"  # and tasks, in whatever way the slash between is written
NAME = b"tasks"
ABOUT = (b"tasks/", b"tasks\\/")  # in a method's name; the extension's own ends with "tasks"
AFTER_S = 2.0  # as palace/protocol/tasks.py has it
ANSWERED_BYTES_MAX = 65_536  # a longer line is no question about a task
WATCHED_MAX = 64  # before those that were answered are forgotten


class Tasks:
    """The calls of one session that may become tasks, and those that have.

    `send` takes a line of our own to the broker, as if the client had written it.
    """

    __slots__ = (
        *("_by_ordinal", "_due_s", "_ids", "_kernel", "_ledger", "_paths", "_progress"),
        "_send",
    )

    def __init__(
        self,
        site: "Site",
        ledger: "Ledger",
        progress: "ProgressNotes",
        send: "Callable[[bytes], None]",
    ) -> None:
        self._kernel = site.kernel
        self._paths = site.paths
        self._ledger = ledger
        self._progress = progress  # which a task's client is not told
        self._send = send
        self._due_s: dict[int, float] = {}  # when a call that may become one does, by ordinal
        self._by_ordinal: dict[int, Task] = {}  # oldest first; those that have ended, too
        self._ids: dict[int, object] = {}  # of the calls that are not answered yet

    def watch(self, ordinal: int, line: bytes) -> None:
        """Remember a line that may become a task."""
        if DECLARES not in line or NAME not in line:
            return
        if len(self._due_s) >= WATCHED_MAX:
            self._due_s = {o: s for o, s in self._due_s.items() if self._ledger.line(o)}
        self._due_s[ordinal] = self._kernel.monotonic() + AFTER_S

    def timeout_ms(self, timeout_ms: "float | None") -> "float | None":
        """Return how long to wait, if not for `timeout_ms`; None for ever."""
        if not self._due_s:
            return timeout_ms
        left_ms = max(0.0, min(self._due_s.values()) - self._kernel.monotonic()) * 1000 + 1
        return left_ms if timeout_ms is None else min(timeout_ms, left_ms)

    def begin_due(self) -> bytes:
        """Return the lines that hand out the tasks which are due; b"" for none."""
        if not self._due_s:
            return b""
        now_s = self._kernel.monotonic()
        due = [ordinal for ordinal, due_s in self._due_s.items() if due_s <= now_s]
        return b"".join([self._begin(ordinal) for ordinal in due])

    def _begin(self, ordinal: int) -> bytes:
        del self._due_s[ordinal]
        line = self._ledger.line(ordinal)
        if not line:  # it was answered meanwhile
            return b""
        from palace.protocol import jsonrpc, modern, tasks
        from palace.shim import local_answers

        message = local_answers.parsed(line)
        if not local_answers.needs_engine(message) or not modern.declares_tasks(message):
            return b""
        task = tasks.Task(self._kernel.token(), self._kernel.utc_text())
        self._progress.forget(ordinal)
        self._by_ordinal[ordinal] = task
        self._ids[ordinal] = jsonrpc.request_id(message)
        return local_answers.task_line(
            task, self._ids[ordinal], self._kernel, self._paths, is_new=True
        )

    def note(self, ordinal: int, text: str) -> bool:
        """Take how a call comes on; False where it is no task."""
        task = self._by_ordinal.get(ordinal)
        if task is None:
            return False
        task.note(text, self._kernel.utc_text())
        return True

    def kept(self, ordinal: int, reply: bytes) -> bytes:
        """Return a reply that its client waits for; that of a task is kept, and b"" returned."""
        task = self._by_ordinal.get(ordinal) if self._by_ordinal else None
        if task is None:
            return reply
        self._end(ordinal, task, reply)
        return b""

    def _end(self, ordinal: int, task: "Task", reply: bytes) -> None:
        from palace.protocol.tasks import WORKING, too_many

        task.end(reply, self._kernel.utc_text())
        self._ids.pop(ordinal, None)
        ended = {t.ident: o for o, t in self._by_ordinal.items() if t.status != WORKING}
        for old in too_many([self._by_ordinal[o] for o in ended.values()]):
            del self._by_ordinal[ended[old.ident]]

    def answer(self, line: bytes) -> bytes:
        """Return the reply to a request about a task; b"" for any other line."""
        if len(line) > ANSWERED_BYTES_MAX or DECLARES not in line:
            return b""
        if not any(name in line for name in ABOUT):
            return b""
        from palace.protocol import modern
        from palace.shim import local_answers

        message = local_answers.parsed(line)
        if not modern.names_task(message) or not modern.is_well_formed(message):
            return b""
        if modern.task_problem(message) is not None:
            return b""  # which says so wherever it is answered
        found = self._find(message)
        if found is None:
            return b""
        ordinal, task = found
        if task.status == "working" and not self._ledger.line(ordinal):
            self._end(ordinal, task, b"")  # cancelled, without a word from anybody
        return self._told(message, ordinal, task)

    def _find(self, message: object) -> "tuple[int, Task] | None":
        from palace.protocol import jsonrpc

        ident = jsonrpc.params_of(message)["taskId"]
        return next((pair for pair in self._by_ordinal.items() if pair[1].ident == ident), None)

    def _told(self, message: object, ordinal: int, task: "Task") -> bytes:
        from palace.protocol import jsonrpc, tasks
        from palace.shim import local_answers

        method = jsonrpc.method_of(message)
        if method == "tasks/cancel" and ordinal in self._ids:
            self._send(tasks.cancelled_line(self._ids[ordinal]))
        asked = None if method != "tasks/get" else task
        ident = jsonrpc.request_id(message)
        return local_answers.task_line(asked, ident, self._kernel, self._paths)
