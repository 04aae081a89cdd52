"""One bounded GET, from peers that behave and from such that don't."""

import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from palace.protocol.mesh import Target, target_of
from palace.transport.fetch import FetchFailed, TooMuch, _context, fetch

Answer = Callable[[trio.SocketStream], Awaitable[None]]
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def peer(answer: Answer, heard: list[bytes] | None = None) -> AsyncIterator[Target]:
    """Serve on loopback until the block ends; each connection is answered by `answer`."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            data = bytes(await stream.receive_some())
            if heard is not None:
                heard.append(data)
            try:
                await answer(stream)
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield target_of(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/x/")
        nursery.cancel_scope.cancel()


def says(data: bytes) -> Answer:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return answer


async def get(target: Target, *, bytes_max: int = 1000, timeout_s: float = 20) -> tuple[int, bytes]:
    return await fetch(target, "/x/y?z=1", token="t", timeout_s=timeout_s, bytes_max=bytes_max)


async def test_it_asks_once_and_shows_its_token() -> None:
    heard: list[bytes] = []
    async with peer(says(SHORT), heard) as target:
        assert await get(target) == (200, b"{}")
    [head] = heard
    lines = head.decode().split("\r\n")

    assert lines[0] == "GET /x/y?z=1 HTTP/1.1"
    assert "Authorization: Bearer t" in lines
    assert "Connection: close" in lines


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with peer(says(moved)) as target:
        assert await get(target) == (302, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        b"1\r\ny\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1001,
    ],
)
async def test_an_answer_that_is_too_long_is_cut_off(data: bytes) -> None:
    async with peer(says(data)) as target:
        with pytest.raises(TooMuch):
            await get(target)


async def test_a_peer_that_never_ends_is_given_up() -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.02)

    async with peer(drip) as target:
        with pytest.raises(FetchFailed, match=r"did not answer within 0\.3 s"):
            await get(target, timeout_s=0.3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-x\r\n\r\n", "doesn't speak HTTP"),
        (b"", "HTTP/1.1|hung up"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "HTTP/1.1|hung up"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "HTTP/1.1"),
    ],
)
async def test_what_is_no_whole_answer_is_none(data: bytes, why: str) -> None:
    async with peer(says(data)) as target:
        with pytest.raises(FetchFailed, match=why):
            await get(target)


async def test_nobody_listens_there() -> None:
    async with peer(says(b"")) as target:
        pass
    with pytest.raises(FetchFailed, match="can't be reached"):
        await get(target)


@pytest.mark.parametrize(("host", "token"), [("a" * 64, "t"), ("127.0.0.1", "\u00e9")])
async def test_what_cant_be_sent_is_a_failure_like_any_other(host: str, token: str) -> None:
    async with peer(says(SHORT)) as target:
        odd = attrs.evolve(target, host=host)
        with pytest.raises(FetchFailed, match=r"can't be asked \(Unicode"):
            await fetch(odd, "/x", token=token, timeout_s=20, bytes_max=1000)


async def test_who_is_trusted_is_read_once_and_off_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And once more where somebody isn't: it takes 20 ms, which all clients would wait for."""
    made = ssl.create_default_context
    threads: list[bool] = []

    def counted() -> ssl.SSLContext:
        threads.append(threading.current_thread() is threading.main_thread())
        return made()

    monkeypatch.setattr(ssl, "create_default_context", counted)
    _context.cache_clear()
    async with peer(says(b"no TLS here\r\n")) as target:
        secure = target_of(f"https://127.0.0.1:{target.port}")
        for _ in range(3):
            with pytest.raises(FetchFailed):
                await get(secure)
    assert threads == [False]


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with peer(says(SHORT)) as target:
        assert await get(target) == (200, b"{}")


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    async def hello(stream: trio.SocketStream) -> None:
        await stream.send_all(b"no TLS here\r\n")

    async with peer(hello) as target:
        secure = target_of(f"https://127.0.0.1:{target.port}")
        with pytest.raises(FetchFailed, match="can't be reached"):
            await get(secure)
