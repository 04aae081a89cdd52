"""What a client is told of a call of its own that has no reply yet, if it asked for that.

It is said here and not by the broker, so that progress goes on rising over the death of brokers,
and so that something is said while there is none.

Rule for this file: light, since every shim imports it; JSON is read only when there is news.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.kernel.kernel import Kernel
    from palace.protocol.ledger import Ledger

ASKS = b'"progressToken"'
TELL_S = 1.0  # between two notes that come from here
WATCHED_MAX = 64  # before those that were answered are forgotten
SEEKING = "looking for the palace's broker"


class ProgressNotes:
    """The calls of one session that may have asked; `note` and `seeking` return lines to write."""

    __slots__ = ("_kernel", "_ledger", "_since_s", "_told_s")

    def __init__(self, kernel: "Kernel", ledger: "Ledger") -> None:
        self._kernel = kernel
        self._ledger = ledger
        self._since_s: dict[int, float] = {}  # by ordinal
        self._told_s = 0.0

    def watch(self, ordinal: int, line: bytes) -> None:
        """Remember when a line came that may ask for progress."""
        if ASKS not in line:
            return
        if len(self._since_s) >= WATCHED_MAX:  # most have been answered long ago
            self._since_s = {o: s for o, s in self._since_s.items() if self._ledger.line(o)}
        self._since_s[ordinal] = self._kernel.monotonic()

    def note(self, ordinal: int, text: str) -> bytes:
        """Return a line that tells how a call comes on; b"" where its client asks for none."""
        line, since_s = self._ledger.line(ordinal), self._since_s.get(ordinal)
        if since_s is None or not line:
            self._since_s.pop(ordinal, None)
            return b""
        from palace.shim.local_answers import progress_line

        self._told_s = self._kernel.monotonic()
        return progress_line(line, self._told_s - since_s, text)

    def forget(self, ordinal: int) -> None:
        """Tell no more of a call: it has been answered with a task."""
        self._since_s.pop(ordinal, None)

    def seeking(self) -> bytes:
        """Return lines that tell all calls that there is no broker yet; b"" before it is time."""
        if not self._since_s or self._kernel.monotonic() < self._due_s():
            return b""
        return b"".join(self.note(ordinal, SEEKING) for ordinal in tuple(self._since_s))

    def timeout_s(self, timeout_s: float) -> float:
        """Return how long to wait while there is no broker, if not for `timeout_s`."""
        if not self._since_s:
            return timeout_s
        return min(timeout_s, max(0.0, self._due_s() - self._kernel.monotonic()))

    def _due_s(self) -> float:
        return max(self._told_s, min(self._since_s.values())) + TELL_S
