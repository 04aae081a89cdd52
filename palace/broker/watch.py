"""Looking at what an owner holds and publishes, for as long as it serves.

Locks, sockets and files are found by name, and names can be removed under their holder: a cleaner
of /tmp, the end of a login, `rm -rf ~/.mempalace`.  A lock on a file without a name keeps out no
process that comes later, and a socket without one is found by none.  So everything of that kind is
a `Holding`, looked at by name and identity with each tick of the clock and before a call begins.

What is gone is taken or published again where nobody else can have had it meanwhile.  Where
somebody may, or where it can't be had again, the owner has lost it: it leaves as moved, and the
next one takes what it needs and adopts what was written in between.
"""

import logging
from collections.abc import Callable

import attrs

from palace.broker.leaving import Leaving
from palace.broker.telemetry.telemetry import Telemetry
from palace.kernel.kernel import Kernel
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import Lifecycle, Phase, Reason

LOOK_S = 0.05  # calls may come faster than anybody removes files
PATIENCE_S = 10.0  # a full disk may have room again
FILE_BYTES_MAX = 1 << 20

logger = logging.getLogger("palace.broker")


class Lost(Exception):
    """A holding is another process's now, or can't be had again; the text says which and why."""


@attrs.define(eq=False, kw_only=True)
class Holding:
    """One thing that an owner holds or publishes under a name.

    `is_ours` looks, and may raise OSError.  `renew` takes or publishes it again; it raises `Lost`
    or a PalaceError where that is not safe, and OSError where it has to be tried again.  Without a
    `vital` one the palace is unsafe or can't be found: an owner that can't renew it leaves, and
    after `patience_s` also where it goes on raising OSError.
    """

    name: str
    path: str
    is_ours: Callable[[], bool]
    renew: Callable[[], None]
    vital: bool = True
    patience_s: float = PATIENCE_S
    renewed: int = 0
    problem: str = ""
    missing_since_s: float = 0.0


@attrs.define(eq=False, kw_only=True)
class Watch:
    """One owner's holdings, in the order in which they are looked at: what decides comes first."""

    lifecycle: Lifecycle
    telemetry: Telemetry
    leaving: Leaving
    _holdings: dict[str, Holding] = attrs.field(factory=dict)
    _looked_s: float = -1.0

    def add(self, holding: Holding) -> None:
        """Look after one more; it takes the place of another one of that name."""
        self._holdings[holding.name] = holding

    def look_soon(self, now_s: float) -> None:
        """Look, unless that has just been done: a call is about to begin."""
        if now_s - self._looked_s >= LOOK_S:
            self.look(now_s)

    def look(self, now_s: float) -> None:
        """Renew what is gone; where that is not safe, begin to leave."""
        self._looked_s = now_s
        for holding in list(self._holdings.values()):
            if self.lifecycle.phase is Phase.DRAINING:  # names are removed by ourselves
                return
            self._look_at(holding, now_s)

    def report(self) -> list[dict[str, object]]:
        """Return, for `palace status`, each holding: how often it was renewed, what is wrong."""
        return [
            {
                "name": holding.name,
                "path": holding.path,
                "renewed": holding.renewed,
                "problem": holding.problem,
            }
            for holding in self._holdings.values()
        ]

    def _look_at(self, holding: Holding, now_s: float) -> None:
        try:
            if holding.is_ours():
                holding.problem = ""
                return
            holding.renew()
        except OSError as error:
            self._trouble(holding, f"{holding.path}: {error.strerror}", now_s)
            return
        except (Lost, PalaceError) as lost:
            if holding.vital:
                self._leave(holding, str(lost))
            else:
                self._trouble(holding, str(lost), now_s)
            return
        holding.renewed += 1
        holding.problem = ""
        text = f"{holding.name} was removed or replaced, and renewed: {holding.path}"
        logger.warning("%s", text)
        self.telemetry.note_error(text)

    def _trouble(self, holding: Holding, text: str, now_s: float) -> None:
        if not holding.problem:
            holding.missing_since_s = now_s
            logger.warning("%s is gone and can't be renewed: %s", holding.name, text)
            self.telemetry.note_error(f"{holding.name} is gone and can't be renewed: {text}")
        holding.problem = text
        if holding.vital and now_s - holding.missing_since_s >= holding.patience_s:
            self._leave(holding, text)

    def _leave(self, holding: Holding, text: str) -> None:
        holding.problem = text
        self.telemetry.note_error(text)
        self.leaving.stop(Reason.MOVED, text=f"{holding.name}: {text}")


def cannot_renew(text: str) -> Callable[[], None]:
    """Return a `renew` for what an owner has once: gone is lost."""

    def renew() -> None:
        raise Lost(text)

    return renew


@attrs.define(eq=False, kw_only=True)
class PublishedFile:
    """A file that others read, written by its owner; None as its `data` is: there must be none.

    `judge` is asked where it holds something else.  It returns what the file may say from here on:
    what was found, or our own again; it raises `Lost` where the file is another process's.
    `prepare` makes the directory again, where that may have been removed with it.
    """

    path: str
    kernel: Kernel
    data: bytes | None
    judge: Callable[[bytes], bytes | None]
    durable: bool = True
    prepare: Callable[[], None] = lambda: None
    _seen: tuple[int, int, int] | None = None

    def is_ours(self) -> bool:
        seen = self.kernel.signature(self.path)
        if seen == self._seen and (seen is None) == (self.data is None):
            return True
        found = self.kernel.read_hint(self.path, FILE_BYTES_MAX)  # None also for what is no file
        if found is not None and found != self.data:
            self.data = self.judge(found)
        if found != self.data:
            return False
        self._seen = seen
        return True

    def renew(self) -> None:
        self.prepare()
        if self.data is None:
            self.kernel.unlink(self.path)
        elif self.durable:
            self.kernel.write_durable(self.path, self.data)
        else:
            self.kernel.replace_file(self.path, self.data)
        self._seen = self.kernel.signature(self.path)

    def holding(self, name: str, *, vital: bool = True) -> Holding:
        return Holding(
            name=name, path=self.path, is_ours=self.is_ours, renew=self.renew, vital=vital
        )
