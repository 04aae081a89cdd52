"""Tasks over HTTP (palace/protocol/tasks.py), where no request belongs to a session.

A call is a session of its own here, and that session's secret is the task's id: its name stands in
the journal, so that the next owner finds the recorded reply of a change by the id alone.
"""

import attrs

from palace.broker.http.sessions import HttpSession, name_of
from palace.broker.state import BrokerState
from palace.protocol import jsonrpc, modern, tasks
from palace.protocol.request import Request
from palace.protocol.tasks import WORKING, Task
from palace.transport.pending import PendingRequest


@attrs.define(eq=False)
class HttpTask:
    """A task, and the call that it stands for, which `workspace` has made ("": the owner)."""

    task: Task
    workspace: str
    http: HttpSession
    pending: PendingRequest


@attrs.define(eq=False, kw_only=True)
class HttpTasks:
    """Those of this owner, oldest first; those that have ended are bounded."""

    state: BrokerState
    _tasks: dict[str, HttpTask] = attrs.field(factory=dict)

    def begin(self, http: HttpSession, pending: PendingRequest, request: Request) -> bytes:
        """Make a call that is under way a task; return the reply that hands it out."""
        http.is_task = True
        task = Task(http.ident, self._now())
        hello = http.session.hello
        workspace = self._workspace_of(hello.token)
        self._tasks[task.ident] = HttpTask(task, workspace, http, pending)
        self._look()
        return jsonrpc.encode(task.created_reply(request.id, self._head()))

    def answer(self, request: Request, token: str) -> bytes:
        """Answer a well-formed request about a task, of whoever shows a token.

        The id alone makes nobody somebody else: there is a task for whom it was made alone.
        """
        self._look()
        workspace, ident = self._workspace_of(token), jsonrpc.params_of(request.message)["taskId"]
        known = self._tasks.get(ident)
        if known is not None:
            task = known.task if known.workspace == workspace else None
        else:
            task = self._of_earlier_owner(ident, workspace)
        if task is None:
            return jsonrpc.encode(modern.no_task(request.message))
        if request.method == "tasks/get":
            return jsonrpc.encode(task.shown_reply(request.id, self._head()))
        if request.method == "tasks/cancel" and known is not None:
            call, ordinal = known.http.session, known.pending.ordinal
            self.state.scheduler.cancel(call, ordinal, unbegun=True)
        return jsonrpc.encode(jsonrpc.result(request.id, self._head()))

    def _look(self) -> None:
        """Take the replies that have come, and forget the oldest tasks."""
        for known in self._tasks.values():
            pending = known.pending
            if known.task.status != WORKING:
                continue
            known.task.note(pending.progress, self._now())
            if pending.answered.is_set():
                known.task.end(self._reply_of(known), self._now())
                pending.payload = b""  # the task has it
        ended = [known.task for known in self._tasks.values() if known.task.status != WORKING]
        for old in tasks.too_many(ended):
            http = self._tasks.pop(old.ident).http
            self.state.services.engine.end_session(http.session.id)

    def _reply_of(self, known: HttpTask) -> bytes:
        problem = known.pending.problem
        if problem is None:
            return known.pending.payload
        return jsonrpc.encode(jsonrpc.failure(None, problem))

    def _workspace_of(self, token: str) -> str:
        """Return the workspace that a token's digest stands for, "" for the palace's owner."""
        tree = self.state.services.engine.workspaces() if token else None
        return tree.tokens.get(token, token) if tree is not None else token

    def _of_earlier_owner(self, ident: str, workspace: str) -> Task | None:
        """Return what the journal knows of a workspace's task whose owner has ended."""
        reply = self.state.services.engine.recorded(name_of(ident), 0, workspace)
        if reply is None:
            return None
        task = Task(ident, self._now())
        catalogue = self.state.services.catalogue
        ident_of_call = jsonrpc.parse(reply).get("id")
        task.end(modern.in_modern_form(reply, ident_of_call, catalogue), self._now())
        return task

    def _head(self) -> dict[str, object]:
        return modern.head_of(self.state.services.catalogue)

    def _now(self) -> str:
        return self.state.services.kernel.utc_text()
