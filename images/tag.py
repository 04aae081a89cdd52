"""The tag of a build: the same for the same inputs, another for any other.  Pure."""

import hashlib
import json
from collections.abc import Callable, Mapping

from images.references import Reference, Unresolved

DIGITS = 20


def image_tag(
    files: Mapping[str, str], references: Mapping[str, Reference], nonce: Callable[[], str]
) -> str:
    """Return 20 hexadecimal digits over digests of files by path and what arguments stand for.

    Where a reference is not resolved, `nonce()` goes in as well: it must never return a value
    twice, so that the tag is one that nothing was built under.
    """
    parts = {
        "files": dict(files),
        "arguments": {name: each.value for name, each in references.items()},
    }
    lost = sorted(name for name, each in references.items() if isinstance(each, Unresolved))
    if lost:
        parts["unresolved"] = {name: nonce() for name in lost}
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
