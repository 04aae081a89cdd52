"""The server that holds namespaces in this palace's place, as the settings name it.

Nothing of it is imported before a call has to ask it, and nothing at all where none is named.
"""

import logging
import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from palace.kernel.left_out import left_out
from palace.protocol.breaker import OPEN_S, Breaker
from palace.protocol.errors import PalaceError
from palace.protocol.plugin_address import address_in
from palace.settings.config import Config

if TYPE_CHECKING:
    from palace.plugin.elsewhere import Elsewhere

REACH_S = 2.0  # for a server that is only prepared to be reached
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


def problem_of(config: Config) -> str:
    """Say what keeps the settings from counting, "" for nothing."""
    if config.memory_cutover and not config.memory_plugin:
        return "memory_cutover is on, and memory_plugin names no server: all memories are kept here"
    return ""


def announce(config: Config) -> None:
    """Say in the log what is only half configured; a server that counts is asked if it answers.

    That takes place in a thread, and nothing waits for it: no broker is kept from serving.
    """
    problem, settings = problem_of(config), plugin_settings(config)
    if problem:
        logger.warning("half configured: %s", problem)
    if settings is not None:
        thread = threading.Thread(target=_probe, args=[settings], name="palace-probe", daemon=True)
        thread.start()


def _probe(settings: PluginSettings) -> None:
    if not settings.counts:  # nobody asks it, so nothing is imported that would
        problem = _out_of_reach(settings.address)
        if problem:
            logger.info("the memory plugin %s can't be reached: %s", settings.address, problem)
        return
    elsewhere = open_elsewhere(settings)
    try:
        elsewhere.client.health()
    except PalaceError as error:
        logger.warning("half configured: memory_cutover is on. %s", error.message)
    finally:
        elsewhere.client.wire.close()


def _out_of_reach(text: str) -> str:
    """Say why nobody listens at a server's address, "" where somebody does."""
    try:
        address = address_in(text)
        if address.socket:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(REACH_S)
                sock.connect(address.socket)
            return ""
        parts = urlsplit(address.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), REACH_S).close()
    except PalaceError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    return ""


def told_of(
    config_problem: str, settings: PluginSettings | None, elsewhere: "Elsewhere | None"
) -> dict[str, object] | None:
    """Return what `palace status` shows of the server; None where none is named."""
    if settings is None:
        return {"problem": config_problem} if config_problem else None
    client = elsewhere.client if elsewhere is not None else None
    return {
        "problem": config_problem,
        "address": settings.address,
        "kinds": sorted(settings.kinds),
        "counts": settings.counts,
        "wait_s": round(client.wait_s, 1) if client is not None else 0.0,
        "open": client is not None and client.breaker.is_open,
        "opened": client.breaker.opened if client is not None else 0,
    }


def open_elsewhere(settings: PluginSettings, *, open_s: float = OPEN_S) -> "Elsewhere":
    """Return what asks the server; it is asked nothing yet.  Raises ConfigError.

    `open_s` is for how long it isn't asked after failures.
    """
    with left_out(absent=("httpx._main",)):  # its command line, with colours for terminals
        from palace.plugin.client import Client
        from palace.plugin.elsewhere import Elsewhere
        from palace.plugin.wire import Wire

    address = address_in(settings.address)
    wire = Wire(address=address, token_file=settings.token_file, certificate=settings.certificate)
    breaker = Breaker(open_s=open_s)
    client = Client(called=address.text, wire=wire, breaker=breaker, noted=logger.warning)
    return Elsewhere(client=client, kinds=settings.kinds)
