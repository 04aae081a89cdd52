"""`palace own --through`: by which way agents reach the palace that has our tables.

A guest's directory, made on that palace's machine, is copied into this user's state directory.
"""

import os

from palace.commands.guests import identity_here
from palace.commands.own import keeps_tables
from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_in_state
from palace.ownership.guest_file import GUEST_BYTES_MAX, NAME, GuestFile, decode_guest_file
from palace.ownership.owners import owners_directory, read_way, way_path
from palace.protocol.errors import ConfigError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

WAYS_MAX = 64


def keep_way(paths: Paths, environment: ShimEnvironment, given: str) -> str:
    """Keep the way that a guest's directory, or its guest.json, names; return what to tell.

    Raises ConfigError, UnsafePalace.
    """
    kernel = Kernel()
    way = _read(given, kernel)
    if way.palace_id == identity_here(paths, kernel):
        raise ConfigError(f"{given} leads to {paths.root} itself: its agents need no way there.")
    if not keeps_tables(paths, environment):
        raise ConfigError(
            f"The drawers of {paths.root} are in files, which no other palace can have. A way is "
            "for a palace whose drawers a database keeps (docs/postgres.md)."
        )
    directory = _prepare(paths, environment, kernel)
    known = _ways(directory, kernel)
    if len(known) >= WAYS_MAX and all(one.palace_id != way.palace_id for one in known):
        raise ConfigError(f"There are {WAYS_MAX} ways already: palace own --forget PALACE.")
    kernel.write_durable(way_path(directory, way.palace_id), way.encode())
    return (
        f"Kept: {_named(way)}.\nWhile that palace has the right to write the tables, agents that "
        f"use {paths.root} are carried there, as its guest {way.name}. See: palace own"
    )


def forget_way(paths: Paths, environment: ShimEnvironment, name: str) -> str:
    """Forget the way to the palace whose identity begins so; return what to tell."""
    kernel = Kernel()
    directory = owners_directory(paths.root, environment.all)
    ways = _ways(directory, kernel)
    found = [way for way in ways if name and way.palace_id.startswith(name)]
    if len(found) != 1:
        known = ", ".join(way.palace_id[:8] for way in ways) or "none"
        raise ConfigError(f"{name!r:.80} names {len(found)} of the ways kept here ({known}).")
    kernel.unlink(way_path(directory, found[0].palace_id))
    return f"Forgotten: {_named(found[0])}."


def ways_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the ways, one a line, "" where none is kept."""
    ways = _ways(owners_directory(paths.root, environment.all), Kernel())
    rows = [f"  {_named(way)}" for way in ways]
    return "\n".join(["Ways to palaces that may have them:", *rows]) if rows else ""


def _named(way: GuestFile) -> str:
    return f"{way.palace_id[:8]}, {way.palace} at {', '.join(way.endpoints)}, as guest {way.name}"


def _read(given: str, kernel: Kernel) -> GuestFile:
    path = os.path.join(given, NAME) if os.path.isdir(given) else given
    try:
        data = kernel.read_file(path, GUEST_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
    way = decode_guest_file(data)
    if way is None or not way.endpoints or not way.token or not way.fingerprint:
        raise ConfigError(
            f"{path} is no guest's directory. On the machine of the palace that has the tables, "
            "palace expose guest NAME --into DIR makes one: bring it here, and keep it from others."
        )
    return way


def _prepare(paths: Paths, environment: ShimEnvironment, kernel: Kernel) -> str:
    directory = owners_directory(paths.root, environment.all)
    called = "The directory of ways"
    prepare_in_state(directory, kernel, called=called, remedy="Correct or remove it.")
    return directory


def _ways(directory: str, kernel: Kernel) -> list[GuestFile]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    found = (read_way(directory, name.removesuffix(".json"), kernel) for name in names)
    return [way for way in found if way is not None]
