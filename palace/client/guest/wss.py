"""A tunnel over a TLS websocket, to a broker that listens for guests.

The broker is known by its certificate's fingerprint, which stands in its record beside the token:
whoever can read the palace can reach its owner, and no other process can pretend to be it.  Where
no fingerprint is known (a broker named by hand) the system's authorities vouch for the certificate.

The thread speaks wsproto over a socket that never blocks; the relay sees a plain socket.
"""

import socket
import ssl
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection, events
from wsproto.utilities import ProtocolError

from palace.client.guest.tls import CONNECT_S, Peer, Words, open_tls
from palace.client.guest.tunnel import READ_BYTES, TokenRefused, TunnelProblem, carry
from palace.protocol.wire import WEBSOCKET_PATH

PORT = 7253
END = "end"
_WRONG_TOKEN = (401, 429)  # the latter after many wrong ones: the right one is never counted
WORDS = Words(
    "Name the palace by a mount that shows its record, or give the broker a certificate that this "
    "machine trusts",
    "is not the broker of this palace",
    "the record says",
)


class WebSocketEnd:
    """The remote end of a tunnel: a websocket whose handshakes are done."""

    def __init__(self, sock: ssl.SSLSocket, connection: WSConnection, first: bytes) -> None:
        self._sock = sock
        self._connection = connection
        self._received = first
        self._outbox = bytearray()
        self._ended = False
        sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def wants_write(self) -> bool:
        return bool(self._outbox)

    def receive(self) -> bytes | None:
        self._flush()
        while not self._received:
            if self._ended:
                return b""
            try:
                self._take(self._sock.recv(READ_BYTES))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            except OSError:
                return b""
        data, self._received = self._received, b""
        return data

    def _take(self, data: bytes) -> None:
        try:
            self._connection.receive_data(data or None)
            for event in self._connection.events():
                self._happened(event)
        except ProtocolError:
            self._ended = True

    def _happened(self, event: events.Event) -> None:
        if isinstance(event, events.BytesMessage):
            self._received += event.data
        elif isinstance(event, events.Ping):
            self._outbox += self._connection.send(event.response())
            self._flush()
        elif isinstance(event, events.CloseConnection):
            self._ended = True

    def send(self, data: bytes) -> int:
        self._flush()
        if self._outbox:
            return 0
        self._outbox += self._connection.send(events.BytesMessage(data=data))
        self._flush()
        return len(data)

    def _flush(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: self._sock.send(self._outbox)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._outbox.clear()
            self._ended = True

    def finish(self) -> None:
        """A websocket can't be closed by half: a text message says it."""
        self._outbox += self._connection.send(events.TextMessage(data=END))
        self._flush()


def carry_websocket(near: socket.socket, url: str, token: str, fingerprint: str) -> None:
    """Connect, log in, and carry bytes until one side ends; raises TunnelProblem."""
    if not token.isascii() or not token.isprintable() or not token.strip():
        raise TunnelProblem("config", f"the token for {url} is no line of plain text")
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORT
    with open_tls(url, Peer(host, port, fingerprint, WORDS)) as sock:
        remote = WebSocketEnd(sock, *_log_in(sock, url, host, token))
        carry(near, remote)


def _log_in(sock: ssl.SSLSocket, url: str, host: str, token: str) -> tuple[WSConnection, bytes]:
    """Do the websocket's handshake; return it with what came behind it."""
    connection = WSConnection(ConnectionType.CLIENT)
    headers = [(b"authorization", b"Bearer " + token.encode())]
    request = events.Request(host=host, target=WEBSOCKET_PATH, extra_headers=headers)
    first = b""
    try:
        sock.settimeout(CONNECT_S)
        sock.sendall(connection.send(request))
        while True:
            data = sock.recv(READ_BYTES)
            connection.receive_data(data or None)
            accepted = False
            for event in connection.events():
                if isinstance(event, events.AcceptConnection):
                    accepted = True
                elif isinstance(event, events.BytesMessage):
                    first += event.data
                elif isinstance(event, events.RejectConnection):
                    raise _rejected(url, event.status_code)
            if accepted:
                return connection, first
            if not data:
                raise OSError("it hung up")
    except (ProtocolError, OSError) as error:
        text = f"what answers at {url} is no palace broker: {error}"
        raise TunnelProblem("broker_unreachable", text, final=False) from None


def _rejected(url: str, status: int) -> TunnelProblem:
    if status in _WRONG_TOKEN:
        return TokenRefused("forbidden", f"{url} refused the token", final=False)
    why = {404: "another server than a palace broker answers there"}.get(
        status, f"HTTP status {status}"
    )
    return TunnelProblem("forbidden", f"{url} refused us: {why}", final=False)
