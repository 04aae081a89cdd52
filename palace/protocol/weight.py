"""How much a line of JSON would become when it is parsed, told from its bytes alone.

Parsing holds the interpreter's lock from the first byte to the last, in whatever thread: a line of
nothing but brackets takes a quarter of a microsecond for each byte, and 25 bytes of memory, and
no other client is served meanwhile.  Text is another matter: it is copied.  So a line may be long,
but the values in it are bounded, and counted before it is parsed, piece by piece, so that other
threads get their turn.

Rule for this file: pure.
"""

import re

VALUES_MAX = 100_000  # of one line: parsed within 0.1 s
SHORT_BYTES = 65_536  # a line that can't hold enough values to matter is parsed at once
TEXT_BYTES = 2_097_152  # nor can one up to here whose strings are the most of it: 2 ms
_QUOTES_MAX = 2000  # that are looked at to tell
_RUN_MAX = 64  # backslashes before a quote
_PIECE = 65_536
_TAIL = 8192

# The members after the outermost object's last value; an id among them is the request's.
_LAST_ID = re.compile(
    rb'[,{]\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d{1,20})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z'
)
_FIRST_ID = re.compile(
    rb'\A\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?(?:"method"\s*:\s*"[\w/]*"\s*,\s*)?'
    rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d{1,20})\s*[,}]'
)


def is_light(line: bytes) -> bool:
    """Tell whether a line is parsed within 2 ms, whatever it holds.

    So is a short one, and one that is short without its strings, if they are few: as with a long
    text that is to be filed.  False also where that can't be told soon.
    """
    if len(line) <= SHORT_BYTES:
        return True
    if len(line) > TEXT_BYTES:
        return False
    at, outside, in_string = 0, 0, False
    for _ in range(_QUOTES_MAX):
        quote = line.find(b'"', at)
        if quote < 0:
            return outside + (0 if in_string else len(line) - at) <= SHORT_BYTES
        before = line[max(at, quote - _RUN_MAX) : quote]
        run = len(before) - len(before.rstrip(b"\\"))
        if run == _RUN_MAX:  # odd or even can't be told: a guess could hide what follows
            return False
        if not in_string:
            outside += quote - at
            in_string = True
        elif run % 2 == 0:
            in_string = False
        at = quote + 1
    return False


def has_too_many_values(line: bytes, most: int = VALUES_MAX) -> bool:
    """Tell whether a line of JSON holds more than `most` values, of which strings may hold any."""
    values = 0
    in_string = False
    rest = b""
    for start in range(0, len(line), _PIECE):
        # What is escaped ends no string: pairs of backslashes first, then quotes behind one.
        piece = (rest + line[start : start + _PIECE]).replace(b"\\\\", b"")
        rest = piece[-1:] if piece.endswith(b"\\") else b""
        parts = piece[: len(piece) - len(rest)].replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if values > most:
            return True
    return False


def id_at_ends(line: bytes) -> bytes:
    """Return a request's id as JSON where a client usually writes it, first or last; else null."""
    found = _FIRST_ID.match(line[:_TAIL]) or _LAST_ID.search(line[-_TAIL:])
    return found[1] if found else b"null"
