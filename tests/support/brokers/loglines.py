"""Reading back what palace/kernel/logline.py writes."""

import json
import re

_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "=\\]+)(?: |$)')


def fields_of(line: str) -> dict[str, str]:
    """Return the fields of one line of a log; anything else is an error."""
    found = {}
    place = 0
    line = line.rstrip("\n")
    while place < len(line):
        pair = _PAIR.match(line, place)
        assert pair is not None, line
        found[pair[1]] = json.loads(pair[2]) if pair[2].startswith('"') else pair[2]
        place = pair.end()
    return found
