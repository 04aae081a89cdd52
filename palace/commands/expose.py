"""`palace expose`: where the broker listens for containers that run behind another kernel.

It changes two settings in palace.toml, `listen` and `advertise`, and leaves the rest of the file
as it was written, comments included.  The broker reads them when it starts.
"""

import errno
import socket
import struct
import sys
from typing import Any

import attrs
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from palace.client.endpoints import published_for_guests
from palace.client.guest.wss import PORT
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.record import read_record
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import ConfigError, LockHeld
from palace.settings.config import TOML_BYTES_MAX, adopt, load_config
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
            "`listen` and `advertise` in palace.toml by hand (docs/reference/settings.md)."
        )
    # The address needs no name service; the name is what people write into compose files.
    return Exposure(listen=f"{address}:{port}", advertise=(f"{address}:{port}", f"{NAME}:{port}"))


def with_exposure(text: str, wanted: Exposure, where: str) -> str:
    """Return a palace.toml with `listen` and `advertise` replaced; raises ConfigError."""
    try:
        before = decode_toml(text.encode())
        document = tomlkit.parse(text)
        _set(document, "listen", wanted.listen)
        _set(document, "advertise", list(wanted.advertise))
        changed = tomlkit.dumps(document)
        after = decode_toml(changed.encode())
    except (ValueError, RecursionError, TOMLKitError) as error:
        raise ConfigError(f"{where} is not valid TOML: {error}. Correct or remove it.") from None
    if _others(before) != _others(after) or read_exposure(after) != wanted:
        raise ConfigError(
            f"{where} is written in a way that a program can't edit. Set this by hand: "
            f"listen = {wanted.listen!r}, advertise = {list(wanted.advertise)!r}"
        )
    return changed


def _set(document: tomlkit.TOMLDocument, key: str, value: Any) -> None:
    if key in document and document[key] == value:
        return  # so that comments within its brackets stay
    if value or _has_comment(document, key):
        document[key] = value
    elif key in document:
        del document[key]


def _has_comment(document: tomlkit.TOMLDocument, key: str) -> bool:
    found = document.item(key) if key in document else None
    return isinstance(found, Item) and bool(found.trivia.comment)


def _others(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("listen", "advertise")}


def read_exposure(values: dict[str, Any]) -> Exposure:
    """Return the two settings out of the values of a palace.toml."""
    advertise = values.get("advertise") or ()
    return Exposure(
        listen=str(values.get("listen", "")),
        advertise=tuple(str(entry) for entry in advertise) if isinstance(advertise, list) else (),
    )


def expose_docker(paths: Paths, environment: ShimEnvironment, *, port: int = 0) -> str:
    """Have the broker listen for containers; return what to tell the user."""
    wanted = exposure_here(port or PORT)
    before = _change(paths, environment, wanted)
    return "\n".join(
        [
            f"{paths.settings}: {_text(wanted)}",
            *([f"  before: {_text(before)}"] if before not in (wanted, NOWHERE) else []),
            *_next_steps(paths),
        ]
    )


def expose_off(paths: Paths, environment: ShimEnvironment) -> str:
    """Have the broker listen for no containers any more; return what to tell the user."""
    before = _change(paths, environment, NOWHERE)
    if before == NOWHERE:
        return f"{paths.settings}: the broker does not listen for guests; nothing was changed."
    return (
        f"{paths.settings}: guests are served nowhere (before: {_text(before)}).\n"
        "A broker that runs goes on listening until it leaves: palace stop"
    )


def show_exposure(paths: Paths, _environment: ShimEnvironment) -> str:
    """Say what palace.toml says, and what the running broker does."""
    text = _read(paths, Kernel())
    try:
        found = read_exposure(decode_toml((text or "").encode()))
    except ValueError as error:
        raise ConfigError(f"{paths.settings} is not valid TOML: {error}. Correct it.") from None
    record = read_record(paths, Kernel())
    served = published_for_guests(record)
    running = f"guests are served at {', '.join(served)}" if served else "no guests are served"
    return f"{paths.settings}: {_text(found)}\nNow: {running}."


def _text(found: Exposure) -> str:
    if not found.listen:
        return "listen nowhere"
    names = ", ".join(found.advertise or (found.listen,))
    return f"listen at {found.listen}, known to guests as {names}"


def _read(paths: Paths, kernel: Kernel) -> str | None:
    data = kernel.read_file(paths.settings, TOML_BYTES_MAX)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{paths.settings} is not valid TOML: {error}. Correct it.") from None


def _change(paths: Paths, environment: ShimEnvironment, wanted: Exposure) -> Exposure:
    """Write the settings if they differ; return what they were."""
    kernel = Kernel()
    lock.check_directory(
        paths, kernel, environment.all
    )  # a guest must not decide where the broker listens
    text = _read(paths, kernel)
    if text is None:
        if wanted == NOWHERE:
            return NOWHERE
        text = _adopt(paths, environment, kernel)
    changed = with_exposure(text, wanted, paths.settings)
    if changed != text:
        kernel.write_durable(paths.settings, changed.encode())
    return read_exposure(decode_toml(text.encode()))


def _adopt(paths: Paths, environment: ShimEnvironment, kernel: Kernel) -> str:
    """Write the first palace.toml as a broker would, under the lock; return its text."""
    try:
        owner = lock.take_lock(paths, kernel)
    except LockHeld as error:
        text = _read(paths, kernel)
        if text is None:  # the broker that is starting has yet to write it
            raise LockHeld(f"{error.message}. A broker is just starting: try again.") from None
        return text
    try:
        adopt(paths, load_config(paths, environment.all, kernel), kernel)
    finally:
        kernel.close(owner.lock_fd)
    return _read(paths, kernel) or ""


def _next_steps(paths: Paths) -> list[str]:
    lines = [
        "Next:",
        "  palace stop      if a broker is running; the next one listens there",
        "In each container:",
        f"  mount the palace, for example -v {paths.root}:/palace -e MEMPALACE_PATH=/palace",
        "  register palace shim in its MCP configuration, as everywhere",
    ]
    if sys.platform != "darwin":
        lines += [
            f'  extra_hosts: ["{NAME}:host-gateway"], to reach this machine by that name',
            "Plain Docker on Linux needs none of this: a container with the palace bind mounted",
            "uses the broker's socket.",
        ]
    return [*lines, "Run palace doctor --boundary in the container to see whether it works."]
