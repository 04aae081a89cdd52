"""What `palace history` says of a record: what was done, and by whom."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from palace.commands.cursors import Cursor, cursor_of
from palace.commands.history import print_feed, print_history
from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, DELETE, PUT, UNDO, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
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
            Draft(action=ADOPT, kind="file", id="mempalace_embedder.json", payload=PAYLOAD),
            Draft(action=UNDO, kind="drawer", id="c", payload=None, deleted=True),
            Draft(action=DELETE, kind="drawer", id="b", payload=None, deleted=True),
        ]
    )
    journal.close()

    print_history(paths, Kernel(), since=1, follow=False, as_json=False)

    said = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()]
    shown = [" ".join(line.split()) for line in said if "drawer" in line or "file" in line]
    assert shown == [
        "put drawer a",
        "adopt drawer b (written by another program)",
        "adopt drawer a (deleted by another program)",
        "adopt file mempalace_embedder.json (found in the palace)",
        "undo drawer c (gone again)",
        "delete drawer b",
    ]


def test_a_cursor_shows_what_is_new_and_says_where_something_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, environ = Paths(str(tmp_path / "palace")), {"XDG_STATE_HOME": str(tmp_path / "state")}
    kernel = Kernel()
    kernel.make_directory(paths.root)

    def shown(name: str = "mine") -> tuple[int, list[dict[str, Any]]]:
        code = print_feed(paths, kernel, environ, name=name, follow=False, as_json=True)
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def written(epoch: int, *idents: str) -> None:
        journal = Journal.open(paths.journal, kernel, Stamp(epoch=epoch, writer="w", origin="o"))
        journal.append(
            [Draft(action=PUT, kind="drawer", id=ident, payload=PAYLOAD) for ident in idents]
        )
        journal.roll()
        make_checkpoint(paths.journal, kernel, journal.stamp)
        journal.close()

    written(1, "a", "b")
    code, found = shown()
    assert (code, [(one["seq"], one["id"], one["origin"]) for one in found]) == (
        0,
        [(1, "a", "o"), (2, "b", "o")],
    )
    assert shown() == (0, [])
    written(2, "c")
    assert [(one["seq"], one["origin"]) for one in shown()[1]] == [(3, "o")]
    assert [one["seq"] for one in shown("another")[1]] == [1, 2, 3]

    shutil.rmtree(f"{paths.journal}/archive")
    written(3, "d")
    shutil.rmtree(f"{paths.journal}/archive")
    code, found = shown()
    assert code == 65
    assert found[1] == {"gap": {"first": 1, "last": 4, "upto": 4, "entities": 4}}
    assert [one["snapshot"]["id"] for one in found[2:]] == ["a", "b", "c", "d"]
    assert shown() == (0, [])


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "x" * 65, "-f"])
def test_a_cursors_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cursor's name"):
        cursor_of(name, Paths(str(tmp_path)), {}, Kernel())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"seq": -1}', b'{"seq": "1"}'])
def test_a_file_that_is_no_cursor_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="no cursor of palace's"):
        Cursor(str(path), Kernel()).position()
