"""Secrets that only their names give away: what is assigned to passwords, keys and tokens.

Keys are looked for in small letters, with whatever stands before them (`DB_PASSWORD`) and few words
after them (`password_old`, not `password_policy`). All repetitions are bounded.
"""

import re
from collections.abc import Iterator

from palace.memory.runs import UNQUOTED, Finding, Runs
from palace.memory.views import STOP
from palace.memory.weighing import Assigned, is_secret

QUOTED_CHARS_MAX = 4096

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_OF_PEOPLE = (
    r"pass(?:word|wd|phrase|code)s?|passwort|kennwort|contrase(?:ñ|n)a|senha|wachtwoord"
    r"|mot[ _-]de[ _-]passe|пароль|密码|密碼|パスワード|비밀번호|pwd|(?<![a-z0-9])p(?:ass|w)"
    r"|mnemonic|seed[ _-]phrase|recovery[ _-](?:phrase|codes?)"
)
_OF_PROGRAMS = (
    r"secret[ _.-]?(?:access[ _.-]?)?key|(?:api|access|private|signing|encryption|account|master"
    r"|shared|storage|license|deploy|service|auth|session|cookie|hmac|webhook|subscription"
    r"|function|admin)[ _.-]?key|secret|token|credentials?|jsessionid|phpsessid|(?<=[?&])sig"
    r"|(?<=[a-z0-9][_-])(?P<key>key)"
)
_KEY = re.compile(
    rf"(?:(?P<password>{_OF_PEOPLE})|(?:{_OF_PROGRAMS}))"
    r"(?:[ _.-]?(?:prod(?:uction)?|dev|test|stag(?:e|ing)|live|sandbox|old|new|value|b64|base64"
    r"|primary|secondary|default|current|[0-9]{1,3}))?(?![a-z0-9_])"
)
_CLOSING = r"\\{0,3}[\"'`*_\])]{0,4}"
_TYPE = (
    r":[ \t]?(?:optional\[)?(?:str|string|bytes|text|secretstr)\]?(?:[ \t]?\|[ \t]?none)?[ \t]?="
)
_FOR = r"(?:[ \t](?:for|of|to|on|at)(?:[ \t][\w.@/-]{1,40}+){1,4}?)?"
_BLOCK = r"(?:[|>][+-]?[ \t]{0,4}\r?\n[ \t]{1,16})?"
_SEPARATOR = re.compile(
    rf"{_CLOSING}(?:{_FOR}[ \t]{{0,8}}"
    rf"(?:(?:{_TYPE}|=>|:=|[=!]?={{1,2}}|:|->)[*_]{{0,2}}[ \t]{{0,8}}{_BLOCK}"
    r"|(?P<prose>(?<=[ \t])(?:is|was|are|equals|will be|ist)(?:[ \t](?:now|still|set to|just))?"
    r":?[ \t]{1,4}[*_]{0,2})"
    r"|(?P<cell>\|[ \t]{0,8})"
    r"|(?P<value>(?<=[\"'])[ \t]{1,4}value=|(?<![ \t])>))"
    r"|(?P<option>[ \t]{1,4}))"
)
_OPENING = re.compile(r"[brfu]?(\\{0,3}[\"'`])")
_BEFORE_CHARS = 80
_ALONE_BEFORE = re.compile(
    r"(?:\A|[\r\n]|\\n)[ \t]{0,16}(?:[-*>$#]{1,2}[ \t]{0,4})?"
    r"(?:(?:export|set|env|setenv)[ \t]{1,4})?[\"']?[\w.-]{0,48}\Z"
)
_ALONE_AFTER = re.compile(r"[ \t]{0,16}(?:\Z|[\r\n]|#|//|\\n)")
_OPTION = re.compile(r"(?:\A|[\s\"'(])--?[\w-]{0,40}\Z")
# Keys of these names open nothing.
_NO_SECRET = re.compile(
    r"(?:cache|primary|foreign|sort|partition|index|public|group|idempotency|dedup\w{0,10}|row|map"
    r"|object|storage|s3|lookup|hash|issue|project|message|config|dict|item|record|session|routing"
    r"|lock|etag|host|websocket|pub|ssh|gpg|signing|sql|json|shard|search|i18n|translation)s?[_-]\Z"
)


def lowered(text: str) -> str:
    """Return a text with small ASCII letters, each where it was."""
    return text.translate(_LOWER)


def find_assignments(runs: Runs, small: str) -> Iterator[Finding]:
    """Yield what is assigned to keys that say that it is a secret; `small` is the text, lowered."""
    done = 0
    for key in _KEY.finditer(small):
        if key.start() < done:
            continue
        separator = _SEPARATOR.match(small, key.end())
        if separator is None or (key["key"] and _NO_SECRET.search(small, *_before(key.start()))):
            continue
        found = _value_at(runs, separator.end())
        if found is None:
            continue
        start, end, quoted = found
        assigned = Assigned(
            runs.text[start:end],
            password=key["password"] is not None,
            quoted=quoted or bool(separator["value"] and runs.text[end : end + 1] == "<"),
            alone=_is_alone(small, key.start(), end + quoted),
            prose=bool(separator["prose"] or separator["cell"]),
            loose=key["key"] is not None
            or (bool(separator["option"]) and not _OPTION.search(small, *_before(key.start()))),
        )
        if is_secret(assigned):
            done = end
            yield Finding("password" if assigned.password else "secret", start, end)


def _value_at(runs: Runs, start: int) -> tuple[int, int, bool] | None:
    """Return where a value that starts here begins and ends, and whether it is in quotes."""
    text = runs.text
    opening = _OPENING.match(text, start)
    if opening is not None:
        begin = opening.end()
        end = text.find(opening[1], begin, begin + QUOTED_CHARS_MAX)
        stop = text.find(STOP, begin, end if end >= 0 else begin + QUOTED_CHARS_MAX)
        if end >= 0 and stop < 0 and _is_one_text(text[begin:end]):
            return (begin, end, True) if end > begin else None
        start = begin
    end = runs.end(UNQUOTED, start)
    while end > start and text[end - 1] in ".:":
        end -= 1
    return (start, end, False) if end > start else None


def _is_one_text(value: str) -> bool:
    """Tell whether quotes with line breaks between them are those of one value, cut by them."""
    if "\n" not in value and "\r" not in value:
        return True
    return re.search(r"\s", re.sub(r"\r?\n[ \t]*+", "", value)) is None


def _before(key: int) -> tuple[int, int]:
    """Return the stretch before a key that may tell more of it."""
    return max(0, key - _BEFORE_CHARS), key


def _is_alone(small: str, key: int, end: int) -> bool:
    """Tell whether nothing else stands on the line on which a key has a value."""
    before = slice(*_before(key))
    return bool(_ALONE_BEFORE.search(small[before]) and _ALONE_AFTER.match(small, end))
