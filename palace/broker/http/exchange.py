"""One HTTP request and its answer: bounded bodies, JSON or an event stream, nothing of the palace.

A refusal is raised as `Refused` by whatever notices it, and answered in one place.
"""

import json
from collections import Counter

import trio

from palace.protocol import wire
from palace.transport.http import HttpConnection, Receive, Scope, Send

BODY_S = 60.0  # for a client to send its body
JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain; charset=utf-8"


class Refused(Exception):
    """What is wrong with a request; `text` says what to do."""

    code = -32600
    data: object = None

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


class Gone(Exception):
    """The client has hung up."""


class Exchange:
    """A request; `answers` counts statuses.  Header names are lower case."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, answers: Counter[int]) -> None:
        self.method = str(scope["method"])
        self.path = str(scope["path"])
        # A server need not say it; then a slash that is written as %2F is one.
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope.get("query_string", b"")
        self.connection: HttpConnection = scope["state"]["connection"]
        self.headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self.ident: object = None  # of its message, once that has been read
        self.token = ""  # the digest of the workspace's that it shows; "" for the palace's own
        self._counts = Counter(name.decode("latin-1").lower() for name, _ in scope["headers"])
        self._receive = receive
        self._send = send
        self._answers = answers

    def count(self, name: str) -> int:
        """Return how often a header stands in the request."""
        return self._counts[name]

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def accepts(self, kind: str) -> bool:
        """Tell whether the client takes an answer of a kind; one that names none takes all."""
        wanted = [part.partition(";")[0].strip() for part in self.header("accept").split(",")]
        return wanted == [""] or bool({kind, f"{kind.partition('/')[0]}/*", "*/*"} & set(wanted))

    async def body(self, bytes_max: int, setting: str = "") -> bytes:
        """Return the whole body; raises Refused for one too long or too slow, and Gone.

        `setting` is what sets the bound, "" where nothing does.
        """
        declared = self.header("content-length")
        try:
            wire.whole_number(declared or "0", most=bytes_max)
        except ValueError:  # h11 has seen to it that it is a number
            raise _too_large(bytes_max, setting) from None
        body = bytearray()
        with trio.move_on_after(BODY_S):
            while True:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    raise Gone
                body += event.get("body", b"")
                self.connection.held_bytes = len(body)
                if len(body) > bytes_max:
                    raise _too_large(bytes_max, setting)
                if not event.get("more_body", False):
                    return bytes(body)
        raise Refused(408, f"The request's body did not come within {BODY_S:.0f} s.")

    async def hung_up(self) -> None:
        """Return when the client has hung up; call it after `body`."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def answer(
        self, status: int, body: bytes = b"", kind: str = JSON, **headers: str
    ) -> None:
        """Send a whole answer; `headers` are named with underscores."""
        if body:
            headers["content_type"] = kind
        if status != 204:  # which has no body, and so no length either
            headers["content_length"] = str(len(body))
        if status >= 400 or not self.connection.admitted:
            headers["connection"] = "close"  # its body may not have been read
        await self._start(status, headers)
        self.connection.held_bytes = len(body)
        await self._send({"type": "http.response.body", "body": body})
        self.connection.held_bytes = 0

    async def start_events(self, **headers: str) -> None:
        """Begin a stream of events."""
        await self.start_stream(EVENTS, cache_control="no-cache", **headers)

    async def start_stream(self, kind: str, **headers: str) -> None:
        """Begin an answer that comes in pieces (`frame`), and ends with `last_event`."""
        await self._start(200, headers | {"content_type": kind})

    async def beat(self) -> None:
        """Send what clients pass over, so that a long call is not taken for a dead one."""
        await self._send_more(b": under way\n\n", more=True)

    async def event(self, payload: bytes) -> None:
        """Send one message; more follow."""
        await self._send_more(_event(payload), more=True)

    async def frame(self, frame: bytes) -> None:
        """Send an event as it stands; more follow."""
        await self._send_more(frame, more=True)

    async def last_event(self, payload: bytes) -> None:
        """Send one message and end the stream; none where `payload` is empty."""
        await self._send_more(_event(payload) if payload else b"", more=False)

    async def refuse(self, refused: Refused) -> None:
        error = {"code": refused.code, "message": refused.text}
        if refused.data is not None:
            error["data"] = refused.data
        body = json.dumps({"jsonrpc": "2.0", "id": self.ident, "error": error}).encode()
        await self.answer(refused.status, body, **refused.headers)

    async def _send_more(self, body: bytes, *, more: bool) -> None:
        self.connection.held_bytes = len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self._answers[status] += 1
        pairs = [
            (name.replace("_", "-").encode("ascii"), value.encode("latin-1"))
            for name, value in headers.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


def _event(payload: bytes) -> bytes:
    return b"event: message\ndata: " + payload + b"\n\n"


def _too_large(bytes_max: int, setting: str) -> Refused:
    where = f" ({setting} in palace.toml)" if setting else ""
    return Refused(413, f"A request has at most {bytes_max} bytes{where}.")
