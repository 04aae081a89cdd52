"""What `palace history` says of a record: what was done, and by whom."""

from pathlib import Path

import pytest

from palace.commands.history import print_history
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, DELETE, PUT, UNDO, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths

PAYLOAD = {"document": "text"}


def test_what_another_program_wrote_and_deleted_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths(str(tmp_path))
    journal = Journal.open(paths.journal, Kernel(), Stamp(epoch=1, writer="w"))
    journal.append(
        [
            Draft(action=PUT, kind="drawer", id="a", payload=PAYLOAD),
            Draft(action=ADOPT, kind="drawer", id="b", payload=PAYLOAD),
            Draft(action=ADOPT, kind="drawer", id="a", payload=None, deleted=True),
            Draft(action=UNDO, kind="drawer", id="c", payload=None, deleted=True),
            Draft(action=DELETE, kind="drawer", id="b", payload=None, deleted=True),
        ]
    )
    journal.close()

    print_history(paths, Kernel(), since=1, follow=False, as_json=False)

    said = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()]
    shown = [" ".join(line.split()) for line in said if "drawer" in line]
    assert shown == [
        "put drawer a",
        "adopt drawer b (written by another program)",
        "adopt drawer a (deleted by another program)",
        "undo drawer c (gone again)",
        "delete drawer b",
    ]
