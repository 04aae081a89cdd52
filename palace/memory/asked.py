"""What palace's own tools are asked for: arguments as values, checked before anything is looked up.

An argument that a tool doesn't have is an error, since it may be one that was thought to count: who
asks is known from the session, and no `workspace` or `added_by` makes it somebody else.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import attrs

from palace.memory.expiry import NEVER_S, parse_expires_at, until_s
from palace.memory.memory import ID_PREFIX, moment_text
from palace.memory.redact import redact
from palace.memory.views import view_of
from palace.protocol.errors import InvalidMemory
from palace.protocol.workspaces import checked_namespace

CONTENT_CHARS_MAX = 100_000  # as stock's drawers
NAMES_MAX = 64  # namespaces or kinds in one search
LIMIT, LIMIT_MAX = 10, 50
SUMMARY, SUMMARY_S = "summary", 30 * 86_400
PROPAGATION_CHARS_MAX = 4096
TTL_MAX_S = 100 * 365 * 86_400

# No underscore: stock's names of a long drawer's parts end in _chunk_NUMBER.
_ID = re.compile(rf"{ID_PREFIX}[A-Za-z0-9][A-Za-z0-9-]{{0,99}}")
_KIND = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")

Arguments = Mapping[str, object]


@attrs.frozen(kw_only=True)
class Commit:
    """A memory to be stored; `namespace` and `id` are "" where none is named.

    `created_at` is when it was stored first, where that was elsewhere; "" for now.
    """

    content: str
    namespace: str = ""
    id: str = ""
    kind: str = "memory"
    topic: str = ""
    propagation: str = ""
    source: str = ""
    until: float = NEVER_S
    expires_at: str = ""
    pinned: bool = False
    created_at: str = ""


@attrs.frozen(kw_only=True)
class Search:
    """What is searched for; () means all that may be read, and all kinds.

    `since` and `before` bound when it was stored, as memories say it; "" doesn't.  `by_words`: by a
    query's words as well as by its meaning.
    """

    query: str = ""
    namespaces: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    limit: int = LIMIT
    since: str = ""
    before: str = ""
    by_words: bool = False


@attrs.frozen(kw_only=True)
class Forget:
    id: str
    namespace: str = ""


def asked_commit(arguments: Arguments) -> Commit:
    """Return what `palace_commit_memory` is asked for; raises InvalidMemory, WorkspaceRefused."""
    names = ("content", "namespace", "id", "kind", "expires_at", "pin", "propagation")
    _check_names(arguments, *names)
    end = arguments.get("expires_at")
    moment = None if end is None else parse_expires_at(end)
    pin = arguments.get("pin")
    if pin is not None and not isinstance(pin, bool):
        raise InvalidMemory("pin must be true or false")
    kind = arguments.get("kind")
    return Commit(
        content=checked_content(arguments.get("content")),
        namespace=_namespace_in(arguments),
        id=_id_in(arguments) if arguments.get("id") is not None else "",
        kind="memory" if kind is None else checked_kind(kind),
        until=until_s(moment),
        expires_at=moment_text(moment),
        pinned=pin is True,
        propagation=_propagation_in(arguments),
    )


def asked_summary(arguments: Arguments, now_s: float) -> Commit:
    """Return what `palace_commit_summary` is asked for: a memory that ends by itself."""
    _check_names(arguments, "content", "namespace", "ttl_s")
    ttl = arguments.get("ttl_s")
    ttl = SUMMARY_S if ttl is None else ttl
    if type(ttl) not in (int, float) or not 0 < float(str(ttl)) <= TTL_MAX_S:
        raise InvalidMemory(
            f"ttl_s must be a number of seconds above 0 and up to {TTL_MAX_S}. Leave it out for "
            f"{SUMMARY_S // 86_400} days"
        )
    moment = datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=float(str(ttl)))
    return Commit(
        content=checked_content(arguments.get("content")),
        namespace=_namespace_in(arguments),
        kind=SUMMARY,
        until=until_s(moment),
        expires_at=moment_text(moment),
    )


def asked_search(arguments: Arguments) -> Search:
    """Return what `palace_search_memory` is asked for."""
    _check_names(arguments, "query", "namespaces", "kinds", "limit")
    query, limit = arguments.get("query"), arguments.get("limit")
    if query is not None and (not isinstance(query, str) or len(query) > CONTENT_CHARS_MAX):
        raise InvalidMemory(
            f"query must be a text of at most {CONTENT_CHARS_MAX} characters. Leave it out for the "
            "newest memories"
        )
    limit = LIMIT if limit is None else limit
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise InvalidMemory(f"limit must be a whole number from 1 to {LIMIT_MAX}")
    return Search(
        query=_without_surrogates(query or "").strip(),
        namespaces=tuple(checked_namespace(name) for name in _names_in(arguments, "namespaces")),
        kinds=tuple(checked_kind(kind) for kind in _names_in(arguments, "kinds")),
        limit=limit,
    )


def asked_forget(arguments: Arguments) -> Forget:
    """Return what `palace_forget_memory` is asked for."""
    _check_names(arguments, "id", "namespace")
    return Forget(id=_id_in(arguments), namespace=_namespace_in(arguments))


def _check_names(arguments: Arguments, *known: str) -> None:
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise InvalidMemory(
            f"there is no argument {unknown[0][:60]!a} here. It takes {', '.join(known)}; who "
            "asks is known from the session"
        )


def checked_content(content: object) -> str:
    """Return what a memory may hold; raises InvalidMemory."""
    if not isinstance(content, str):
        raise InvalidMemory("content must be a text")
    if len(content) > CONTENT_CHARS_MAX:
        raise InvalidMemory(
            f"content has {len(content)} characters, and a memory at most {CONTENT_CHARS_MAX}. "
            "Store it in parts"
        )
    if "\x00" in content:
        raise InvalidMemory("content must not hold NUL characters")
    content = _without_surrogates(content)
    if not view_of(content).text.strip():
        raise InvalidMemory("content must hold more than blanks")
    return content


def _propagation_in(arguments: Arguments) -> str:
    """Return how a memory is to spread, as its client says it: palace keeps it, and reads nothing.

    It is JSON, and comes back as it came.
    """
    told = arguments.get("propagation")
    return "" if told is None else checked_object(told, "propagation")


def checked_object(told: object, name: str) -> str:
    """Return an object of a client's as JSON; raises InvalidMemory."""
    text = json.dumps(told, sort_keys=True)
    if not isinstance(told, dict) or len(text) > PROPAGATION_CHARS_MAX or redact(text) != text:
        raise InvalidMemory(
            f"{name} must be an object of at most {PROPAGATION_CHARS_MAX} characters as JSON, "
            "without secrets"
        )
    return text


def _without_surrogates(text: str) -> str:
    """Return a text that can be stored: half a surrogate pair is no character."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def _namespace_in(arguments: Arguments) -> str:
    name = arguments.get("namespace")
    return "" if name is None else checked_namespace(name)


def is_id(ident: object) -> bool:
    """Tell whether a memory may have this id; the parts of a long one have others."""
    return isinstance(ident, str) and _ID.fullmatch(ident) is not None and redact(ident) == ident


def _id_in(arguments: Arguments) -> str:
    ident = arguments.get("id")
    if not isinstance(ident, str) or not is_id(ident):
        raise InvalidMemory(
            f"a memory's id must be {ID_PREFIX} and 1 to 100 ASCII letters, digits and hyphens, "
            "and no secret"
        )
    return ident


def checked_kind(kind: object) -> str:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or redact(kind) != kind:
        raise InvalidMemory(
            "kind must be 1 to 40 lower-case ASCII letters, digits and hyphens, begin with a "
            "letter, end with no hyphen, and be no secret"
        )
    return kind


def _names_in(arguments: Arguments, name: str) -> list[object]:
    names = arguments.get(name)
    if names is None:
        return []
    if not isinstance(names, list) or len(names) > NAMES_MAX:
        raise InvalidMemory(f"{name} must be a list of at most {NAMES_MAX} texts")
    return names
