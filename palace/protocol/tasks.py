"""Tasks (`io.modelcontextprotocol/tasks`): a call that takes long is answered with a handle.

Which calls take long is measured and not guessed: one that has no reply after `AFTER_S` becomes a
task, whether it mines, deletes, or waits for a palace that is being opened; whoever was answered
before that never hears of tasks.  Only clients that declare the extension on that very request
are given one.  `tasks/get` then says how it comes on, and at last what the call would have said.

Source: the extension's specification (github.com/modelcontextprotocol/ext-tasks,
specification/draft/tasks, of 2026-08-21).

Rule for this file: pure, and free of attrs: the shim imports it once a client declares tasks.
"""

from palace.protocol import jsonrpc, modern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AFTER_S = 2.0
TTL_MS = 86_400_000  # from its creation; whoever asks later may find nothing
POLL_MS = 2000
ENDED_MAX = 64  # that one process keeps; the oldest go first
ENDED_BYTES_MAX = 8 << 20  # of their replies together; the newest is kept, whatever its size

WORKING, COMPLETED, FAILED, CANCELLED = "working", "completed", "failed", "cancelled"


class Task:
    """One call that its client polls for.  `reply` is encoded, b"" until there is one.

    `created` and `updated` are times in ISO 8601.  `text` says how it comes on, or what became of
    it.
    """

    __slots__ = ("created", "ident", "reply", "status", "text", "updated")

    def __init__(self, ident: str, now: str, text: str = "") -> None:
        self.ident = ident
        self.created = self.updated = now
        self.status = WORKING
        self.text = text
        self.reply = b""

    def note(self, text: str, now: str) -> None:
        """Take what is known of how it comes on."""
        if self.status == WORKING and text != self.text:
            self.text, self.updated = text, now

    def end(self, reply: bytes, now: str) -> None:
        """Take the call's reply; without one it was cancelled.  The first end counts."""
        if self.status != WORKING:
            return
        self.reply, self.updated, self.text = reply, now, ""
        if not reply:
            self.status, self.text = CANCELLED, "The call was cancelled, and was not carried out."
        elif isinstance(error := jsonrpc.parse(reply).get("error"), dict):
            self.status, self.text = FAILED, str(error.get("message", ""))[:1000]
        else:
            self.status = COMPLETED

    def created_reply(self, ident: object, head: "dict[str, Any]") -> "dict[str, Any]":
        """Return the reply that hands it out, to the request `ident`."""
        return jsonrpc.result(ident, {**head, **self._seen(), "resultType": "task"})

    def shown_reply(self, ident: object, head: "dict[str, Any]") -> "dict[str, Any]":
        """Return the reply to `tasks/get`: its state, with the end in it once there is one."""
        told = {**head, **self._seen()}
        if self.reply:
            reply = jsonrpc.parse(self.reply)
            key = "result" if self.status == COMPLETED else "error"
            told[key] = reply.get(key)
        return jsonrpc.result(ident, told)

    def _seen(self) -> "dict[str, Any]":
        seen: dict[str, Any] = {"taskId": self.ident, "status": self.status}
        if self.text:
            seen["statusMessage"] = self.text
        return seen | {
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_MS,
        }


def too_many(ended: "list[Task]") -> "list[Task]":
    """Return those to forget of the tasks that have ended, which are given oldest first."""
    size, kept = 0, 0
    for task in reversed(ended):
        size += len(task.reply)
        if kept == ENDED_MAX or (kept and size > ENDED_BYTES_MAX):
            break
        kept += 1
    return ended[: len(ended) - kept]


def cancelled_line(call_id: object) -> bytes:
    """Return the notification that asks a broker not to begin a call, where it has not yet."""
    params = {"requestId": call_id, "_meta": {UNBEGUN: True}}
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    return jsonrpc.encode(notification)


UNBEGUN = "palace/unbegun"


def spares_what_began(message: object) -> bool:
    """Tell whether a cancellation is for a call that has not begun alone.

    A change that has begun is carried out, and its task says how it ended.
    """
    return modern.meta_of(message).get(UNBEGUN) is True
