"""TLS to a palace's broker, which is known by its certificate's fingerprint, or by an authority.

No proxy is asked, whatever the environment names.
"""

import hmac
import socket
import ssl
from hashlib import sha256

from palace.client.guest.tunnel import TunnelProblem

CONNECT_S = 5.0
# A guest's host sleeps, or its network goes: noticed within half a minute.
KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class Words:
    """What is said of another's certificate: what to do, that it isn't theirs, and who says so."""

    def __init__(self, remedy: str, denial: str, whence: str) -> None:
        self.remedy = remedy
        self.denial = denial
        self.whence = whence


class Peer:
    """Who is meant: `fingerprint` is that of its certificate, "" where authorities vouch for it."""

    def __init__(self, host: str, port: int, fingerprint: str, words: Words) -> None:
        self.host = host
        self.port = port
        self.fingerprint = fingerprint
        self.words = words


def open_tls(url: str, peer: Peer) -> ssl.SSLSocket:
    """Return a connection to whom is meant, and to nobody else; raises TunnelProblem."""
    host, port, fingerprint = peer.host, peer.port, peer.fingerprint
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if fingerprint:  # the pin says more than any authority, or a clock that a guest may lack
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        plain = socket.create_connection((host, port), CONNECT_S)
    except OSError as error:
        text = f"nothing listens at {url}: {error.strerror or error}"
        raise TunnelProblem("broker_unreachable", text, final=False) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        sock = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        words = error.verify_message
        text = f"the certificate at {url} is not to be trusted: {words}. {peer.words.remedy}"
        raise TunnelProblem("untrusted", text) from None
    except OSError as error:
        plain.close()
        text = f"what answers at {url} speaks no TLS: {error}"
        raise TunnelProblem("broker_unreachable", text, final=False) from None
    if fingerprint:
        _check_pin(sock, url, peer)
    return sock


def _check_pin(sock: ssl.SSLSocket, url: str, peer: Peer) -> None:
    found = sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if not hmac.compare_digest(found, peer.fingerprint):
        sock.close()
        text = (
            f"what answers at {url} {peer.words.denial}: its certificate's fingerprint is "
            f"{found[:16]}..., {peer.words.whence} {peer.fingerprint[:16]}..."
        )
        # A record may be a second old on a guest's mount: a new owner has a new certificate.
        raise TunnelProblem("untrusted", text, final=False)
