"""Secrets out of a text, before anything is journalled, embedded, logged or answered.

What is found is replaced by `[REDACTED:kind]`, whole: up to the end of the token, of the quotes, of
the block. A secret that only its name gives away is replaced wherever else it stands, too.
Doing it twice changes nothing more. The time it takes grows with the length of the text, whatever
the text is (docs/decisions/0048-what-counts-as-a-secret.md has the figures).
"""

import re
from collections.abc import Iterator

from palace.memory.assignments import find_assignments, lowered
from palace.memory.blocks import find_blocks
from palace.memory.carriers import find_carried
from palace.memory.runs import Finding, Runs, is_filler, looks_random
from palace.memory.tokens import find_tokens
from palace.memory.views import View, unwrapped, view_of
from palace.protocol.errors import InvalidMemory

ROUNDS_MAX = 8
ECHOES_MAX = 256
ECHO_CHARS_MIN, ECHO_CHARS_MAX = 8, 4096

_PARTS = re.compile(r"[\s;,=&\"']++")


def redact(text: str) -> str:
    """Return a text without its secrets.

    Raises InvalidMemory for a text in which new ones appear again and again, and so none is certain
    to be the last.
    """
    for _ in range(ROUNDS_MAX):
        found = find_secrets(text)
        if not found:
            return text
        text = _replaced(text, found)
    raise InvalidMemory(
        "the content holds secrets within secrets, so that they can't be taken out with certainty. "
        "Leave out what is secret, and store it again"
    )


def find_secrets(text: str) -> list[Finding]:
    """Return where a text has secrets, in order; they don't overlap."""
    view = view_of(text)
    found = [_in_source(view, finding) for finding in _find(view)]
    joined = unwrapped(view)
    if joined is not None:
        runs = Runs(joined.text)
        wrapped = (*find_tokens(runs, joined), *find_blocks(joined.text, wrapped=True))
        found += [_in_source(joined, finding) for finding in wrapped]
    return _disjoint(found)


def _find(view: View) -> Iterator[Finding]:
    runs, small = Runs(view.text), lowered(view.text)
    yield from find_tokens(runs, view)
    yield from find_blocks(view.text, wrapped=False)
    named = [*find_carried(view.text, small), *find_assignments(runs, small)]
    yield from named
    yield from _echoes(view.text, named)


def _echoes(text: str, named: list[Finding]) -> Iterator[Finding]:
    """Yield where else secrets stand that their names have given away."""
    secrets: dict[str, str] = {}
    for kind, start, end in named:
        whole = text[start : min(end, start + ECHO_CHARS_MAX)]
        parts = _PARTS.split(whole)
        telling = [part for part in parts if _is_telling(part)]
        if len(parts) > 1 and len(whole) >= 12:
            telling.append(whole)
        for part in telling:
            if len(secrets) < ECHOES_MAX:
                secrets.setdefault(part, kind)
    for secret, kind in secrets.items():
        for place in re.finditer(re.escape(secret), text):
            yield Finding(kind, *place.span())


def _is_telling(part: str) -> bool:
    """Tell whether a part of a secret is no word that may well stand elsewhere."""
    if len(part) < ECHO_CHARS_MIN or is_filler(part):
        return False
    return not part.isalpha() or looks_random(part)


def _in_source(view: View, finding: Finding) -> Finding:
    return Finding(finding.kind, *view.span(finding.start, finding.end))


def _disjoint(found: list[Finding]) -> list[Finding]:
    """Return findings in order; of those that overlap one, of the kind of the longest."""
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda finding: (finding.start, -finding.end)):
        if kept and finding.start < kept[-1].end:
            last = kept[-1]
            kind = max(last, finding, key=lambda one: one.end - one.start).kind
            kept[-1] = Finding(kind, last.start, max(last.end, finding.end))
        else:
            kept.append(finding)
    return kept


def _replaced(text: str, found: list[Finding]) -> str:
    pieces: list[str] = []
    done = 0
    for finding in found:
        pieces += (text[done : finding.start], f"[REDACTED:{finding.kind}]")
        done = finding.end
    pieces.append(text[done:])
    return "".join(pieces)


def redacted_values(value: object) -> object:
    """Return JSON without the secrets in its texts; names of fields stay as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted_values(inner) for inner in value]
    if isinstance(value, dict):
        return {name: redacted_values(inner) for name, inner in value.items()}
    return value
