"""`palace feed`: what a palace has for those that pull from it, as lines of JSON.

What ssh runs on the other machine.  It needs no broker and no lock.
"""

import json
from collections.abc import Mapping

from palace.journal.offering import Scope, offers
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
    item_fields,
    read_position,
)
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths

VERSION = 1


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
    palace = identity_of(kernel.read_hint(paths.palace_id, 200)) or ""
    say(json.dumps({"feed": VERSION, "palace": palace}))
    many = 0
    for item in offers(paths.journal, kernel, at, scope, keys):
        say(json.dumps(item_fields(item)))
        many += 1
    say(json.dumps({"end": many}))
    return 0


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
