"""Finding the request id of a line that is too long to be kept.

An 80 MB line is refused, but its error must carry the id, which may stand before or after the
payload.  So the line is scanned as it streams by, in constant memory: strings are skipped with
`find`, only the members of the outermost object are looked at.

Rule for this file: pure; the shim imports it only when a line is too long.
"""

import json

_TOKEN_BYTES_MAX = 4096  # an id longer than that is not echoed


class IdScanner:
    """Feed the bytes of one line; `request_id()` then says what was found (None: nothing)."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._token = bytearray()  # the string or scalar at depth 1 that is being read
        self._keep = False
        self._key: bytes | None = None
        self._after_colon = False
        self._found: bytes | None = None

    def feed(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            if self._in_string:
                position = self._skip_string(data, position)
            else:
                position = self._structure(data, position)

    def request_id(self) -> object:
        self._end_value()
        if self._found is None:
            return None
        try:
            # As a line is decoded that is not too long (jsonrpc.py): the same id in its reply.
            return json.loads(self._found.decode("utf-8", "replace"))
        except ValueError:
            return None

    def _remember(self, piece: bytes) -> None:
        if self._keep and len(self._token) <= _TOKEN_BYTES_MAX:
            self._token += piece

    def _skip_string(self, data: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            self._remember(data[position : position + 1])
            return position + 1
        quote = data.find(b'"', position)
        end = len(data) if quote < 0 else quote
        slash = data.find(b"\\", position, end)
        if slash >= 0:
            self._remember(data[position : slash + 1])
            self._escaped = True
            return slash + 1
        self._remember(data[position:end])
        if quote < 0:
            return end
        self._remember(b'"')
        self._in_string = False
        return quote + 1

    def _structure(self, data: bytes, position: int) -> int:
        char = data[position : position + 1]
        if char == b'"':
            self._in_string = True
            self._keep = self._depth == 1
            if self._keep:
                self._token = bytearray(b'"')
        elif char in b"{[":
            self._depth += 1
        elif char in b"}]":
            if self._depth == 1:
                self._end_value()
            self._depth -= 1
        elif self._depth == 1:
            self._member(char)
        return position + 1

    def _member(self, char: bytes) -> None:
        if char == b":":
            self._key = bytes(self._token)
            self._token = bytearray()
            self._after_colon = True
        elif char == b",":
            self._end_value()
        elif not char.isspace() and len(self._token) <= _TOKEN_BYTES_MAX:
            self._token += char

    def _end_value(self) -> None:
        if self._after_colon and self._key == b'"id"' and self._token:
            self._found = bytes(self._token)
        self._after_colon = False
        self._key = None
        self._token = bytearray()
