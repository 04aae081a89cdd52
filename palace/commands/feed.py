"""`palace feed`: what a palace has for those that pull from it, as lines of JSON.

What ssh runs on the other machine.  It needs no broker and no lock.
"""

from collections.abc import Mapping

from palace.journal.offering import Scope, offers
from palace.journal.origin import earlier_palaces
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.ownership.keys import known_keys
from palace.ownership.served import check_there
from palace.protocol.decoding import decode_json_once
from palace.protocol.errors import ConfigError
from palace.protocol.federation import (
    DRAWER,
    FACT,
    START,
    Position,
    Unacceptable,
    read_position,
)
from palace.protocol.feed_lines import End, Header, end_line, header_line, item_line
from palace.protocol.keyring import Keyring
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths


def print_offers(
    paths: Paths,
    environ: Mapping[str, str],
    *,
    since: str,
    wings: tuple[str, ...],
    kinds: tuple[str, ...],
) -> int:
    """Print what is new since a position; raises ConfigError for what is none, or for a kind."""
    kernel = Kernel()
    check_there(paths, environ, kernel)
    at, scope = _position(since), _scope(wings, kinds)
    keys = known_keys(paths, environ, kernel)
    _print(header_line(header_at(paths, kernel, keys)))
    many, damaged = 0, list[int]()
    for item in offers(paths.journal, kernel, at, scope, keys, told=damaged.append):
        _print(item_line(item))
        many += 1
    _print(end_line(End(items=many, damaged=sum(damaged))))
    return 0


def _print(line: bytes) -> None:
    say(line.decode().rstrip())


def header_at(paths: Paths, kernel: Kernel, keys: Keyring) -> Header:
    """Return which palace stands in a directory; raises ConfigError where none does."""
    palace = identity_of(kernel.read_hint(paths.palace_id, 200))
    if not palace or not list_segments(paths.journal, kernel, archived=True):
        raise ConfigError(
            f"{paths.root} holds no palace with a journal. Of a copy, palace_id and journal/ are "
            "needed."
        )
    return Header(palace=palace, was=earlier_palaces(paths.journal, palace, kernel, keys))


def _position(since: str) -> Position:
    if not since:
        return START
    try:
        return read_position(decode_json_once(since))
    except (Unacceptable, ValueError):
        raise ConfigError(
            "--since takes what a line of palace feed says of a position: the object of "
            "`at`, `read` or `whole`."
        ) from None


def _scope(wings: tuple[str, ...], kinds: tuple[str, ...]) -> Scope:
    for kind in kinds:
        if kind not in (DRAWER, FACT):
            raise ConfigError(f"--kind takes {DRAWER} or {FACT}, not {kind[:100]!r}.")
    return Scope(wings=wings, kinds=kinds or (DRAWER, FACT))
