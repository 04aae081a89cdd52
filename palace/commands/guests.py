"""Guests' directories: a broker's address and a token of its own, for one container each.

The token is in that directory alone; the palace's machine keeps its digest.
"""

import os
from collections.abc import Callable, Mapping

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership.book import digest_of
from palace.ownership.directory import prepare_private
from palace.ownership.guest_book import (
    GUESTS_MAX,
    Guest,
    check_name,
    guests_directory,
    prepare_directory,
    read_guests,
    write_guests,
)
from palace.ownership.guest_file import GuestFile, guest_path, read_guest_file
from palace.protocol.errors import ConfigError
from palace.protocol.wire import identity_of
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

# What makes, and keeps in a directory, the certificate that guests pin: its fingerprint.
KeepIdentity = Callable[[Config, Kernel, str], str]


@attrs.frozen(kw_only=True)
class Wish:
    """The guest that is wanted; `into` is where its directory is made, "" for the usual place."""

    name: str
    read_only: bool = False
    into: str = ""


def identity_here(paths: Paths, kernel: Kernel) -> str:
    """Return the palace's identity, "" before its first broker."""
    return identity_of(kernel.read_hint(paths.palace_id, 200)) or ""


def make_guest(
    paths: Paths,
    environment: ShimEnvironment,
    config: Config,
    wish: Wish,
    keep_identity: KeepIdentity,
) -> str:
    """Make a guest's directory, or bring the one it has up to date; return where it is.

    Raises ConfigError, UnsafePalace.
    """
    check_name(wish.name)
    kernel = Kernel()
    palace_id = identity_here(paths, kernel)
    directory = prepare_directory(paths, environment.all, kernel)
    guests = read_guests(directory, palace_id, kernel)
    target = Paths(wish.into or f"{directory}/{wish.name}")
    _prepare_target(target, kernel)
    fingerprint = keep_identity(config, kernel, directory)
    token = _token_in(target, guests.get(wish.name), wish, kernel) or kernel.token(32)
    made = GuestFile(
        [f"wss://{address}" for address in config.advertise or (config.listen,)],
        name=wish.name,
        palace=paths.root,
        palace_id=palace_id,
        token=token,
        fingerprint=fingerprint,
    )
    since = kernel.utc_text()
    known = guests.get(wish.name)
    if known is None or known.digest != digest_of(token) or known.read_only != wish.read_only:
        if len(guests) >= GUESTS_MAX and known is None:
            raise ConfigError(f"There are {GUESTS_MAX} guests already: palace expose revoke NAME.")
        guest = Guest(
            name=wish.name, digest=digest_of(token), read_only=wish.read_only, since=since
        )
        write_guests(directory, palace_id, {**guests, wish.name: guest}, kernel)
    kernel.write_durable(guest_path(target), made.encode())
    return target.root


def _prepare_target(target: Paths, kernel: Kernel) -> None:
    if kernel.file_id(target.palace_id) or kernel.file_id(target.store):
        raise ConfigError(
            f"{target.root} holds a palace: name a directory of its own (--into DIR)."
        )
    os.makedirs(os.path.dirname(target.root), 0o700, exist_ok=True)
    prepare_private(
        target.root,
        kernel,
        called="The guest's directory",
        remedy="It will hold a token: take write access from others, or name another (--into DIR)",
    )


def _token_in(target: Paths, known: Guest | None, wish: Wish, kernel: Kernel) -> str:
    """Return the token that a guest's directory has, "" where it is not that guest's any more."""
    found = read_guest_file(target, kernel)
    if found is None or known is None or found.name != wish.name:
        return ""
    return found.token if digest_of(found.token) == known.digest else ""


def revoke_guest(paths: Paths, environment: ShimEnvironment, name: str) -> str:
    """Let a guest's token count for nothing; return what to tell.  Raises ConfigError."""
    kernel = Kernel()
    directory = guests_directory(paths.root, environment.all)
    palace_id = identity_here(paths, kernel)
    guests = read_guests(directory, palace_id, kernel)
    if name not in guests:
        known = ", ".join(guests) or "none"
        raise ConfigError(f"There is no guest {name!r:.100}. The guests are: {known}.")
    left = {key: guest for key, guest in guests.items() if key != name}
    write_guests(directory, palace_id, left, kernel)
    usual = Paths(f"{directory}/{name}")
    if read_guest_file(usual, kernel) is not None:
        kernel.unlink(guest_path(usual))
    return f"{name} is no guest any more: a running broker hangs up on it within seconds."


def guests_text(paths: Paths, environ: Mapping[str, str]) -> str:
    """Return the guests, one a line."""
    kernel = Kernel()
    directory = guests_directory(paths.root, environ)
    guests = read_guests(directory, identity_here(paths, kernel), kernel).values()
    if not guests:
        return "Guests with tokens of their own: none."
    rows = [f"  {one.name}: {_may(one)}, since {one.since}" for one in guests]
    return "\n".join(["Guests with tokens of their own:", *rows])


def _may(guest: Guest) -> str:
    return "may read" if guest.read_only else "may read and write"
