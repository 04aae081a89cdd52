"""The lines of one session that the broker has not settled yet, and what may be sent again.

Theory of operation.  A line is *waiting* until its last byte was handed to a connection, then
*sent*: from there on it may have been carried out.  A reply settles it.  When a connection ends,
every unsettled line goes again over the next one, in order, and HELLO says of each whether it may
have run: only the broker, which knows the tools, decides what a second delivery means.

A line that was under way at every one of several deaths may be their cause: it is given up.
Whether an owner died is for the caller to know: a connection may end by itself.

Rule for this file: pure, light (the shim imports it); it knows lines, not JSON.
"""

DEATHS_MAX = 5  # of owners, with one line under way at each


class Ledger:
    """Unsettled lines of one session, by ordinal, oldest first."""

    __slots__ = ("_deaths", "_lines", "_old_epoch", "_sent", "bytes", "next_ordinal")

    def __init__(self) -> None:
        self._lines: dict[int, bytes] = {}
        self._sent: set[int] = set()
        self._deaths: dict[int, int] = {}
        self._old_epoch = -1  # which HELLO named while there were old lines, -1 for none
        self.next_ordinal = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def accept(self, line: bytes) -> int:
        """Take a line (newline excluded) from the client; return its ordinal."""
        ordinal = self.next_ordinal
        self.next_ordinal = ordinal + 1
        self._lines[ordinal] = line
        self.bytes += len(line)
        return ordinal

    def mark_sent(self, ordinal: int) -> None:
        """Note that the line's last byte left: from now on it may have been carried out."""
        if ordinal in self._lines:
            self._sent.add(ordinal)

    def settle(self, ordinal: int) -> bool:
        """Forget a line; False when it is not known (a second reply, which is then dropped)."""
        line = self._lines.pop(ordinal, None)
        if line is None:
            return False
        self._sent.discard(ordinal)
        self._deaths.pop(ordinal, None)
        self.bytes -= len(line)
        return True

    def goodbye(self, read_upto: int, unrun: "list[int]") -> None:
        """Take the broker's word: lines after `read_upto`, and those in `unrun`, did not run."""
        not_run = set(unrun)
        self._sent = {o for o in self._sent if o <= read_upto and o not in not_run}

    def died(self) -> "list[int]":
        """Note that the owner died; return the lines that were under way too often to be resent."""
        for ordinal in self._sent:
            self._deaths[ordinal] = self._deaths.get(ordinal, 0) + 1
        return [ordinal for ordinal, deaths in self._deaths.items() if deaths >= DEATHS_MAX]

    def line(self, ordinal: int) -> bytes:
        """Return an unsettled line, b"" for any other."""
        return self._lines.get(ordinal, b"")

    def maybe_ran(self, ordinal: int) -> bool:
        return ordinal in self._sent

    @property
    def may_have_run(self) -> "list[int]":
        """Return the unsettled lines that may have been carried out, oldest first."""
        return sorted(self._sent)

    def outstanding(self) -> "list[tuple[int, bytes]]":
        """Return the unsettled lines, oldest first."""
        return list(self._lines.items())

    def settled_upto(self) -> int:
        """Return the oldest unsettled ordinal: all below it are settled for good."""
        return next(iter(self._lines), self.next_ordinal)

    def epoch_of_lines(self, last: int) -> int:
        """Return the epoch that the next HELLO names; `last` is that of the last owner.

        It is not later than that of any owner to which a line that may have run was sent: an owner
        before the last may have carried it out, too.
        """
        if not self._sent:
            self._old_epoch = -1
            return last
        if self._old_epoch < 0:
            self._old_epoch = last
        return self._old_epoch

    def resend_list(self) -> "list[tuple[int, bool]]":
        """Return (ordinal, may have run) for all that the next connection must carry first."""
        return [(ordinal, ordinal in self._sent) for ordinal in self._lines]
