"""Where the server is: what the setting `memory_plugin` may say.

    unix:/run/memory.sock        a socket on this machine
    https://memory.example:8443  TLS, with its certificate verified
    http://127.0.0.1:8080        in the clear: without a token, but on this machine

No user, no path, no query: what is asked of a server follows from the contract alone.  A host is
one that can be asked for: whatever else there is would come to light in the middle of a call.

Pure.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

import attrs

from palace.protocol.errors import ConfigError

UNIX = "unix:"
HOST_CHARS_MAX = 253  # of DNS
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class _UnusableError(Exception):
    """What is wrong, in words of ours: an address may hold a password, and is never repeated."""


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
    except _UnusableError as error:
        raise ConfigError(
            f"{where}: memory_plugin can't be used: {error}. Say https://HOST[:PORT], "
            "http://HOST[:PORT] or unix:/PATH."
        ) from None


def _address(text: str) -> Address:
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path.startswith("/") or not path.isprintable():
            raise _UnusableError("a socket is named by its full path")
        return Address(text=text, url="http://localhost", socket=path, is_private=True)
    parts, host, port = _split(text)
    if parts.scheme not in ("http", "https") or not host:
        raise _UnusableError("it must begin with https://, http:// or unix:/")
    if parts.username is not None or parts.password is not None:
        raise _UnusableError(
            "it must not hold a password: a token goes into memory_plugin_token_file"
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment or not text.isprintable():
        raise _UnusableError("it must end behind the port")
    if "[" in parts.netloc and ":" not in host:
        raise _UnusableError("only an IPv6 address stands in brackets")
    here = _asked_for(host)
    # The name that every machine gives itself is not asked of a resolver.  A certificate says it.
    here = "127.0.0.1" if (parts.scheme, here) == ("http", "localhost") else here
    shown = f"[{here}]" if ":" in here else here
    url = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    return Address(text=text, url=url, is_private=parts.scheme == "https" or _is_loopback(here))


def _split(text: str) -> tuple[SplitResult, str, int | None]:
    """Return an address's parts, its host and its port."""
    try:
        parts = urlsplit(text)
        return parts, parts.hostname or "", parts.port
    except ValueError:  # which repeats some of it
        raise _UnusableError("no host and port can be read from it") from None


def _asked_for(host: str) -> str:
    """Return a host as it is asked for: an IP address, or a name in the letters of DNS."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return host
    name = _in_ascii(host) if len(host) <= HOST_CHARS_MAX else ""
    labels = name.removesuffix(".").split(".")
    if not all(map(_LABEL.fullmatch, labels)) or len(name) > HOST_CHARS_MAX:
        raise _UnusableError("its host is neither a name nor an IP address")
    if labels[-1].isdigit():
        raise _UnusableError("its host is no IP address, and no name ends with a number")
    return name


def _in_ascii(host: str) -> str:
    """Return a name in the letters of DNS, "" for one that has none (IDNA 2008)."""
    if host.isascii() and "xn--" not in host:
        return host
    import idna  # has large tables, for few

    try:
        return idna.encode(host).decode("ascii")
    except UnicodeError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
