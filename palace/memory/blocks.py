"""Private keys in their armour, from BEGIN to END, also where one of the two is missing.

`-----BEGIN ... PRIVATE KEY-----`, PGP's, SSH2's and PuTTY's, on lines or on one with the breaks
written out. Certificates and public keys are no secrets, and neither is a mention of the two lines.
"""

import re
from collections.abc import Iterator

from palace.memory.runs import Finding

KIND = "private-key"

_MARK = re.compile(
    r"-{2,5}[ \t]?(?P<word>BEGIN|END)[ \t][A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?(?:[ \t]?-{2,5})?"
    r"|Private-Lines:[ \t]{0,4}\d{1,4}"
)
_LINE_END = re.compile(r"\r\n?|\n|\\r\\n|\\n|\\r")
_AROUND = " \t>|*#\"'`,;+\\"  # quotes, and what languages and mails put around lines
_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Comment|Version|Hash|Charset|Private-MAC|MessageID):")
_BASE64 = re.compile(r"(?>(?:[A-Za-z0-9+/=]{16,}+[ \t]{1,4}+)*)[A-Za-z0-9+/=]*+")
_KEY = re.compile(r"[A-Za-z0-9+/=]{16}")


def find_blocks(text: str, *, wrapped: bool) -> Iterator[Finding]:
    """Yield the private keys of a text; of one without its line breaks those with both ends."""
    marks = list(_MARK.finditer(text))
    begin = None
    floor = 0
    for index, mark in enumerate(marks):
        limit = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        if mark["word"] == "END":
            if begin is None:
                start = mark.start() if wrapped else _first_line(text, floor, mark.start())
            else:
                start = begin.start()
                begin = None
            if _KEY.search(text, start, mark.start()):
                yield Finding(KIND, start, mark.end())
        elif limit < len(text) and marks[index + 1]["word"] == "END":
            begin = mark
        elif not wrapped:
            end = _last_line(text, mark.end(), limit)
            if end > mark.end():
                yield Finding(KIND, mark.start(), end)
        floor = mark.end()


def _last_line(text: str, start: int, limit: int) -> int:
    """Return where a key's lines end, which go on at `start`; `start` where there are none."""
    last, key_before = start, False
    while start < limit:
        found = _LINE_END.search(text, start, limit)
        end, after = found.span() if found is not None else (limit, limit)
        line = text[start:end].strip(_AROUND)
        is_key = bool(line) and _BASE64.fullmatch(line) is not None
        if not is_key and line and not _HEADER.match(line):
            break
        key_before = is_key and (key_before or len(line) >= 16)
        if key_before:
            last = end
        start = after
    return last


def _first_line(text: str, floor: int, end: int) -> int:
    """Return where a key's lines begin, which end at `end`."""
    first = end
    starts = [floor, *(found.end() for found in _LINE_END.finditer(text, floor, end))]
    for start in reversed(starts):
        line = _LINE_END.sub("", text[start:first]).strip(_AROUND)
        if line and not _BASE64.fullmatch(line):
            break
        first = start
    return first
