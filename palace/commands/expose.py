"""`palace expose`: where the broker listens for containers that run behind another kernel.

It changes two of the user's settings, `listen` and `advertise`, which the broker reads when it
starts.
"""

import errno
import socket
import struct
import sys

import attrs

from palace.client.endpoints import published_for_guests
from palace.client.guest.wss import PORT
from palace.commands.config import change_settings
from palace.commands.guests import (
    KeepIdentity,
    Wish,
    guests_text,
    identity_here,
    make_guest,
)
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.guest_book import check_name
from palace.ownership.record import read_record
from palace.protocol.errors import ConfigError
from palace.settings.config import Config, load_settings
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NAME = "host.docker.internal"  # what containers call the machine that they run on
BRIDGE = "docker0"
SIOCGIFADDR = 0x8915  # netdevice(7)
_NO_ADDRESS = (errno.ENODEV, errno.EADDRNOTAVAIL)


@attrs.frozen(kw_only=True)
class Exposure:
    """The two settings."""

    listen: str
    advertise: tuple[str, ...]


NOWHERE = Exposure(listen="", advertise=())


def interface_address(name: str) -> str:
    """Return the IPv4 address of a network interface (Linux), "" if it has none."""
    import fcntl

    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, SIOCGIFADDR, request)
        except OSError as error:
            if error.errno in _NO_ADDRESS:
                return ""
            raise
    return socket.inet_ntoa(answer[20:24])


def exposure_here(port: int, *, platform: str = sys.platform, bridge: str = BRIDGE) -> Exposure:
    """Return the address at which Docker's containers reach this machine; raises ConfigError."""
    if platform == "darwin":
        return Exposure(listen=f"127.0.0.1:{port}", advertise=(f"{NAME}:{port}",))
    address = interface_address(bridge)
    if not address:
        raise ConfigError(
            f"There is no {bridge} on this machine, over which containers could reach a broker. "
            "Plain Docker on Linux doesn't need it, since containers share this machine's kernel: "
            "bind mount the palace's directory, and they use its socket. For anything else, set "
            "them by hand: palace config set listen=HOST:PORT advertise=HOST:PORT"
        )
    # The address needs no name service; the name is what people write into compose files.
    return Exposure(listen=f"{address}:{port}", advertise=(f"{address}:{port}", f"{NAME}:{port}"))


def exposure_of(config: Config) -> Exposure:
    """Return the two settings that count."""
    return Exposure(listen=config.listen, advertise=tuple(config.advertise))


def expose_docker(
    paths: Paths,
    environment: ShimEnvironment,
    wish: Wish,
    keep_identity: KeepIdentity,
    *,
    port: int = 0,
) -> str:
    """Have the broker listen for containers, and make a guest's directory for one.

    Returns what to tell the user; raises ConfigError, UnsafePalace.
    """
    check_name(wish.name)
    wanted = exposure_here(port or PORT)
    before, where = _change(paths, environment, wanted)
    rows = [f"{where}: {_text(wanted)}"]
    if before not in (wanted, NOWHERE):
        rows.append(f"  before: {_text(before)}")
    if not identity_here(paths, Kernel()):
        rows.append("No broker has served this palace yet. Start it, then run this again to make")
        rows.append("a guest's directory: palace start; palace expose docker")
        return "\n".join(rows)
    return "\n".join([*rows, expose_to_guest(paths, environment, wish, keep_identity)])


def expose_to_guest(
    paths: Paths, environment: ShimEnvironment, wish: Wish, keep_identity: KeepIdentity
) -> str:
    """Make a guest's directory with the address that is set; return what to tell the user.

    Raises ConfigError, UnsafePalace.
    """
    check_name(wish.name)
    kernel = Kernel()
    lock.check_directory(paths, kernel, environment.all)
    config = load_settings(paths, environment.all, kernel).config
    if not config.listen:
        raise ConfigError(
            "The broker listens for no guests: palace expose docker, or palace config set "
            "listen=HOST:PORT"
        )
    if not identity_here(paths, kernel):
        raise ConfigError(
            f"No broker has served {paths.root} yet, so that it has no identity that "
            "a guest could know: palace start"
        )
    made = make_guest(paths, environment, config, wish, keep_identity)
    rights = "read" if wish.read_only else "read and write"
    return "\n".join([f"{made}: for guest {wish.name}, which may {rights}", *_next_steps(made)])


def expose_off(paths: Paths, environment: ShimEnvironment) -> str:
    """Have the broker listen for no containers any more; return what to tell the user."""
    before, where = _change(paths, environment, NOWHERE)
    if before == NOWHERE:
        return f"{where}: the broker does not listen for guests; nothing was changed."
    return (
        f"{where}: guests are served nowhere (before: {_text(before)}).\n"
        "A broker that runs goes on listening until it leaves: palace stop"
    )


def show_exposure(paths: Paths, environment: ShimEnvironment) -> str:
    """Say what the settings say, and what the running broker does."""
    kernel = Kernel()
    loaded = load_settings(paths, environment.all, kernel)
    served = published_for_guests(read_record(paths, kernel))
    running = f"guests are served at {', '.join(served)}" if served else "no guests are served"
    guests = guests_text(paths, environment.all)
    return f"{loaded.user.path}: {_text(exposure_of(loaded.config))}\nNow: {running}.\n{guests}"


def _text(found: Exposure) -> str:
    if not found.listen:
        return "listen nowhere"
    names = ", ".join(found.advertise or (found.listen,))
    return f"listen at {found.listen}, known to guests as {names}"


def _change(paths: Paths, environment: ShimEnvironment, wanted: Exposure) -> tuple[Exposure, str]:
    """Write the settings if they differ; return what they were, and their file."""
    kernel = Kernel()
    lock.check_directory(
        paths, kernel, environment.all
    )  # a guest must not decide where the broker listens
    loaded = load_settings(paths, environment.all, kernel)
    before = exposure_of(loaded.config)
    if before != wanted:
        changes = {"listen": wanted.listen or None, "advertise": wanted.advertise or None}
        change_settings(paths, environment, changes, kernel)
    return before, loaded.user.path


def _next_steps(made: str) -> list[str]:
    lines = [
        "Next:",
        "  palace stop      if a broker is running; the next one listens there",
        "In the container:",
        f"  mount that directory, for example -v {made}:/palace:ro -e MEMPALACE_PATH=/palace",
        "  register palace shim in its MCP configuration, as everywhere",
    ]
    if sys.platform != "darwin":
        lines += [
            f'  extra_hosts: ["{NAME}:host-gateway"], to reach this machine by that name',
            "Plain Docker on Linux can also do with the palace bind mounted: a container with it",
            "uses the broker's socket, and may then change everything in the palace's directory.",
        ]
    return [*lines, "Run palace doctor --boundary in the container to see whether it works."]
