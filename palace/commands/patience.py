"""Reading what may never answer: a disk of another machine, behind a mount that hangs.

No time is long for a source that is large.  It has to go on being read: of one that the kernel has
answered nothing about for a while, no more is expected.
"""

import errno
from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Protocol, TypeVar

import attrs

from palace.kernel.kernel import Kernel

SILENT_S = 60.0
_AHEAD = 200  # items that wait to be taken
_LOOK_S = 1.0

T = TypeVar("T")


class CountsAnswers(Protocol):
    """Tells how often a source was read from by now."""

    @property
    def answers(self) -> int: ...


class CountingKernel(Kernel):
    """A kernel that counts what it was asked about files, and has answered."""

    __slots__ = ("answers",)

    def __init__(self) -> None:
        self.answers = 0

    def open_read(self, path: str) -> int:
        fd = super().open_read(path)
        self.answers += 1
        return fd

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        data = super().read_at(fd, offset, size)
        self.answers += 1
        return data

    def list_directory(self, path: str) -> list[str]:
        names = super().list_directory(path)
        self.answers += 1
        return names


@attrs.frozen
class _Ended:
    """The last thing that a thread says: why it has ended, None at the end of what it reads."""

    why: BaseException | None


def in_time(items: Iterator[T], source: CountsAnswers, silent_s: float = SILENT_S) -> Iterator[T]:
    """Yield items that are read in a thread, and raise what is raised there.

    Raises TimeoutError once the source has answered nothing for so long, or twice that.  The thread
    is left to itself then: nobody can end one that waits for a kernel.
    """
    found: Queue[T | _Ended] = Queue(_AHEAD)
    over = Event()
    Thread(target=_read, args=(items, found, over), daemon=True).start()
    seen = -1
    try:
        while True:
            try:
                item = found.get(timeout=silent_s)
            except Empty:
                if (now := source.answers) == seen:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"nothing was read of it for {silent_s:g} s"
                    ) from None
                seen = now
                continue
            if not isinstance(item, _Ended):
                yield item
            elif item.why is None:
                return
            else:
                raise item.why
    finally:
        over.set()


def _read(items: Iterator[T], found: "Queue[T | _Ended]", over: Event) -> None:
    try:
        for item in items:
            if not _put(item, found, over):
                return
    except BaseException as problem:
        _put(_Ended(problem), found, over)
    else:
        _put(_Ended(None), found, over)


def _put(item: T | _Ended, found: "Queue[T | _Ended]", over: Event) -> bool:
    """Say something; False where nobody listens any more."""
    while not over.is_set():
        try:
            found.put(item, timeout=_LOOK_S)
        except Full:
            continue
        return True
    return False
