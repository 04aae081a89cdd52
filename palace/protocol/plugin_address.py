"""Where the server is: what the setting `memory_plugin` may say.

    unix:/run/memory.sock        a socket on this machine
    https://memory.example:8443  TLS, with its certificate verified
    http://127.0.0.1:8080        in the clear: without a token, but on this machine

No user, no path, no query: what is asked of a server follows from the contract alone.

Pure.
"""

import ipaddress
from urllib.parse import urlsplit

import attrs

from palace.protocol.errors import ConfigError

UNIX = "unix:"


@attrs.frozen(kw_only=True)
class Address:
    """One server's.  `url` is what its paths are put behind; `socket` "" where it has a port."""

    text: str
    url: str
    socket: str = ""
    is_private: bool = False  # nobody reads what is sent there: a socket, TLS, or this machine


def address_in(text: str, *, where: str = "memory_plugin") -> Address:
    """Return an address as it is written in the settings; raises ConfigError, which names where."""
    try:
        return _address(text)
    except ValueError as error:
        raise ConfigError(
            f"{where}: memory_plugin can't be used: {error}. Say https://HOST[:PORT], "
            "http://HOST[:PORT] or unix:/PATH."
        ) from None


def _address(text: str) -> Address:
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path.startswith("/") or not path.isprintable():
            raise ValueError("a socket is named by its full path")
        return Address(text=text, url="http://localhost", socket=path, is_private=True)
    parts = urlsplit(text)
    host, port = parts.hostname or "", parts.port  # these raise ValueError, too
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("it must begin with https://, http:// or unix:/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not hold a password: a token goes into memory_plugin_token_file")
    if parts.path not in ("", "/") or parts.query or parts.fragment or not text.isprintable():
        raise ValueError("it must end behind the port")
    # The name that every machine gives itself is not asked of a resolver.
    here = "127.0.0.1" if host == "localhost" else host
    shown = f"[{here}]" if ":" in here else here
    url = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    return Address(text=text, url=url, is_private=parts.scheme == "https" or _is_loopback(here))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
