"""A client of the memory contract that holds each answer against the document."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, Self

import attrs
from jsonschema import Draft202012Validator

from tests.contract.reading import document, inlined

DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]
ERROR = Draft202012Validator(inlined(SCHEMAS["Error"], SCHEMAS))
PATHS = {
    "health": ("/v1/health", {"get": 200}),
    "namespaces": ("/v1/namespaces/{name}", {"put": 200, "patch": 200, "delete": 204}),
    "memories": ("/v1/namespaces/{name}/memories", {"post": 201}),
    "search": ("/v1/search", {"post": 200}),
    "forget": ("/v1/memories/{id}", {"delete": 204}),
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


@attrs.frozen
class Told:
    """An answer: `body` is None where there is none."""

    status: int
    body: Any
    headers: dict[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


@attrs.define(eq=False)
class ContractClient:
    """Asks a server at `address`: the path of a socket, or HOST:PORT.  One connection; close it."""

    address: str
    headers: dict[str, str] = attrs.field(factory=dict)
    _connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """Ask for anything below /v1; a refusal that isn't the contract's fails the test."""
        told = self._ask(method, path, body, headers or {})
        found = Told(told.status, json.loads(told.body) if told.body else None, told.headers)
        if found.status >= 400:
            ERROR.validate(found.body)
        return found

    def raw_status(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask for anything at all; return the status, and the body as it came."""
        told = self._ask(method, path, body, {})
        return told.status, told.body

    def _ask(self, method: str, path: str, body: bytes | None, more: Mapping[str, str]) -> Told:
        if self._connection is None:
            is_path = self.address.startswith("/")
            self._connection = (
                _UnixConnection(self.address)
                if is_path
                else http.client.HTTPConnection(self.address, timeout=60)
            )
        headers = {"content-type": "application/json"} | self.headers | dict(more)
        try:
            try:
                self._connection.request(method, path, body=body, headers=headers)
            except BrokenPipeError:  # it was answered before all of it was sent
                pass
            answer = self._connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if answer.will_close:
            self.close()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Told(answer.status, raw, named)

    def ask(self, method: str, path: str, body: Any = None) -> Told:
        """Ask for an operation; an answer that is none of the document's fails the test."""
        raw = None if body is None else json.dumps(body).encode()
        told = self.raw(method, path, raw)
        if told.status < 400:
            _check(method, path, told)
        return told

    # Operations.

    def health(self) -> Told:
        return self.ask("GET", "/v1/health")

    def put(self, name: str, **more: Any) -> Told:
        body = {"kind": name.partition(":")[0]} | more
        return self.ask("PUT", f"/v1/namespaces/{name}", body)

    def patch(self, name: str, **more: Any) -> Told:
        return self.ask("PATCH", f"/v1/namespaces/{name}", more)

    def drop(self, name: str) -> Told:
        return self.ask("DELETE", f"/v1/namespaces/{name}")

    def commit(self, name: str, content: str, **more: Any) -> Told:
        body = {"content": content, "kind": "fact", "source": "agent"} | more
        return self.ask("POST", f"/v1/namespaces/{name}/memories", body)

    def search(self, *names: str, **more: Any) -> Told:
        return self.ask("POST", "/v1/search", {"namespaces": list(names)} | more)

    def found(self, *names: str, **more: Any) -> list[str]:
        """Return the contents that a search finds, in order."""
        told = self.search(*names, **more)
        assert told.status == 200, told
        return [one["content"] for one in told["memories"]]

    def forget(self, ident: str, name: str) -> Told:
        return self.ask("DELETE", f"/v1/memories/{ident}", {"requested_by_namespace": name})


def _check(method: str, path: str, told: Told) -> None:
    """Fail where an answer isn't what the document says of its operation."""
    parts = path.split("/")[2:]
    key = parts[0] if parts[0] in ("health", "search") else "forget"
    if parts[0] == "namespaces":
        key = "memories" if len(parts) == 3 else "namespaces"
    template, statuses = PATHS[key]
    status = statuses[method.lower()]
    assert told.status == status, told
    said = DOCUMENT["paths"][template][method.lower()]["responses"][str(status)]
    if "content" not in said:
        assert told.body is None, told
        return
    schema = said["content"]["application/json"]["schema"]
    assert told.headers["content-type"] == "application/json"
    Draft202012Validator(inlined(schema, SCHEMAS)).validate(told.body)
