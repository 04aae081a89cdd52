"""Where another palace is read: a directory here, or its feed, which comes over ssh or https.

Each yields what stands there first, then what it says.  What comes is checked alike, whichever way
it came (palace/protocol/feed_lines.py, palace/protocol/federation.py).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

import attrs

from palace.client.feeds.https import BUSY, Door, https_feed
from palace.client.feeds.ssh import ssh_feed
from palace.client.guest.fallbacks import bridge_settings
from palace.client.guest.ssh import Target
from palace.client.guest.tunnel import TunnelProblem
from palace.commands.feed import header_at
from palace.commands.patience import SILENT_S, CountingKernel, in_time
from palace.journal.offering import Scope, offers
from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.kernel.odd_files import open_regular
from palace.protocol.errors import ConfigError, RemoteRefused
from palace.protocol.federation import (
    DRAWER,
    FACT,
    START,
    Gap,
    Item,
    Position,
    position_fields,
)
from palace.protocol.feed_lines import LINE_BYTES_MAX, End, Header, read_lines
from palace.protocol.keyring import STRANGERS
from palace.protocol.workspaces import TOKEN_DIGITS, is_digits
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

Json = dict[str, Any]
SSH, HTTPS = "ssh://", "https://"
TOKEN_BYTES_MAX = 4096
AGAIN_S = 1.0  # after which one that is busy is asked again


@attrs.frozen
class Asked:
    """What a pull asks a remote for; `damaged` gets how many records there can't be read."""

    remote: Mapping[str, Any]
    since: Position
    ours: Paths
    environment: ShimEnvironment
    damaged: list[int] = attrs.field(factory=list)

    @property
    def address(self) -> str:
        return str(self.remote["address"])

    @property
    def scope(self) -> Scope:
        kinds = tuple(self.remote["kinds"]) or (DRAWER, FACT)
        return Scope(wings=tuple(self.remote["wings"]), kinds=kinds)


def checked_address(address: str) -> str:
    """Return where a remote is, as it is kept; raises ConfigError for what can't be one."""
    if address.startswith(SSH):
        _target(address)
        return address
    if address.startswith(HTTPS):
        try:
            Door(url=address, token="").peer()
        except TunnelProblem as problem:
            raise ConfigError(f"{address!r:.200} can't be pulled from: {problem.text}.") from None
        return address
    if not os.path.isdir(address):
        raise ConfigError(
            f"{address} is no directory. Name that of a palace, or of a copy on this machine, or "
            "another machine's: ssh://[USER@]HOST[:PORT][/PALACE], https://HOST[:PORT][#FINGERPRINT]"
        )
    return os.path.realpath(address)


def read_source(asked: Asked) -> Iterator[Header | Item]:
    """Yield what stands at a remote's address, and then what that says which is new.

    Raises ConfigError, RemoteRefused, OSError, and Unacceptable for what no palace says.
    """
    if asked.address.startswith(SSH):
        return _read_feed(asked, partial(_ssh_lines, asked))
    if asked.address.startswith(HTTPS):
        return _read_feed(asked, partial(_https_lines, asked))
    kernel = CountingKernel()
    return in_time(_read_directory(asked, kernel), kernel)


# A directory.


def _read_directory(asked: Asked, kernel: Kernel) -> Iterator[Header | Item]:
    paths = Paths(asked.address)
    yield header_at(paths, kernel, STRANGERS)
    told = asked.damaged.append
    yield from offers(paths.journal, kernel, asked.since, asked.scope, STRANGERS, told=told)


# A feed.


def _read_feed(
    asked: Asked, page: Callable[[Position], Iterator[bytes]]
) -> Iterator[Header | Item]:
    """Read page after page, each from where the one before has ended."""
    since, header = asked.since, None
    while True:
        before, is_more = since, False
        for said in read_lines(page(since)):
            if isinstance(said, End):
                asked.damaged.append(said.damaged)
                is_more = said.more
            elif not isinstance(said, Header):
                since = since if isinstance(said, Gap) else said.at
                yield said
            elif header is None:
                header = said
                yield said
            elif said != header:
                raise RemoteRefused(f"Another palace answers at {asked.address} meanwhile.")
        if not is_more:
            return
        if since.version <= before.version:
            raise RemoteRefused(f"{asked.address} says that there is more, and goes no further.")


def _ssh_lines(asked: Asked, since: Position) -> Iterator[bytes]:
    options = []
    if since != START:
        options.append(f"--since={json.dumps(position_fields(since))}")
    options += [f"--wing={wing}" for wing in asked.remote["wings"]]
    options += [f"--kind={kind}" for kind in asked.remote["kinds"]]
    environment = asked.environment
    settings = bridge_settings(asked.ours, environment.all, Kernel())
    target = _target(
        asked.address,
        config=environment.bridge_config or settings.get("bridge_config", ""),
        command=environment.bridge_command or settings.get("bridge_command", "palace"),
    )
    try:
        yield from ssh_feed(target, options, line_bytes_max=LINE_BYTES_MAX, silent_s=SILENT_S)
    except TunnelProblem as problem:
        raise RemoteRefused(f"It was not pulled to its end: {problem.text}") from None


def _https_lines(asked: Asked, since: Position) -> Iterator[bytes]:
    door = Door(url=asked.address, token=token_in(str(asked.remote["token_file"])))
    query = "" if since == START else urlencode({"since": json.dumps(position_fields(since))})
    until_s = time.monotonic() + SILENT_S
    while True:
        try:
            yield from https_feed(door, query, line_bytes_max=LINE_BYTES_MAX, silent_s=SILENT_S)
        except TunnelProblem as problem:
            if problem.name == BUSY and time.monotonic() < until_s:
                time.sleep(AGAIN_S)
                continue
            raise RemoteRefused(f"It was not pulled to its end: {problem.text}") from None
        return


def token_in(path: str) -> str:
    """Return the token in a file that only its owner can read; raises ConfigError."""
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            raw = file.read(TOKEN_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {cause_text(error)}") from None
    if found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path} holds a token, and others can read it: chmod 600 {path}")
    token = raw.decode("ascii", "replace").strip()
    if not is_digits(token, TOKEN_DIGITS, TOKEN_DIGITS):
        raise ConfigError(f"{path} holds no token of a share: palace share new, on its machine.")
    return token


def _target(url: str, *, config: str = "", command: str = "palace") -> Target:
    try:
        return Target(url, config=config, command=command)
    except (TunnelProblem, ValueError) as problem:
        raise ConfigError(f"{url!r:.200} is no ssh address: {problem}") from None
