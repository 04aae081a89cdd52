"""One GET of another machine's, bounded in every way.

No redirect is followed, no proxy is asked, nothing is unpacked: an answer comes from the address
that was named, whole and within the time, or is an error.
"""

import ssl
from functools import cache

import h11
import trio

from palace.protocol.mesh import Target

RECEIVE_BYTES = 65_536
CONNECT_S = 10.0


class FetchFailed(Exception):
    """No answer that can be used; its text quotes nothing of what came."""


class TooMuch(FetchFailed):
    """The answer is longer than it may be."""


async def fetch(
    target: Target, path: str, *, token: str, timeout_s: float, bytes_max: int
) -> tuple[int, bytes]:
    """Return the status and the body of an answer; raises FetchFailed.

    `token` is shown as a bearer's, "" shows none.
    """
    with trio.move_on_after(timeout_s):
        try:
            stream = await _connect(target)
            try:
                return await _ask(stream, target, path, token, bytes_max)
            finally:
                await trio.aclose_forcefully(stream)
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            raise FetchFailed(_words(error)) from None
        except h11.ProtocolError:
            raise FetchFailed("it doesn't speak HTTP/1.1") from None
        except ValueError as error:  # whose words may quote what was to be sent
            raise FetchFailed(f"it can't be asked ({type(error).__name__})") from None
    raise FetchFailed(f"it did not answer within {timeout_s:g} s")


@cache
def _context() -> ssl.SSLContext:
    """Return what all connections are made with: it takes 20 ms to read who is trusted."""
    return ssl.create_default_context()


async def _connect(target: Target) -> trio.abc.Stream:
    with trio.move_on_after(CONNECT_S):
        stream = await trio.open_tcp_stream(target.host, target.port)
        if not target.secure:
            return stream
        # Its handshake comes with the first bytes that are sent.
        context, name = await trio.to_thread.run_sync(_context), target.host
        return trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    raise FetchFailed(f"it can't be reached within {CONNECT_S:g} s")


async def _ask(
    stream: trio.abc.Stream, target: Target, path: str, token: str, bytes_max: int
) -> tuple[int, bytes]:
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", target.authority), ("Accept", "application/json"), ("Connection", "close")]
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    request = h11.Request(method="GET", target=path, headers=headers)
    ending = h11.EndOfMessage()
    await stream.send_all((connection.send(request) or b"") + (connection.send(ending) or b""))
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > bytes_max:
                raise TooMuch(f"its answer has more than {bytes_max >> 20} MiB")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise FetchFailed("it hung up in the middle of its answer")


def _words(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        _context.cache_clear()  # another one may be trusted by now
        return f"its certificate is not trusted here: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"it can't be reached: {cause.strerror}"
    return f"it can't be reached ({type(cause).__name__})"
