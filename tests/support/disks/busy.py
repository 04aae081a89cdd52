"""A disk that others use at the same time."""

from collections.abc import Callable

from tests.support.disks.memory import Disk


class Busy(Disk):
    """A disk on which somebody else has a turn before every call."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Callable[[], None] | None = None
        self.turns = 0

    def _enter(self, call: str, path: str) -> None:
        if self.turn is not None:
            turn, self.turn = self.turn, None
            self.turns += 1
            turn()
            self.turn = turn
        super()._enter(call, path)
