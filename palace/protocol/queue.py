"""One session's admitted calls that wait, and what of it is asked at each call's begin and end."""

from collections import deque
from typing import Generic, Protocol, TypeVar

import attrs

from palace.protocol.tools import Lane, Tool


class Waits(Protocol):
    """What is asked of a call that waits (admission.py, `Job`)."""

    tool: Tool
    exclusive: bool


J = TypeVar("J", bound=Waits)
Group = tuple[str, bool, Lane]  # whose it is, whether it changes something, and in which lane


@attrs.define(eq=False)
class Queue(Generic[J]):
    """A session's calls; `group` is what it has in common with others, None where it isn't known.

    `shared` counts its readers that run, `exclusive` its writers that run and still count for the
    order.
    """

    session: str
    party: str
    waiting: deque[J] = attrs.field(factory=deque)
    group: Group | None = None
    shared: int = 0
    exclusive: int = 0

    def append(self, job: J) -> None:
        self.waiting.append(job)
        self.group = None

    def remove(self, job: J) -> None:
        self.waiting.remove(job)
        self.group = None

    def grouped(self) -> Group:
        """Return its group, and remember it: a party may have hundreds of sessions."""
        self.group = self.party, self._changes_next(), self.waiting[0].tool.lane
        return self.group

    def _changes_next(self) -> bool:
        """Tell whether what it waits for first changes something; long-polls are passed."""
        for job in self.waiting:
            if job.tool.lane is not Lane.POLL:
                return job.exclusive
        return False
