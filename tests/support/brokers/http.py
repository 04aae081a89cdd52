"""An HTTP client that can be as odd as a test needs; h11 reads what comes back."""

import json
from pathlib import Path
from typing import Any, Self

import attrs
import h11
import trio

ACCEPT = "application/json, text/event-stream"  # what MCP hosts say


@attrs.define(eq=False)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Return the messages of an event stream."""
        lines = self.body.decode().split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def serverinfo_of(home: Path) -> Path:
    """Return the one serverinfo.json below a home, which may not be there."""
    found = list((home / ".mempalace" / "server").glob("*/serverinfo.json"))
    assert len(found) <= 1, found
    return found[0] if found else home / "none"


class Caller:
    """One connection to a broker's HTTP port, with the token that lies beside serverinfo.json."""

    def __init__(self, stream: trio.SocketStream, port: int, token: str) -> None:
        self.stream = stream
        self._connection = h11.Connection(h11.CLIENT)
        self._headers = {"host": f"127.0.0.1:{port}", "authorization": f"Bearer {token}"}

    @classmethod
    async def open(cls, home: Path) -> Self:
        info = serverinfo_of(home)
        port = json.loads(info.read_text())["port"]
        token = (info.parent / "token").read_text().strip()
        return cls(await trio.open_tcp_stream("127.0.0.1", port), port, token)

    async def begin(
        self, method: str, path: str, *, body: bytes | None = None, **headers: str
    ) -> None:
        """Send a request; `headers` have underscores, and an empty one is left out."""
        named = self._headers | {name.replace("_", "-"): text for name, text in headers.items()}
        if body is not None:
            named.setdefault("content-length", str(len(body)))
        pairs = [(name.encode(), text.encode("latin-1")) for name, text in named.items() if text]
        data = self._connection.send(h11.Request(method=method, target=path, headers=pairs))
        await self.stream.send_all(data or b"")
        if body is not None:
            await self.stream.send_all(self._connection.send(h11.Data(data=body)) or b"")
        if body is None or named["content-length"] == str(len(body)):
            await self.stream.send_all(self._connection.send(h11.EndOfMessage()) or b"")

    async def answer(self) -> Answer:
        """Return the next answer, whole."""
        response = await self._event()
        while isinstance(response, h11.InformationalResponse):
            response = await self._event()
        assert isinstance(response, h11.Response), response
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        if self._connection.our_state is self._connection.their_state is h11.DONE:
            self._connection.start_next_cycle()
        headers = {name.decode(): text.decode() for name, text in response.headers}
        return Answer(response.status_code, headers, body)

    async def _event(self) -> Any:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self.stream.receive_some())
        return event

    async def ask(
        self, method: str, path: str, *, body: bytes | None = None, **headers: str
    ) -> Answer:
        await self.begin(method, path, body=body, **headers)
        return await self.answer()

    async def post(self, message: Any, **headers: str) -> Answer:
        return await self.ask("POST", "/mcp", body=json.dumps(message).encode(), **headers)

    async def read_until(self, mark: bytes, data: bytes = b"") -> bytes:
        """Return what has come, `data` before it, as soon as `mark` is in it."""
        while mark not in data:
            data += await self.stream.receive_some()
        return data

    async def ended(self) -> bool:
        """Tell whether the broker hangs up, once it does."""
        try:
            return await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True

    async def aclose(self) -> None:
        await self.stream.aclose()


def request(method: str, ident: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def call(tool: str, ident: Any = 1, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", ident, name=f"mempalace_{tool}", arguments=arguments)
