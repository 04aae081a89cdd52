"""Parts of the machine that some tests need: where one is absent they are skipped, and counted.

With PALACE_TEST_STRICT set they fail instead: a gate that skips is none.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

import pytest

from tests.support.machines.setup import ALL, STRICT, find, is_strict, remedy

ROOT = "root"
CASES = "case scripts"
_ABSENT = re.compile(r"for want of ([\w -]+): ")


def need(part: str, how: str, *, present: bool) -> None:
    """Go on only where a part is there; `how` says how to get it."""
    if present:
        return
    reason = f"for want of {part}: {how}"
    if is_strict():
        pytest.fail(f"{STRICT} is set, and the test can't run {reason}", pytrace=False)
    pytest.skip(reason)


def want(part: str, why: str) -> NoReturn:
    """Skip, and count it, for want of what a gate can't install either."""
    pytest.skip(f"for want of {part}: {why}")


def need_root() -> None:
    need(ROOT, "sudo .venv/bin/just check", present=os.geteuid() == 0)


def need_command(name: str) -> str:
    """Return a command's path; those of administrators count, whatever PATH says."""
    found = find(name)
    need(name, remedy(name), present=found is not None)
    return found or ""


def summary(reasons: Iterable[str]) -> str:
    """Return the line that counts what was skipped for want of parts; "" where nothing was."""
    parts = Counter(found[1] for reason in reasons if (found := _ABSENT.search(reason)))
    if not parts:
        return ""
    counted = ", ".join(f"{part} ({count})" for part, count in parts.most_common())
    packages = sorted({name for part in parts for name in ALL.get(part, ())})
    ways = ["run as root"] if parts[ROOT] else []
    ways += ["name their directory in PALACE_CASES"] if parts[CASES] else []
    ways += [f"`just setup` as root, or apt-get install {' '.join(packages)}"] if packages else []
    tests = "1 test was" if parts.total() == 1 else f"{parts.total()} tests were"
    return f"{tests} skipped for want of {counted}; to run them: {'; '.join(ways)}"
