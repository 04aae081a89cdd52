"""The client's lines, out of the pieces in which its pipe delivers them.

Rule for this file: light, since every shim imports it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.protocol.oversize import IdScanner

STDIN, STDOUT = 0, 1
CHUNK = 65_536  # from 128 KiB on malloc maps and unmaps memory at each read: 13 us each
LINE_BYTES_MAX = 33_554_432  # until a broker says otherwise


class ClientGone(Exception):
    """Our client no longer reads our stdout."""


class InputLines:
    """Lines without their newline, blank ones left out.

    A line of more than `line_bytes_max` bytes is not kept: it comes out as the scanner that has
    looked for its id meanwhile, so that it can be refused by name.
    """

    __slots__ = ("_bytes", "_pieces", "_scanner", "line_bytes_max")

    def __init__(self) -> None:
        self.line_bytes_max = LINE_BYTES_MAX
        self._pieces: list[bytes] = []  # the beginning of a line
        self._bytes = 0
        self._scanner: IdScanner | None = None

    def feed(self, data: bytes) -> "list[bytes | IdScanner]":
        """Return the lines that end in these bytes."""
        *ends, rest = data.split(b"\n")
        lines = [line for end in ends if (line := self._complete(end))]
        if rest:
            self._keep(rest)
        return lines

    def end(self) -> "list[bytes | IdScanner]":
        """Return half a line before the end of the input: stock answers that, too."""
        line = self._complete(b"")
        return [line] if line else []

    def _complete(self, last: bytes) -> "bytes | IdScanner":
        if self._pieces or self._scanner is not None:
            self._keep(last)
            last = b"".join(self._pieces)
        scanner = self._scanner
        self._pieces, self._bytes, self._scanner = [], 0, None
        if scanner is not None:
            return scanner
        if len(last) > self.line_bytes_max:  # it came in one piece
            return _scan([last])
        return last if last.strip() else b""

    def _keep(self, piece: bytes) -> None:
        if self._scanner is not None:
            self._scanner.feed(piece)
            return
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes > self.line_bytes_max:
            self._scanner = _scan(self._pieces)
            self._pieces = []


def _scan(pieces: "list[bytes]") -> "IdScanner":
    from palace.shim.local_answers import scanner_of

    return scanner_of(pieces)
