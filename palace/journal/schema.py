"""What a record may say, field by field: a journal may hold what somebody else has appended.

The palace's directory may be lent to a container, and a backup may be anybody's.  A record that
says what no record of ours says counts as damaged: it is named, and never carried out.  Payloads of
entities stay opaque here; each store reads its own.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from palace.protocol.decoding import is_number, is_text
from palace.protocol.keyring import CODE_BYTES

SEQ_MAX = 10**20 - 1  # twenty digits in a segment's name
STEP_MAX = 10**9
NAME_MAX = 1000  # characters of a time, a writer, a kind
KEY_MAX = 1000
FILE_KIND = "file"
# The only files that the journal keeps whole: an id of this kind is one of these names.
FILE_NAMES = ("mempalace_embedder.json", "replica.json")

_LIMITS = (("seq", SEQ_MAX), ("epoch", SEQ_MAX), ("step", STEP_MAX))
_TEXTS = (("ts", NAME_MAX), ("writer", NAME_MAX), ("key", KEY_MAX), ("action", NAME_MAX))


def problem_of(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a decoded record, "" where nothing is; payloads are left out."""
    for name, most in _LIMITS:
        if not is_number(fields[name], most):
            return f"its {name} is no number from 0 to {most}"
    for name, longest in _TEXTS:
        if not is_text(fields[name], longest):
            return f"its {name} is no text of at most {longest} characters"
    kind, ident = fields["kind"], fields["id"]
    if not isinstance(kind, str) or not isinstance(ident, str) or len(kind) > NAME_MAX:
        return "its kind or id is no text"
    if type(fields["deleted"]) is not bool:
        return "its `deleted` is neither true nor false"
    if "was" in fields and not _is_code(fields["was"]):
        return "its `was` is no code of a record"
    return _entity_problem(kind, ident)


def _entity_problem(kind: object, ident: object) -> str:
    if kind == FILE_KIND and ident not in FILE_NAMES:
        return "it names a file that no palace keeps in its journal"
    return ""


def _is_code(value: object) -> bool:
    """Tell whether this may stand for a record's code; a purge keeps whatever stood there."""
    if not isinstance(value, str) or len(value) > 2 * CODE_BYTES:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)


def header_problem(payload: object) -> str:
    """Return what is wrong with a segment's header, "" where nothing is."""
    if not isinstance(payload, dict):
        return "its header is no object"
    for name, is_right in _HEADER.items():
        if not is_right(payload.get(name)):
            return f"its header's {name} has another shape"
    return ""


def object_of(payload: object) -> Mapping[str, object]:
    """Return what a control record says; one that says it otherwise says nothing."""
    return payload if isinstance(payload, dict) else {}


def _is_baseline(value: object) -> bool:
    return value is None or isinstance(value, dict)  # what is in it, its store reads


def is_so_far(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether this is what closing records say while a palace is being adopted."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("at"), dict)
        and _is_count(value.get("since"))
        and _is_count(value.get("total"))
    )


def _is_header_so_far(value: object) -> bool:
    return value is None or (
        is_so_far(value) and _is_count(value.get("at_seq")) and _are_touched(value.get("touched"))
    )


def _is_count(value: object) -> bool:
    return is_number(value, SEQ_MAX)


def _is_change(value: object) -> bool:
    """[step, action, kind, id, payload, before]."""
    if not isinstance(value, list) or len(value) != 6:
        return False
    step, action, kind, ident = value[:4]
    named = is_text(action) and is_text(kind, NAME_MAX) and isinstance(ident, str)
    return named and is_number(step, STEP_MAX) and not _entity_problem(kind, ident)


def _are_open(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(changes, list) and all(map(_is_change, changes)) for changes in value.values()
    )


def _are_touched(value: object) -> bool:
    """[[kind, id, payload at the baseline, payload now], ...]."""
    return isinstance(value, list) and all(
        isinstance(entry, list)
        and len(entry) == 4
        and is_text(entry[0], NAME_MAX)
        and isinstance(entry[1], str)
        and not _entity_problem(entry[0], entry[1])
        for entry in value
    )


def _are_replies(value: object) -> bool:
    """{session: [epoch, forgotten, [[ordinal, reply], ...]]}."""
    return isinstance(value, dict) and all(
        isinstance(entry, list)
        and len(entry) == 3
        and _is_count(entry[0])
        and _is_count(entry[1])
        and isinstance(entry[2], list)
        and all(map(_is_reply, entry[2]))
        for entry in value.values()
    )


def _are_whose(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, list) and all(map(_is_reply, entry)) for entry in value.values()
    )


def _is_reply(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_count(value[0])
        and isinstance(value[1], str)
    )


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_HEADER: dict[str, Callable[[object], bool]] = {
    "seq": lambda value: value is None or _is_count(value),
    "at": _is_baseline,
    "at_seq": _is_count,
    "so_far": _is_header_so_far,
    "open": _are_open,
    "touched": _are_touched,
    "replies": _are_replies,
    "whose": lambda value: value is None or _are_whose(value),
    "attempts": _are_counts,
    "tries": _are_counts,
    "quarantined": _are_texts,
    "holders": lambda value: value is None or _are_counts(value),
    "left": lambda value: value is None or (isinstance(value, list) and all(map(_is_count, value))),
    "moving": lambda value: value is None or is_text(value, NAME_MAX),
    "paused": lambda value: value is None or type(value) is bool,
    "numbers": lambda value: value is None or _are_counts(value),
    "origin": lambda value: value is None or is_text(value, NAME_MAX),
    "horizon": lambda value: type(value) is int and -SEQ_MAX <= value <= SEQ_MAX,
}
