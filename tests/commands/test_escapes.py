"""Commands on a palace in which others have chosen the words: nothing reaches the terminal raw."""

import json
from pathlib import Path

import pytest

from palace.client import control
from palace.commands.history import print_history
from palace.commands.own import show_owner
from palace.doctor.journal import inspect_journal
from palace.doctor.report import print_report
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, QUARANTINE, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.ownership.lock import check_hold
from palace.protocol.errors import BrokerUnreachable, OnHold
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.brokers.records import write_record

EVIL = "\x1b]52;c;T1dORUQ=\x07\x1b[2J\r\n     999 2026 delete chroma:mempalace_drawers all\ud83d"
KERNEL = Kernel()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    root = tmp_path / "palace"
    root.mkdir(mode=0o700)
    journal = Journal.open(f"{root}/journal", KERNEL, Stamp(epoch=1, writer="w"))
    journal.append([Draft(action=ADOPT, kind="graph:entity", id=f"id{EVIL}", payload={"x": 1})])
    journal.append([Draft(action=QUARANTINE, key=f"key{EVIL}:1", payload=f"why{EVIL}")])
    journal.close()
    return Paths(str(root))


def checked(text: str, lines_max: int = 10_000) -> None:
    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert not any(line.startswith("     999") for line in text.split("\n"))
    assert text.count("\n") <= lines_max


@pytest.mark.parametrize("as_json", [False, True])
def test_history(paths: Paths, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """A lone surrogate ended it for ever."""
    assert print_history(paths, KERNEL, since=1, follow=False, as_json=as_json) == 0

    out = capsys.readouterr().out
    checked(out, lines_max=3)
    assert "id" in out
    assert "key" in out


def test_doctor(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(paths, inspect_journal(paths.journal, KERNEL), as_json=False)

    out = capsys.readouterr().out
    checked(out)
    assert "not tried again" in out


def test_what_files_of_the_palace_say_of_its_owner_and_its_broker(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = {"v": 1, "id": "a" * 32, "host": f"h{EVIL}", "path": f"/p{EVIL}", "since": f"s{EVIL}"}
    Path(paths.claim).write_text(json.dumps(claim))
    write_record(
        paths,
        host_id=f"host{EVIL}",
        endpoints=[f"unix:/x{EVIL}"],
        version=f"0.1.0{EVIL}",
        started_at=f"2026{EVIL}",
    )
    Path(paths.hold).write_bytes(f"2026{EVIL}".encode("utf-8", "surrogatepass"))
    environment = ShimEnvironment({"HOME": paths.root})

    say(show_owner(paths, environment))
    say(control.known_without_answer(paths, KERNEL, BrokerUnreachable("none", absent=True))["text"])
    with pytest.raises(OnHold) as caught:
        check_hold(paths, KERNEL)
    say(caught.value.message)

    checked(capsys.readouterr().out)
