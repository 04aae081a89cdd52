"""A broker's connection as the relay uses it: what has to leave, and what may still be said.

Rule for this file: light, since every shim imports it.
"""

from palace.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from palace.protocol.ledger import Ledger

ACK_LINES = 64  # settled lines between two acks: a header for each would cost a send each
NO_ORDINAL = -1  # of what the shim says by itself, and of a line's first part
LONG_BYTES = 65_536  # from here on a second write costs less than a copy
NEWLINE = memoryview(b"\n")


class Connection:
    """One greeted socket, which `close` closes; no method waits.

    `state` is OPEN, then HALF_CLOSED once the last line has left (replies still come), then
    PARTING once the broker said goodbye: nothing new goes to it.
    """

    OPEN, HALF_CLOSED, PARTING = "open", "half closed", "parting"

    __slots__ = ("_acknowledged", "_ledger", "_received", "sock", "state", "unsent")

    def __init__(self, sock: "socket", ledger: "Ledger") -> None:
        self.sock = sock
        self.state = self.OPEN
        self.unsent: list[tuple[int, memoryview]] = []
        self._ledger = ledger
        self._received: list[bytes] = []  # the beginning of a reply, in pieces
        self._acknowledged = 0  # by this connection: the last one's acks may not have arrived

    def queue(self, ordinal: int, line: bytes) -> None:
        """Let a line leave behind those that wait; `send` sends it."""
        if len(line) < LONG_BYTES:
            self.unsent.append((ordinal, memoryview(line + b"\n")))
        else:
            self.unsent.append((NO_ORDINAL, memoryview(line)))
            self.unsent.append((ordinal, NEWLINE))

    def send(self, *, no_more: bool) -> None:
        """Hand unsent lines to the kernel, as many as it takes; then half-close if `no_more`."""
        try:
            while self.unsent:
                ordinal, rest = self.unsent[0]
                sent = self.sock.send(rest)
                if sent < len(rest):
                    self.unsent[0] = (ordinal, rest[sent:])
                    return
                # Not before its last byte left: half a line can't have been carried out.
                self._ledger.mark_sent(ordinal)
                del self.unsent[0]
        except OSError:
            return  # full (poll tells), or gone: its end is read next, after the replies before it
        if no_more and self.state == self.OPEN:
            self._half_close()

    def _half_close(self) -> None:
        self.state = self.HALF_CLOSED
        upto = str(self._ledger.settled_upto())
        try:
            try:  # with the last word goes what the broker need not remember any more
                self.sock.send(wire.encode_header(wire.ACK, {"upto": upto}))
            finally:
                self.sock.shutdown(1)
        except OSError:
            return

    def part(self) -> None:
        """Note the broker's goodbye: what has not left yet goes to the next one."""
        self.state = self.PARTING
        self.unsent = []

    def acknowledge(self) -> None:
        """Tell the broker now and then what is settled for good: it need not remember that.

        The header waits behind the lines in `unsent`: the first of them may have left in part.
        """
        upto = self._ledger.settled_upto()
        if upto < self._acknowledged + ACK_LINES or self.state != self.OPEN:
            return
        self._acknowledged = upto
        ack = wire.encode_header(wire.ACK, {"upto": str(upto)})
        self.unsent.append((NO_ORDINAL, memoryview(ack)))
        self.send(no_more=False)

    def split(self, data: bytes) -> "list[bytes]":
        """Return the lines that are complete with these bytes; the rest is kept for the next."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._received:  # joined once, however long the reply is
            lines[0] = b"".join((*self._received, lines[0]))
            self._received = []
        if rest:
            self._received.append(rest)
        return lines

    def close(self) -> None:
        self.sock.close()
