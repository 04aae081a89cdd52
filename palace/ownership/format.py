"""Which palace may serve a directory: the file `protocol` keeps those away that know too little.

Its number is 1000 * format + protocol.  The *protocol* is the newest that the palace was served
with, since two that take turns with different ones would do so for ever (docs/decisions/0012).  The
*format* says what its files need of whoever opens them: 0 for a palace as every version knows it,
1 once it has a register (docs/decisions/0046).  Versions that know of no format read the number as
that of a protocol, and refuse it as one that they don't speak.

Standard library only, and light: every election runs through here.
"""

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import LockFailed, VersionMismatch
from palace.settings.installation import command_for
from palace.settings.paths import Paths

PLAIN = 0
WITH_REGISTER = 1
NEWEST = WITH_REGISTER  # what this version can serve
_STEP = 1000  # so many protocols there will never be
_BYTES_MAX = 200


class Served:
    """What a palace's file says: a protocol and a format; `by` is the version that wrote it."""

    __slots__ = ("by", "format", "protocol")

    def __init__(self, protocol: int, form: int, by: str = "") -> None:
        self.protocol = protocol
        self.format = form
        self.by = by

    @property
    def is_too_new(self) -> bool:
        return self.protocol > wire.VERSION or self.format > NEWEST

    def encode(self) -> bytes:
        return f"{self.format * _STEP + self.protocol} {__version__}\n".encode()

    def what_is_new(self) -> str:
        """Say what this version doesn't know, for an error: two clauses without an end."""
        if self.protocol > wire.VERSION:
            return (
                f"(protocol {self.protocol}), and palace {__version__} here speaks {wire.VERSION}"
            )
        return f"(format {self.format}), and palace {__version__} here knows formats up to {NEWEST}"


def decode_served(data: bytes) -> Served:
    """Return what the file's contents say; raises ValueError."""
    words = data.split()
    number = wire.whole_number(words[0] if words else b"")
    by = words[1].decode(errors="replace") if len(words) > 1 else ""
    return Served(number % _STEP, number // _STEP, by)


def keep_format(paths: Paths, kernel: Kernel) -> None:
    """Refuse to serve what a younger palace has served; note that this version has.

    Raises VersionMismatch, and LockFailed where the file says nothing.
    """
    served = read_format(paths, kernel)
    if served.is_too_new:
        raise VersionMismatch(
            f"The palace {paths.root} was served by a younger palace {served.what_is_new()}. "
            f"Upgrade it ({command_for()}), or, to go back for good, remove "
            f"{paths.protocol}."
        )
    if served.protocol < wire.VERSION:
        _write(paths, kernel, Served(wire.VERSION, served.format))


def need_register(paths: Paths, kernel: Kernel) -> None:
    """Keep versions away that know of no register, durably; call it before one is written."""
    served = read_format(paths, kernel)
    if served.format < WITH_REGISTER:
        _write(paths, kernel, Served(max(served.protocol, wire.VERSION), WITH_REGISTER))


def read_format(paths: Paths, kernel: Kernel) -> Served:
    """Return what the palace's file says; raises LockFailed where that is nothing, OSError."""
    data = kernel.read_file(paths.protocol, _BYTES_MAX)
    if data is None:
        return Served(0, PLAIN)
    try:
        return decode_served(data)
    except ValueError:
        raise LockFailed(
            f"{paths.protocol} does not say by which protocol the palace was last served. Restore "
            "it from a backup, or remove it if no newer palace than this one has served it."
        ) from None


def _write(paths: Paths, kernel: Kernel, served: Served) -> None:
    kernel.write_durable(paths.protocol, served.encode())
