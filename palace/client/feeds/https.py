"""Another palace's feed over https: one page of it, from the address that was named.

No redirect is followed, no proxy is asked, nothing is unpacked.  The token is shown once the other
side is known to be whom it is for.
"""

import http.client
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

from palace.client.feeds.pieces import lines_of
from palace.client.guest.tls import Peer, Words, open_tls
from palace.client.guest.tunnel import READ_BYTES, TunnelProblem

PATH = "/palace/v1/feed"
PORT = 443
FINGERPRINT_DIGITS = 64
WORDS = Words(
    "Name its fingerprint in the address, https://HOST:PORT#FINGERPRINT: palace share list shows "
    "it there",
    "is not the palace that was named",
    "its address",
)
SAID_BYTES_MAX = 4096
BUSY, BUSY_STATUS = "busy", 503  # nothing was read, and it may be asked again


class Door:
    """Where a share is, https://HOST[:PORT][#FINGERPRINT], and what is shown there."""

    def __init__(self, *, url: str, token: str) -> None:
        self.url = url
        self.token = token

    def peer(self) -> Peer:
        """Return who is meant; raises TunnelProblem for an address that can't be one."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port or PORT
            host.encode("idna")
        except ValueError:  # whose words may quote what is no address
            host, parts = "", urlsplit("")
        pin = parts.fragment.replace(":", "").lower()
        is_pin = len(pin) == FINGERPRINT_DIGITS and not set(pin) - set("0123456789abcdef")
        is_plain = parts.path in ("", "/") and not parts.query and parts.username is None
        if parts.scheme != "https" or not host or not is_plain or (pin and not is_pin):
            text = "a share is at https://HOST[:PORT][#FINGERPRINT], and nothing else is in it"
            raise TunnelProblem("config", text)
        return Peer(host, port, pin, WORDS)


def https_feed(door: Door, query: str, *, line_bytes_max: int, silent_s: float) -> Iterator[bytes]:
    """Yield the lines of a page of a feed; raises TunnelProblem.

    A line that is too long is yielded cut, as the last.
    """
    peer = door.peer()
    connection = http.client.HTTPConnection(peer.host, peer.port)
    with open_tls(door.url, peer) as sock:
        sock.settimeout(silent_s)
        connection.sock = sock
        try:
            with closing(_asked(connection, door, query)) as answer:
                _check(answer, door)
                yield from lines_of(_pieces(answer), line_bytes_max)
        except TimeoutError:
            text = f"{door.url} said nothing for {silent_s:g} s, and is waited for no longer"
            raise TunnelProblem("broker_unreachable", text) from None
        except (OSError, http.client.HTTPException) as error:
            text = f"{door.url} broke off ({type(error).__name__})"
            raise TunnelProblem("broker_unreachable", text) from None


def _asked(
    connection: http.client.HTTPConnection, door: Door, query: str
) -> http.client.HTTPResponse:
    headers = {"Authorization": f"Bearer {door.token}", "Connection": "close"}
    connection.request("GET", f"{PATH}?{query}" if query else PATH, headers=headers)
    return connection.getresponse()


def _check(answer: http.client.HTTPResponse, door: Door) -> None:
    if answer.getheader("content-encoding", "identity") != "identity":
        raise TunnelProblem("forbidden", f"{door.url} packs its answer, which is not unpacked")
    if answer.status == 200:
        return
    if answer.status in (401, 403):
        raise TunnelProblem("forbidden", f"{door.url} refuses the token: it may be revoked there")
    if answer.status == BUSY_STATUS:
        raise TunnelProblem(BUSY, f"{door.url} has as many to serve as it takes", final=False)
    if 300 <= answer.status < 400:
        raise TunnelProblem("forbidden", f"{door.url} names another address, and isn't followed")
    said = answer.read(SAID_BYTES_MAX).decode(errors="replace")
    raise TunnelProblem("forbidden", f"{door.url} answers with status {answer.status}: {said}")


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read1(READ_BYTES):
        yield piece
