"""Requests that mean harm: each is refused or ends alone, and everybody else is served."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.calls.contract import ContractClient
from tests.support.processes.clients import wait_until

pytestmark = pytest.mark.process

NAME = "team:attacked"
MEMORIES = f"/v1/namespaces/{NAME}/memories"
LIMIT = 2 << 20  # bytes of a body
HALVES = 200  # connections that never end their request: more than are served at once


@pytest.fixture
def client(palace_address: str) -> Iterator[ContractClient]:
    with ContractClient(palace_address) as found:
        found.put(NAME)
        yield found
        assert found.health()["status"] == "ok", "it serves on"
        assert found.found(NAME) == []


def dial(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(address)
    return sock


def head(length: str = "", *more: str) -> bytes:
    lines = [f"POST {MEMORIES} HTTP/1.1", "host: x", *more]
    lines += [f"content-length: {length}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode()


def answered(address: str, request: bytes, *, ends: bool = False) -> bytes:
    """Send a request as far as it is taken; return all that comes, to the end."""
    with dial(address) as sock:
        try:
            sock.sendall(request)
            if ends:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before it was sent
        told = b""
        try:
            while data := sock.recv(65_536):
                told += data
        except ConnectionResetError:
            pass
        return told


def status_in(told: bytes) -> int:
    return int(told.split(b" ", 2)[1]) if told else 0


def chunked(*chunks: bytes) -> bytes:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("", "transfer-encoding: chunked") + sent + b"0\r\n\r\n"


def body_of(**more: object) -> bytes:
    return json.dumps({"content": "x", "kind": "fact", "source": "agent"} | more).encode()


TOO_LARGE = {
    "said": head(str(32 << 20)),
    "sent": head(str(32 << 20)) + b" " * (4 << 20),
    "in chunks": chunked(*[b" " * 65_536] * 64),
    "by one byte": head(str(LIMIT + 1)) + b" " * (LIMIT + 1),
}


@pytest.mark.parametrize("how", TOO_LARGE)
def test_a_body_that_is_too_large_is_refused(
    client: ContractClient, palace_address: str, how: str
) -> None:
    told = answered(palace_address, TOO_LARGE[how])

    assert status_in(told) == 413
    assert json.loads(told.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


LIES = {
    "more than was sent": head("1000") + body_of(),
    "a length that is none": head("-5") + body_of(),
    "two lengths": head("5", "content-length: 900") + body_of(),
    "a chunk of another size": head("", "transfer-encoding: chunked") + b"ffff\r\n{}\r\n0\r\n\r\n",
    "a size that is none": head("", "transfer-encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
    "both": head(str(len(body_of())), "transfer-encoding: chunked") + body_of(),
}


@pytest.mark.parametrize("how", LIES)
def test_a_length_that_is_a_lie_stores_nothing(
    client: ContractClient, palace_address: str, how: str
) -> None:
    told = answered(palace_address, LIES[how], ends=True)

    assert status_in(told) in (0, 400)


BODIES = {
    "brackets": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "many values": b"[" + b"0," * 200_000 + b"0]",
    "a long number": b'{"limit": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"content": "\xff"}',
    "UTF-16": body_of().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + body_of(),
    "deep in propagation": body_of(propagation={"a": "x"}).replace(
        b'"x"}', b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
    "propagation without bounds": body_of(propagation={"a": "x" * 100_000}),
    "content without bounds": body_of(content="x" * 100_001),
    "numbers without end": body_of(embedding=[0.5] * 8193),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_none_is_refused(client: ContractClient, what: str) -> None:
    told = client.raw("POST", MEMORIES, BODIES[what])

    assert (told.status, told["code"]) == (400, "bad_request")


def test_requests_that_never_end_keep_nobody_out(
    client: ContractClient, palace_address: str
) -> None:
    halves = [dial(palace_address) for _ in range(HALVES)]
    try:
        for sock in halves:
            try:
                sock.sendall(head("1000")[:20])
            except OSError:
                continue  # it had to make room
        assert client.commit(NAME, "meanwhile").status == 201
        for one in client.search(NAME)["memories"]:
            client.forget(one["id"], NAME)
        wait_until(lambda: sum(map(has_ended, halves)) >= HALVES - 32, what="most make room")
    finally:
        for sock in halves:
            sock.close()


def has_ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
