"""What taking secrets out of a text costs, ordinary texts beside those made to be expensive.

usage: python -m bench.redaction [--rounds N] [--json FILE]

Processor time, so that what else the machine does counts for little; the best of N rounds. A text
of twice the length should take twice as long: the ratio shows it. It asserts nothing about time.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from bench import rig
from bench.report import number
from palace.memory.redact import find_secrets, redact
from palace.protocol.errors import PalaceError

HANG_S = 900
CHARS = 100_000
SHOWN = 12
ROOT = Path(__file__).parents[1]

# Repeated to the whole length; each keeps one rule busy, or several.
UNITS = [
    *("a", "0", "f", " ", "\t", "\n", "\r\n", "\\n", "\\", '"', "'", '\\"', "= \n", "-", "----"),
    *(
        "-----BEGIN",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "M",
        "A",
        "EAA",
    ),
    *("Private-Lines: 3\n", "eyJ", "eyJ-", "eyJa.eyJ", "sk-", "sk-a1", "ghp_", "SK", "AKIA", "pat"),
    *(
        "password=",
        'password="',
        "passphrase='a b",
        "password is ",
        "password for a b c d ",
        "key|",
    ),
    *("token: ", "token=a1b2c3d4e5\n", "password=Abc12345x \n", "| password | a", "<password>"),
    *("authorization: bearer ", "bearer ", "basic a", "://", "://a:", "a://b:c", "cookie: a="),
    *("cookie: a=b\n ", "set-cookie: a=", "mnemonic: ", "seed phrase: abc abc ", "-u a:", " -p"),
    *(
        "mysql a -p",
        "login a password ",
        "1/",
        "12345678:AA",
        "$2b$",
        "A3-",
        "Q~1Q~",
        "AZDO",
        "-us1",
    ),
    *("hooks.slack.com/services/", "v1.0-", "X-Amz-Signature=", "aA0+", "a1 ", "\u200b", "\ud800"),
    *(
        "\uff47",
        "\x1b[31m",
        "\x1b[",
        "[REDACTED:x]",
        "[REDACTED:",
        "password\x00",
        "password=a" * 9,
    ),
]


@attrs.frozen
class Taken:
    """Milliseconds for 100,000 characters, and how many times those for half of them."""

    what: str
    ms: float
    ratio: float


def took_ms(text: str, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        try:
            redact(text)
        except PalaceError:
            pass  # refused, after all rounds: that is a cost, too
        best = min(best, 1000 * (time.process_time() - begun))
    return best


def taken(what: str, text: str, rounds: int) -> Taken:
    whole, half = took_ms(text, rounds), took_ms(text[: CHARS // 2], rounds)
    return Taken(what, whole, whole / half)


def measure(options: argparse.Namespace, _scratch: Path) -> dict[str, list[Taken]]:
    texts = {
        "prose": (ROOT / "docs" / "design.md").read_text(),
        "code": "".join(p.read_text() for p in sorted((ROOT / "palace" / "engine").rglob("*.py"))),
        "a lock file": (ROOT / "requirements-dev.lock").read_text(),
    }
    assert not any(find_secrets(text) for text in texts.values())
    ordinary = [
        taken(name, (text * (CHARS // len(text) + 1))[:CHARS], options.rounds)
        for name, text in texts.items()
    ]
    hostile = [
        taken(ascii(unit), (unit * CHARS)[:CHARS], options.rounds) for unit in dict.fromkeys(UNITS)
    ]
    return {
        "ordinary": ordinary,
        "hostile": sorted(hostile, key=lambda one: one.ms, reverse=True),
    }


def tell(found: dict[str, list[Taken]]) -> tuple[str, dict[str, Any]]:
    rows = ["| 100,000 characters of | ms | times those for half |", "|---|--:|--:|"]
    rows += [
        f"| {one.what} | {number(one.ms)} | {one.ratio:.2f} |"
        for one in (*found["ordinary"], *found["hostile"][:SHOWN])
    ]
    steepest = max((one for one in found["hostile"] if one.ms > 20), key=lambda one: one.ratio)
    hostile = len(found["hostile"])
    rest = f"\n\nof {hostile} hostile texts the steepest: {steepest.what}, {steepest.ratio:.2f}"
    return "\n".join(rows) + rest, {
        name: [attrs.asdict(one) for one in some] for name, some in found.items()
    }


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
