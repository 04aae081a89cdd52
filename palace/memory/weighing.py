"""Whether what is assigned to a password or a token is one.

Most of what follows `token =` in code is none: a call, a name, a path, a placeholder, a word of
prose. What could be both is taken for a secret.
"""

import re

import attrs

from palace.memory.runs import has_letters_and_digits, is_filler, looks_random
from palace.memory.views import STOP

# Words that are said of passwords and tokens, or that stand for one.
_SAID = """
    a access account algorithm always an any anonymous api apikey auth authentication
    authorization base64 basic bearer blank bool boolean boto bytes callable changeme confirm
    correct credential credentials default deprecated dict disabled empty enabled encrypted env
    environment example expired false field file fixed float forgotten from generated get getenv
    github gitlab hash hashed here hidden html id ignored in incorrect input int integer invalid is
    jwt keep key keyring kubernetes list long login masked missing mandatory more name needed never
    nil no none not null number oauth oauth2 object of ok omitted on online only optional or
    pass passphrase passwd password passwords passwort pat placeholder plain plaintext private
    prompt protected provided public pwd random read redacted refresh refused rejected removed
    required reset revoked rotate rotated rotation salted secret secrets see self service session
    set short some ssh stale stdin stored str string strong system test text the this token tokens
    totp true type undefined unknown unset unused update updated user username valid value values
    vault verified void was weak with without wrong xxx yes you your
"""
_WORDS = frozenset(_SAID.split())
_TALKED_OF = re.compile(
    r"pass|secret|token|key|cred|auth|login|your|example|placeholder|change[-_]?me"
)
_TECHNICAL = re.compile(
    r"(?:base(?:32|64)|sha-?\d|md5|utf-?\d|argon2|bcrypt|pbkdf2|scrypt|aes|rsa|ed25519|http|oauth|tls"
    r"|v?\d{1,8}+(?>(?:\.\d{1,8}+){1,8})|x\.?509|hs256|rs256|2fa|[a-z]{1,30}+/[a-z0-9.+-]{1,60}+\Z)"
)
_REFERENCE = re.compile(
    r"[$%@#]?[{(<\[]|%(?:[sdvq]\b|[A-Za-z_]{1,60}+%|%)|&[a-z]|"
    r"\$(?:[A-Z_][A-Z0-9_]{0,60}+|[a-z_]{1,60}+)(?:\Z|[/:.\[>-])|"
    r"(?:https?|file|env|vault|arn|op|ssm|secretref|ref)[:/]"
    r"|\.{3}|…|[*•x.]{4}"
)
_CALL = re.compile(r"[A-Za-z_][\w.:]{0,80}[(\[{]")
_PATH_OF_NAMES = re.compile(r"[A-Za-z_]\w{0,60}+(?>(?:(?:\.|::|->)[A-Za-z_]\w{0,60}+){1,12})[;,]?")
_NAME = re.compile(r"_{0,2}[A-Za-z]{1,48}+(?>(?:[_-][A-Za-z]{1,48}+){0,8})[_-]?\d{0,2}")
_SLUG = re.compile(r"[A-Za-z]{1,16}+\d{0,2}+(?>(?:[-_./:][A-Za-z]{0,16}+\d{0,4}+){1,12})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FILE = re.compile(
    r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]{1,2}(?>(?:[\w .@-]{1,64}+[/\\]){0,24})[\w .@-]{0,64}"
)
_MARKS = re.compile(r"[^\w\s.\-]")
_END_MARKS = ".,:;?!)…"


@attrs.frozen
class Assigned:
    """A value, and what its surroundings say of it.

    `password`: the key is one for passwords, not for tokens. `quoted`: it stood in quotes. `alone`:
    key and value are all that is on the line. `prose`: it is said that the one is the other.
    `loose`: nothing but a blank is between them, or the key may be one of many things.
    """

    value: str
    password: bool
    quoted: bool = False
    alone: bool = False
    prose: bool = False
    loose: bool = False


def is_secret(found: Assigned) -> bool:
    """Tell whether a value is what its key says."""
    value = found.value.strip(_END_MARKS)
    word = value.lower()
    if len(value) < 4 or STOP in value or word in _WORDS or _REFERENCE.match(found.value):
        return False
    if is_filler(value) and not (found.password and value.isdigit()) and not value.isalpha():
        return False
    if _TECHNICAL.match(word) and not looks_random(value[8:]):
        return False
    if any(c.isspace() for c in value):
        return found.quoted and found.password and not found.loose and _is_phrase(value)
    if _is_path(value):
        return False
    return _is_password(found, value) if found.password else _is_token(found, value)


def _is_phrase(value: str) -> bool:
    """Tell whether words are a password: a character is among them that prose has none of."""
    words = value.split()
    if len(words) <= 4 and not any(
        w.lower() in _WORDS or _TALKED_OF.search(w.lower()) for w in words
    ):
        return True
    return len(words) <= 8 and any(
        has_letters_and_digits(word) or _MARKS.search(word.strip(_END_MARKS + "'\"("))
        for word in words
    )


def _is_path(value: str) -> bool:
    if not _FILE.fullmatch(value):
        return False
    return not any(len(part) > 20 and looks_random(part) for part in re.split(r"[/\\]", value))


def _is_password(found: Assigned, value: str) -> bool:
    if found.loose:
        return len(value) >= 8 and looks_random(value) and not _SLUG.fullmatch(value)
    name_like = bool(_NAME.fullmatch(value)) and not (
        len(value) >= 12 and value.isalpha() and value.islower()
    )
    if name_like and _TALKED_OF.search(value.lower()) and not (found.alone and value.isalpha()):
        return False
    if found.quoted:
        return len(value) >= 4 or not name_like
    if _CALL.match(value) or _PATH_OF_NAMES.fullmatch(value):
        return False
    if value.isdigit():
        return len(value) >= 6 or found.alone
    telling = has_letters_and_digits(value) or bool(_MARKS.search(value))
    if found.prose:
        return telling and len(value) >= 6
    return telling or (found.alone and len(value) >= 5)


def _is_token(found: Assigned, value: str) -> bool:
    if (
        len(value) < 8
        or _PATH_OF_NAMES.fullmatch(value)
        or (not found.quoted and _CALL.match(value))
    ):
        return False
    if found.loose and (
        len(value) < 16 or not has_letters_and_digits(value) or _UUID.fullmatch(value)
    ):
        return False
    if looks_random(value) and not _SLUG.fullmatch(value) and not _NAME.fullmatch(value):
        return len(value) >= 12 or not found.prose
    rises = sum(a.islower() and b.isupper() for a, b in zip(value, value[1:], strict=False))
    if _NAME.fullmatch(value) and rises * 5 >= len(value) >= 12:
        return True
    return (
        found.alone
        and len(value) >= 16
        and not found.prose
        and not _TALKED_OF.search(value.lower())
        and value.isalnum()
    )
