"""A share that is none: nobody is followed, nothing is unpacked, and no token is given away."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from palace.broker.certificate import keep_door_identity
from palace.client.feeds.https import Door, https_feed
from palace.client.guest.tunnel import TunnelProblem
from palace.kernel.kernel import Kernel
from palace.settings.config import Config

HOST, TOKEN = "127.0.0.1", "5e" * 32
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@attrs.define
class Server:
    """Answers one connection with some bytes, and keeps what it was asked."""

    listener: socket.socket
    context: ssl.SSLContext
    answer: bytes
    stays: threading.Event
    asked: bytes = b""

    def run(self) -> None:
        plain, _ = self.listener.accept()
        try:
            with self.context.wrap_socket(plain, server_side=True) as sock:
                self.asked = sock.recv(65_536)
                sock.sendall(self.answer)
                self.stays.wait(30)
        except OSError:
            plain.close()


@contextmanager
def served(root: Path, answer: bytes, *, stays: bool = False) -> Iterator[tuple[Server, str]]:
    identity, _ = keep_door_identity(Config(graph="", config_dir=""), Kernel(), str(root), HOST)
    over = threading.Event()
    if not stays:
        over.set()
    with socket.create_server((HOST, 0)) as listener:
        server = Server(listener, identity.context, answer, over)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server, f"https://{HOST}:{listener.getsockname()[1]}#{identity.fingerprint}"
        finally:
            over.set()
            thread.join(30)


def read(url: str, silent_s: float = 20.0) -> list[bytes]:
    door = Door(url=url, token=TOKEN)
    return list(https_feed(door, "since=1", line_bytes_max=100, silent_s=silent_s))


def test_lines_come_as_they_are_and_no_proxy_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with served(tmp_path, CHUNKED + b"3\r\na\nb\r\n3\r\n\nc\n\r\n0\r\n\r\n") as (server, url):
        assert read(url) == [b"a", b"b", b"c"]
    assert server.asked.startswith(b"GET /palace/v1/feed?since=1 HTTP/1.1\r\n")
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in server.asked


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: https://x/\r\n\r\n", "isn't followed"),
        (HEAD + b"content-encoding: gzip\r\n\r\n", "is not unpacked"),
        (b"HTTP/1.1 401 No\r\n\r\n", "refuses the token"),
        (b"HTTP/1.1 409 No\r\ncontent-length: 4\r\n\r\nhalf", "status 409: half"),
        (b"HTTP/1.1 503 No\r\n\r\n", "as many to serve as it takes"),
        (CHUNKED + b"5\r\nab", "broke off"),
        (CHUNKED + b"zz\r\n", "broke off"),
        (b"SSH-2.0-x\r\n", "broke off"),
        (HEAD + b"a: b\r\n" * 200, "broke off"),
        (b"", "broke off"),
    ],
)
def test_what_is_no_feed_ends_the_pull(tmp_path: Path, answer: bytes, why: str) -> None:
    with served(tmp_path, answer) as (_, url), pytest.raises(TunnelProblem) as problem:
        read(url)
    assert why in problem.value.text
    assert TOKEN not in problem.value.text


def test_who_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    with (
        served(tmp_path, CHUNKED, stays=True) as (_, url),
        pytest.raises(TunnelProblem, match="said nothing for"),
    ):
        read(url, 0.2)


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    with served(tmp_path, HEAD + b"\r\n" + b"x" * 9000) as (_, url):
        (line,) = read(url)
    assert 100 < len(line) <= 9000


def test_the_token_is_shown_to_whom_it_is_for(tmp_path: Path) -> None:
    for change in (lambda url: f"{url[:-4]}0000", lambda url: url.partition("#")[0]):
        with served(tmp_path, CHUNKED) as (server, url):
            with pytest.raises(TunnelProblem) as problem:
                read(change(url))
        assert problem.value.name == "untrusted"
        assert server.asked == b""
