"""Each promise of the documents has tests, and mutants that turn them red; a quick look at all.

The trying is done by `just promises`, which notes what was killed, and with which test.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.promises import table as promises
from tests.promises.__main__ import try_all
from tests.promises.table import (
    MUTANTS_MIN,
    ROOT,
    Mutant,
    Table,
    complaints,
    killed,
    read_table,
)
from tests.promises.workspace import Copy, copied_tree
from tests.support.faults.killing import is_deep, is_full
from tests.support.machines.needs import need_command

DEEP = 4  # mutants that the deep profile tries, others each day
LINE = '        raise ValueError(f"other text than expected at offset {at}")'
FIRST = Mutant(
    "palace/mcp_hosts/splices.py",
    f"-{LINE}\n+        return text",
    ("tests/mcp_hosts/test_splices.py::test_another_text_is_left_alone",),
)


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table()


def test_each_promise_stands_in_its_document_and_has_tests_and_mutants(table: Table) -> None:
    assert list(complaints(table)) == []


def test_each_mutant_was_killed_as_it_and_its_test_are_now(table: Table) -> None:
    known = killed()
    stale = [
        f"{mutant.file}: {test}"
        for mutant in table.mutants
        for test, key in mutant.keys.items()
        if key not in known
    ]
    assert stale == [], "a test or a mutant has changed: just promises"


# What a table may suffer.


@pytest.fixture
def small(table: Table) -> Table:
    """A table of one promise, the first; whatever is said of the others is said anyway."""
    return attrs.evolve(table, promises=table.promises[:1])


def with_promise(small: Table, **changes: Any) -> Table:
    """Return the table with its first promise changed."""
    first, *others = small.promises
    return attrs.evolve(small, promises=(attrs.evolve(first, **changes), *others))


def with_mutant(small: Table, **changes: Any) -> Table:
    first = small.promises[0]
    changed = attrs.evolve(first.mutants[0], **changes)
    return with_promise(small, mutants=(changed, *first.mutants[1:]))


def said_of(table: Table) -> str:
    return "\n".join(complaints(table))


def test_a_sentence_that_has_changed_is_noticed(small: Table) -> None:
    says = small.promises[0].says
    said = said_of(with_promise(small, says=f"{says[:-1]}!"))

    assert "the document no longer says so" in said
    assert f"{says[:60]!r} is promised, and nothing holds it" in said


def test_a_promise_with_too_few_mutants_is_noticed(small: Table) -> None:
    mutants = small.promises[0].mutants[: MUTANTS_MIN - 1]
    assert "needs 3 mutants" in said_of(with_promise(small, mutants=mutants))
    twice = (*mutants, mutants[0])
    assert "needs 3 mutants" in said_of(with_promise(small, mutants=twice))


def test_a_test_that_is_gone_is_noticed(small: Table) -> None:
    [test, *_] = small.promises[0].tests
    assert f"there is no test {test}s" in said_of(with_mutant(small, red=(f"{test}s",)))
    gone = test.replace(".py", "_of_yore.py")
    assert f"there is no test {gone}" in said_of(with_mutant(small, red=(gone,)))


@pytest.mark.parametrize(
    ("slip", "says"),
    [
        ("-a line of yore\n+another", "stands there 0 times"),
        ("-\n+another", "stands there"),
        (" import os", "from one to 3 lines"),
        ("+import os\n+import sys\n+import io\n+import re\n import os", "from one to 3 lines"),
        ("-import os\n+import", "makes no Python"),
    ],
)
def test_a_mutant_that_does_not_fit_is_noticed(small: Table, slip: str, says: str) -> None:
    changed = {"file": "palace/ownership/lock.py", "slip": slip}
    assert says in said_of(with_mutant(small, **changed))


@pytest.mark.parametrize(
    ("document", "added"),
    [
        ("README.md", ("\n## Limits\n", "| We do no harm. | `tests/cli` |\n")),
        ("docs/security.md", ("\n## Network\n", "| no harm | `tests/cli/test_cli.py::test_x` |\n")),
        ("docs/security.md", ("\n## Network\n", "\nWe do no harm.\n")),
        ("docs/design.md", ("\n## The journal\n", "\nWe do no harm.\n")),
    ],
)
def test_a_promise_that_the_table_lacks_is_noticed(
    small: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: str,
    added: tuple[str, str],
) -> None:
    before, new = added
    root = tree(tmp_path)
    text = (root / document).read_text()
    assert text.count(before) == 1
    (root / document).write_text(text.replace(before, f"{new}{before}"))
    monkeypatch.setattr(promises, "ROOT", root)

    said = [line for line in complaints(small) if "no harm" in line]
    assert len(said) == 1
    assert said[0].startswith(document)


def tree(tmp_path: Path) -> Path:
    """Return a tree with documents of its own, and the rest of this one."""
    (tmp_path / "docs").mkdir()
    for name in promises.DOCUMENTS.values():
        (tmp_path / name).write_text((ROOT / name).read_text())
    for name in ("palace", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_a_test_that_has_changed_has_another_key(
    monkeypatch: pytest.MonkeyPatch, small: Table
) -> None:
    mutant = small.promises[0].mutants[0]
    before = mutant.keys
    monkeypatch.setattr(promises, "source_of", lambda _test: "def test_it(): pass")

    assert mutant.keys.keys() == before.keys()
    assert not set(mutant.keys.values()) & set(before.values())


# Trying mutants.


@pytest.fixture(scope="module")
def copy() -> Copy:
    need_command("git")  # which names the files that belong to the tree
    with copied_tree() as made:
        yield made


def test_a_slip_turns_its_test_red_and_is_taken_back(copy: Copy) -> None:
    with copy.slip(FIRST):
        assert copy.run(FIRST.red).is_red
    ran = copy.run(FIRST.red)
    assert not ran.is_red
    assert ran.passed == {*FIRST.red}


def test_what_is_not_even_collected_kills_nothing(copy: Copy) -> None:
    with copy.slip(attrs.evolve(FIRST, slip=f"-{LINE}\n+        raise of yore")):
        assert not copy.run(FIRST.red).is_red


@pytest.mark.skipif(not is_deep(), reason="takes minutes: PALACE_TEST_PROFILE=deep")
def test_mutants_are_killed(table: Table) -> None:
    """All of them, or those whose turn it is today and whose tests start no process."""
    trials = [(mutant, test) for mutant in table.mutants for test in mutant.red]
    if not is_full():
        alone = [trial for trial in trials if "pytest.mark.process" not in _text_of(trial[1])]
        parts = -(-len(alone) // DEEP)
        day = datetime.now(UTC).timetuple().tm_yday
        trials = alone[day % parts :: parts]
    assert try_all(trials) == []


def _text_of(test: str) -> str:
    return (ROOT / test.partition("::")[0]).read_text()
