"""Secrets out of texts: nothing of one is left, and what is none stays.

What was measured is in docs/decisions/0048-what-counts-as-a-secret.md; `-rP` shows this run's.
"""

import base64
import random
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.memory import redact as redaction
from palace.memory.redact import find_secrets, redact
from palace.memory.tokens import PREFIXED, SHAPES
from palace.memory.views import MARKER
from palace.protocol.errors import InvalidMemory
from tests.memory.corpus import (
    BLOCKS,
    NAMED,
    SEED,
    TOKENS,
    Sample,
    block,
    drawn,
    leaked,
    plain,
    samples,
)
from tests.memory.corpus import (
    SHAPES as CORPUS_SHAPES,
)
from tests.memory.innocents import innocents

KINDS = (*TOKENS, *NAMED, *BLOCKS)
MARK_CHARS_MAX = 24
RANDOM = random.Random(SEED)
GITHUB = drawn(RANDOM, "ghp_{A36}")
WORD = drawn(RANDOM, "{A7}{D2}{A7}")


@cache
def corpus() -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
    for sample in samples():
        found[sample.kind].append(sample)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_piece_of_a_secret_is_left_in_any_shape(kind: str) -> None:
    for sample in corpus()[kind]:
        shown = redact(sample.text)

        assert leaked(sample, shown) == [], (sample.shape, shown)
        assert redact(shown) == shown


def test_the_corpus_is_what_it_promises() -> None:
    assert len(KINDS) >= 60
    everything = [sample for found in corpus().values() for sample in found]
    print(f"{len(everything)} texts with secrets of {len(KINDS)} kinds")
    assert len(everything) >= 600
    assert {sample.shape for sample in everything} == set(CORPUS_SHAPES)
    for sample in everything:
        assert leaked(sample, sample.text), (sample.kind, sample.shape)


def test_innocent_texts_stay_as_they_are() -> None:
    texts = list(innocents())
    taken = [text for text in texts if redact(text) != text]

    print(f"{len(taken)} of {len(texts)} innocent texts lose something")
    assert len(texts) >= 600
    assert len(taken) <= 0.02 * len(texts), taken


# Characters that show nothing, or that break a token where it is shown.
BETWEEN = ["\u200b", "\u00ad", "\x00", "\ud800", "\u202e", "\ufeff", "\u0301", "\x1b[1m", "\x7f"]
noise = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            ["[REDACTED:jwt]", "password=", "token: ", "\r\n", "\\n", '"', "'", "`", "://"]
        ),
        st.sampled_from(
            ["Bearer ", "-----BEGIN RSA PRIVATE KEY-----", "ghp_", "eyJ", "sk-", "@", "="]
        ),
        st.sampled_from(
            [*BETWEEN, "a" * 40, "0" * 40, "Cookie: a=", "\uff47\uff48\uff50\uff3f", "=\n"]
        ),
        st.from_regex(r"[A-Za-z0-9_-]{20,50}", fullmatch=True),
    ),
    max_size=10,
).map("".join)


@settings(max_examples=150)
@given(noise)
def test_twice_changes_nothing_more_and_a_text_grows_by_little(text: str) -> None:
    shown = redact(text)

    assert redact(shown) == shown
    marks = len(MARKER.findall(shown))
    assert len(shown) <= len(text) + MARK_CHARS_MAX * marks
    assert find_secrets(shown) == []


@settings(max_examples=100)
@given(st.sampled_from(list(TOKENS)), st.integers(), noise, noise, st.booleans())
def test_a_token_is_found_whatever_is_around_it(
    kind: str, seed: int, before: str, after: str, wrapped: bool
) -> None:
    text, secrets = plain(random.Random(seed), kind)
    around = CORPUS_SHAPES["crlf"](text, secrets) if wrapped else text
    shown = redact(f"{before} \n\n{around}\n\n {after}")

    left = re.sub(r"\r?\n", "", shown)
    assert not any(secrets[0][i : i + 12] in left for i in range(len(secrets[0]) - 11)), shown


@pytest.mark.parametrize("between", BETWEEN, ids=ascii)
def test_what_nobody_sees_hides_no_secret(between: str) -> None:
    hidden = between.join(GITHUB)

    assert redact(f"a {hidden} b") == "a [REDACTED:github-token] b"
    assert redact(f"pass{between}word={WORD}") == f"pass{between}word=[REDACTED:password]"


def test_look_alikes_of_letters_are_letters() -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) for c in GITHUB)

    assert redact(f"{wide}\u3002") == "[REDACTED:github-token]\u3002"
    assert redact(f"password\uff1a{WORD}") == "password\uff1a[REDACTED:password]"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *(("", ""), ("x ", " y"), ("(", ")"), ("key:", "."), ("https://", "@h"), ("\\n", "\\n")),
        *(
            ("%20", "&b=1"),
            ("=", ";"),
            ("`", "`"),
            ("\u201c", "\u201d"),
            ("<b>", "</b>"),
            ("a\t", ","),
        ),
        ("\ud800", "\udfff"),
    ],
)
def test_a_token_ends_where_it_ends(before: str, after: str) -> None:
    shown = redact(f"{before}{GITHUB}{after}")

    assert shown == f"{before}[REDACTED:github-token]{after}"


def test_what_goes_on_after_a_token_belongs_to_it() -> None:
    assert redact(f"{GITHUB}+/x~.y=") == "[REDACTED:github-token]"
    assert redact(f"{GITHUB}. Then") == "[REDACTED:github-token]. Then"


def test_a_jwt_goes_with_its_signature() -> None:
    text, _ = plain(random.Random(1), "jwt")
    header, payload, signature = text.split(".")

    assert redact(f"{text}.") == "[REDACTED:jwt]."
    assert redact(f"{header}.{payload}") == "[REDACTED:jwt]"
    assert redact(f"{header}..{payload}.{signature}.{signature}") == "[REDACTED:jwt]"
    assert redact(f"x {header} y") == f"x {header} y"


KEY = block(random.Random(2), "RSA PRIVATE KEY")
LINES = KEY.splitlines()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (KEY, "[REDACTED:private-key]"),
        (f"a\n{KEY}\nb", "a\n[REDACTED:private-key]\nb"),
        (KEY.replace("\n", "\r\n"), "[REDACTED:private-key]"),
        (KEY.replace("\n", "\\n"), "[REDACTED:private-key]"),
        (KEY.replace("\n", " "), "[REDACTED:private-key]"),
        ("\n".join(f"> {line}" for line in LINES), "> [REDACTED:private-key]"),
        ("\n".join(LINES[:-1]), "[REDACTED:private-key]"),
        ("\n".join(LINES[:-1]) + "\n\nand prose.", "[REDACTED:private-key]\n\nand prose."),
        (
            "\n".join([LINES[0], "Proc-Type: 4,ENCRYPTED", "", *LINES[1:5]]),
            "[REDACTED:private-key]",
        ),
        ("prose first.\n" + "\n".join(LINES[4:]), "prose first.\n[REDACTED:private-key]"),
        (f"{KEY}\n{KEY}", "[REDACTED:private-key]\n[REDACTED:private-key]"),
        ("\n".join(LINES[:-1]) + f"\n{KEY}", "[REDACTED:private-key]\n[REDACTED:private-key]"),
        (KEY.replace("PRIVATE", "PRIV\r\nATE"), "[REDACTED:private-key]"),
        (
            f"PuTTY\nPrivate-Lines: 2\n{LINES[1]}\n{LINES[2]}\nend.",
            "PuTTY\n[REDACTED:private-key]\nend.",
        ),
        (
            "\n".join(["---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----", *LINES[1:4]]),
            "[REDACTED:private-key]",
        ),
    ],
)
def test_a_private_key_goes_from_its_begin_to_its_end(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA PRIVATE KEY----- and -----END RSA PRIVATE KEY----- are its lines",
        "it begins with -----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY----- ends it",
        KEY.replace("PRIVATE KEY", "CERTIFICATE"),
    ],
)
def test_a_mention_is_no_key(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("token", PREFIXED, ids=lambda token: token.prefixes)
def test_each_kind_of_token_is_known_by_its_length(token) -> None:
    rng = random.Random(3)
    letters = "".join(filter(re.compile(f"[{token.alphabet}]").match, map(chr, range(45, 123))))
    for prefix in token.prefixes.split():
        body = "".join(rng.sample(letters, min(8, len(letters))))
        body = (("1a" if "a" in letters else "1A" if "A" in letters else "12") + body * 50)[
            : token.least
        ]

        [found] = find_secrets(f"x {prefix}{body} y")
        assert (found.start, found.end) == (2, 2 + len(prefix + body))
        assert redact(f"x {prefix}{'x' * token.least} y") == f"x {prefix}{'x' * token.least} y"
        shorter = [finding.kind for finding in find_secrets(f"x {prefix}{body[:-1]} y")]
        assert token.kind not in shorter


def test_marks_are_short_and_tell_kinds_apart() -> None:
    kinds = {token.kind for token in PREFIXED} | {row[0] for row in SHAPES}

    for kind in kinds | {"private-key", "url-password", "seed-phrase", "auth-header", "password"}:
        assert MARKER.fullmatch(f"[REDACTED:{kind}]")
        assert len(f"[REDACTED:{kind}]") <= MARK_CHARS_MAX


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'{{"db": {{"password": "{WORD}"}}}}', '{"db": {"password": "[REDACTED:password]"}}'),
        (f'{{\\"token\\": \\"{WORD}\\"}}', '{\\"token\\": \\"[REDACTED:secret]\\"}'),
        (f"DB_PASSWORD='{WORD}' run", "DB_PASSWORD='[REDACTED:password]' run"),
        ("POSTGRES_PASSWORD=letmein", "POSTGRES_PASSWORD=[REDACTED:password]"),
        ("password: 'open sesame'", "password: '[REDACTED:password]'"),
        (f'os.environ["API_KEY"] = "{WORD}"', 'os.environ["API_KEY"] = "[REDACTED:secret]"'),
        (f"**Password:** `{WORD}`", "**Password:** `[REDACTED:password]`"),
        (f"| password | {WORD} |", "| password | [REDACTED:password] |"),
        (
            f"the password for the old box is {WORD}.",
            "the password for the old box is [REDACTED:password].",
        ),
        (f"das Passwort ist {WORD}", "das Passwort ist [REDACTED:password]"),
        (f"--client-secret {WORD}", "--client-secret [REDACTED:secret]"),
        (f"{WORD}-x: password={WORD}", "[REDACTED:password]-x: password=[REDACTED:password]"),
        (f"Server=a;Uid=sa;Pwd={WORD};", "Server=a;Uid=sa;Pwd=[REDACTED:password];"),
        (f"acme_key = {WORD}", "acme_key = [REDACTED:secret]"),
        (f"password: |\n  {WORD}\nuser: jo", "password: |\n  [REDACTED:password]\nuser: jo"),
        (
            f"http://jo:{WORD}@h/ and ftp://a:p@ss@h",
            "http://jo:[REDACTED:url-password]@h/ and ftp://a:[REDACTED:url-password]@h",
        ),
        (f"Cookie: sid={WORD};\r\n theme=dark\r\nX: 1", "Cookie: [REDACTED:cookie]\r\nX: 1"),
        (
            f"fetch(u, {{'Set-Cookie': 'sid={WORD}'}})",
            "fetch(u, {'Set-Cookie': '[REDACTED:cookie]'})",
        ),
        (f"Authorization: token {WORD}", "Authorization: token [REDACTED:auth-header]"),
        ("mnemonic: " + "abandon " * 11 + "about", "mnemonic: [REDACTED:seed-phrase]"),
        (f"sshpass -p {WORD} ssh h", "sshpass -p [REDACTED:password] ssh h"),
        (f"mysql -u root -p{WORD} db", "mysql -u root -p[REDACTED:password] db"),
        ("x $6$rounds=5000$" + drawn(random.Random(4), "{A16}${A86}"), "x [REDACTED:crypt-hash]"),
    ],
)
def test_what_a_name_gives_away(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_what_was_taken_out_before_is_left_alone() -> None:
    marked = "a [REDACTED:github-token]b password=[REDACTED:password] 'token': '[REDACTED:secret]'"

    assert redact(marked) == marked
    assert redact(f"[REDACTED:jwt]{GITHUB}") == "[REDACTED:jwt][REDACTED:github-token]"
    assert redact(f"password='{WORD} [REDACTED:jwt]'").count(WORD) == 0


def test_a_text_that_never_comes_to_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "ROUNDS_MAX", 1)

    assert redact("nothing") == "nothing"
    with pytest.raises(InvalidMemory, match="Leave out what is secret"):
        redact(GITHUB)


def test_many_secrets_are_all_found() -> None:
    rng = random.Random(5)
    secrets = [drawn(rng, "ghp_{A36}") for _ in range(500)]

    assert redact("\n".join(secrets)) == "\n".join(["[REDACTED:github-token]"] * 500)


@pytest.mark.parametrize(
    "text",
    [
        'password: "required"',
        "password = 'undefined'",
        "PASSWORD=changeme",
        "secret: optional",
        "password: /run/secrets/db1",
        "token=~/.config/app1/token",
        'password: "C:/keys/pw1.txt"',
        f"cache_key = {WORD}",
        f"idempotency-key: {WORD}",
        "password = get_password1(user)",
        "token = settings.auth.token2",
        "password: ${DB_PASSWORD}",
        "token=$TOKEN",
        "password is base64-encoded",
        "postgres://user:password@host/db",
        "docker run -u 1000:1000 x",
        "max_tokens=4096 password_min=12",
    ],
)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert redact(text) == text


def test_a_wrapped_token_with_hidden_characters_is_replaced_where_it_stands() -> None:
    text = f"\u200b\u200ba {GITHUB[:20]}\u200b\r\n    {GITHUB[20:]} b"

    assert redact(text) == "\u200b\u200ba [REDACTED:github-token] b"


PAIR = base64.b64encode(f"jo:{WORD}x".encode()).decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Basic {PAIR}", "Basic [REDACTED:basic-auth]"),
        (f"basic {PAIR.rstrip('=')}", "basic [REDACTED:basic-auth]"),
        (f'{{"auth": "{PAIR}"}}', '{"auth": "[REDACTED:basic-auth]"}'),
        (f"Authorization: {WORD}", "Authorization: [REDACTED:auth-header]"),
        (f"'authorization': b'{WORD}'", "'authorization': b'[REDACTED:auth-header]'"),
        (
            "Authorization: Digest username=jo, response=1",
            "Authorization: Digest [REDACTED:auth-header]",
        ),
        (f"bearer {WORD}", "bearer [REDACTED:bearer]"),
        (f"x -u jo:{WORD} y", "x -u jo:[REDACTED:password] y"),
        (f"psexec h -u jo -p {WORD} y", "psexec h -u jo -p [REDACTED:password] y"),
        (f"https://{WORD}@h/p", "https://[REDACTED:url-password]@h/p"),
    ],
)
def test_what_carries_a_secret(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "basic authentication",
        "Basic " + base64.b64encode(b"no pair here").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\x00\x01 binary").decode(),
        "Basic " + base64.b64encode("jo:ä".encode()).decode(),
        "Basic abcdefghi",  # no base64
        "authorization = base64.decodebytes",
        "authorization: documentation-of-it",
        "bearer authenticationwords",
        "x -u jo:12345 y",
        "https://documentation-of-it@h/p",
    ],
)
def test_what_carries_none_stays(text: str) -> None:
    assert redact(text) == text
