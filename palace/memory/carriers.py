"""Secrets in what carries them: HTTP headers, URLs, cookies, options of commands.

All repetitions are bounded, and what a pattern begins with is rare.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator

from palace.memory.runs import Finding, looks_random
from palace.memory.views import STOP
from palace.memory.weighing import Assigned, is_secret

NESTED_CHARS_MAX = 64

_V = r"[\w.~+/=-]"
_REST = re.compile(f"{_V}*+")
_GOES_ON = re.compile(rf"\r?\n[ \t]{{0,16}}(?P<more>{_V}{{8,2048}}+)(?![ \t]{{0,4}}[:(])")


def _any(_value: str) -> bool:
    return True


def _is_password(value: str) -> bool:
    return is_secret(Assigned(value, password=True, quoted=True)) and not value.isdigit()


def _is_pair(value: str) -> bool:
    """Tell whether a value is `name:password` in base64."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (ValueError, binascii.Error):
        return False
    return b":" in decoded and decoded.isascii() and decoded.decode().isprintable()


def _is_key(value: str) -> bool:
    return is_secret(Assigned(value, password=False, loose=True))


def _is_given(value: str) -> bool:
    return is_secret(Assigned(value, password=True, quoted=True))


_HEADER = r"(?:proxy-)?authorization[\"'\\]{0,3}[ \t]{0,4}[:=,][ \t]{0,4}(?:[bf]?[\"'\\]{1,3})?"
_SCHEME = r"(?:bearer|basic|token|apikey|api-key|key|negotiate|ntlm|splunk|genie-?key|sso-key|bot)"
_SIGNED = r"(?:digest|hawk|oauth|aws4-hmac-sha256|signature)"
_PAIR = r"[\w.%!*+^~-]{1,128}="  # how a cookie begins
_FOLDED = r"(?>(?:\r?\n[ \t]{1,16}+[^\r\n]++){0,8})"  # a header's further lines
_IS = r"[ \t]{0,4}[:,=][ \t]{0,4}"
_QUOTED = r"[^\r\n\"']{3,}+"
_NO_USER = rf"\s/?#\"'<>`{STOP}"  # ends a URL's user and password
_BASE64 = r"(?P<secret>[a-z0-9+/]{8,1024}={0,2})"
_WORD = rf"(?P<secret>[^\s\"'{STOP}]{{3,128}})"
_SEED = r"(?:mnemonic|(?:seed|recovery)[ _-]?(?:phrase|words?))"
_WORDS = r"(?P<secret>(?>(?:[a-z]{3,8}+[ \t]{1,2}+){11,23})(?:[a-z]{3,8})?)"
_AUTH, _COOKIE = "auth-header", "cookie"
_Check = Callable[[str], bool]
# Kind, what the text must hold in small letters, what its `secret` must be, and the pattern.
_ROWS: tuple[tuple[str, str, _Check, str], ...] = (
    (
        _AUTH,
        "authorization",
        _is_given,
        rf"{_HEADER}{_SCHEME}[ \t]{{1,4}}(?P<secret>{_V}{{6,4096}})",
    ),
    (_AUTH, "authorization", _any, rf"{_HEADER}{_SIGNED}[ \t]{{1,4}}(?P<secret>[^\r\n]{{8,}}+)"),
    (_AUTH, "authorization", _is_key, rf"{_HEADER}(?P<secret>{_V}{{16,4096}})"),
    ("bearer", "bearer", looks_random, rf"\bbearer[ \t]{{1,4}}(?P<secret>{_V}{{16,4096}})"),
    ("basic-auth", "basic", _is_pair, rf"\bbasic[ \t]{{1,4}}{_BASE64}"),
    ("basic-auth", '"auth"', _is_pair, rf"\"auth\"\s{{0,4}}:\s{{0,4}}\"{_BASE64}"),
    (_COOKIE, "cookie", _any, rf"\bcookie{_IS}(?P<secret>{_PAIR}[^\r\n]{{3,}}+{_FOLDED})"),
    (_COOKIE, "cookie", _any, rf"cookie[\"'\\]{{1,2}}{_IS}\\?[\"'](?P<secret>{_PAIR}{_QUOTED})"),
    (_COOKIE, "cookie", _any, rf"(?:cookie{_IS}|--cookie[ =])[\"']?(?P<secret>{_PAIR}{_QUOTED})"),
    (
        "url-password",
        "://",
        _is_given,
        rf"://[^:@{_NO_USER}]{{0,128}}:(?P<secret>[^{_NO_USER}]{{1,256}})@",
    ),
    ("url-password", "://", looks_random, r"://(?P<secret>[\w.~%+=-]{16,256})@"),
    ("password", "-u", _is_password, rf"[ \t](?:-u|--user)[ =]?[\"']?[^\s:\"'/]{{1,64}}:{_WORD}"),
    ("password", "sshpass", _is_given, rf"sshpass[ \t]{{1,4}}-p[ \t]{{0,2}}[\"']?{_WORD}"),
    (
        "password",
        " -p ",
        _is_password,
        rf"[ \t]-u[ ]{{1,2}}\S{{1,64}}[ ]{{1,4}}-p[ ]{{1,2}}[\"']?{_WORD}",
    ),
    (
        "password",
        "-p",
        _is_given,
        rf"\b(?:mysql|mysqldump|mariadb) [^\r\n|;{STOP}]{{0,80}}? -p[\"']?{_WORD}",
    ),
    (
        "password",
        "login",
        _is_given,
        rf"\blogin\s{{1,4}}\S{{1,64}}\s{{1,4}}password\s{{1,4}}{_WORD}",
    ),
    ("seed-phrase", "", _any, rf"{_SEED}[^\r\n:=]{{0,30}}{_IS}[\"'`\\]{{0,2}}{_WORDS}"),
)
CARRIERS = tuple(
    (kind, hint, is_one, re.compile(pattern, re.IGNORECASE))
    for kind, hint, is_one, pattern in _ROWS
)


def find_carried(text: str, lowered: str) -> Iterator[Finding]:
    """Yield the secrets of headers, URLs, cookies and options."""
    for kind, hint, is_one, pattern in CARRIERS:
        place = 0 if hint in lowered else len(text)
        while (found := pattern.search(text, place)) is not None:
            start, end = found.span("secret")
            place = start  # what carries the next one may be in this one
            if is_one(found["secret"]):
                end = _end_of(text, end)
                yield Finding(kind, start, end)
                place = start if end - start <= NESTED_CHARS_MAX else end


def _end_of(text: str, end: int) -> int:
    """Return where a value ends that may go on on the next lines."""
    found = _REST.match(text, end)
    end = found.end() if found is not None else end
    while (found := _GOES_ON.match(text, end)) is not None and looks_random(found["more"]):
        end = found.end()
    return end
