"""The server that holds namespaces in this palace's place, as the settings name it.

Nothing of it is imported before a call has to ask it, and nothing at all where none is named.
"""

import logging
from typing import TYPE_CHECKING

import attrs

from palace.protocol.breaker import OPEN_S, Breaker
from palace.settings.config import Config

if TYPE_CHECKING:
    from palace.plugin.elsewhere import Elsewhere

COPY_OPEN_S = 1.0  # somebody looks on while memories are copied

logger = logging.getLogger("palace.plugin")


@attrs.frozen(kw_only=True)
class PluginSettings:
    """What the settings say of the server; `address` is one that `palace.plugin.address` takes."""

    address: str
    token_file: str
    certificate: str
    kinds: frozenset[str]
    counts: bool  # it is asked and written: else it is only prepared, by copies


def plugin_settings(config: Config) -> PluginSettings | None:
    """Return where namespaces are held, or shall be; None where the settings name no server."""
    if not config.memory_plugin:
        return None
    return PluginSettings(
        address=config.memory_plugin,
        token_file=config.memory_plugin_token_file,
        certificate=config.memory_plugin_certificate,
        kinds=frozenset(config.memory_plugin_kinds),
        counts=config.memory_cutover,
    )


def open_elsewhere(settings: PluginSettings, *, open_s: float = OPEN_S) -> "Elsewhere":
    """Return what asks the server; it is asked nothing yet.  Raises ConfigError.

    `open_s` is for how long it isn't asked after failures.
    """
    from palace.plugin.client import Client
    from palace.plugin.elsewhere import Elsewhere
    from palace.plugin.wire import Wire
    from palace.protocol.plugin_address import address_in

    address = address_in(settings.address)
    wire = Wire(address=address, token_file=settings.token_file, certificate=settings.certificate)
    breaker = Breaker(open_s=open_s)
    client = Client(called=address.text, wire=wire, breaker=breaker, noted=logger.warning)
    return Elsewhere(client=client, kinds=settings.kinds)
