"""While a palace is adopted nothing is done that needs a whole journal: each says how far it is."""

import errno
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.commands.history import print_history
from palace.doctor.diagnostics import gather
from palace.doctor.finding import NOTE, WARNING
from palace.doctor.journal import check_journal
from palace.engine.durability.adoption import Adoption
from palace.engine.durability.healing import heal_stores
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild
from palace.engine.stores.palace_stores import unopened_stores
from palace.journal.copying import check_whole
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, ADOPTION, Draft, Stamp
from palace.journal.replay import no_progress, replay
from palace.journal.tail import Adopting
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken, StoreUnavailable
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

HOW_FAR = "1 of about 9 entries"


class Half:
    """A palace whose journal holds one tunnel of nine entries."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.paths = Paths(str(root))
        self.tunnels = root.parent / "tunnels.json"
        self.tunnels.write_text('[{"id": "t1"}, {"id": "t2"}]')
        config = Config(graph=str(root / "graph.sqlite3"), config_dir=str(root.parent))
        self.palace = OwnedPalace(
            paths=self.paths, config=config, kernel=Kernel(), stamp=Stamp(epoch=1, writer="w")
        )
        self.stores = unopened_stores(self.paths, config, Kernel())
        self.journal = Journal.open(self.paths.journal, Kernel(), self.palace.stamp)
        self.journal.fingerprints = lambda: {"tunnels": self.stores.tunnels.read_fingerprint()}
        self.journal.begin_adoption(Adopting(since=0, total=9))
        tunnel = Draft(action=ADOPT, key=ADOPTION, kind="tunnel", id="t1", payload={"id": "t1"})
        self.journal.append([tunnel])
        self.journal.fingerprints = lambda: None

    def check(self) -> None:
        Rebuild(palace=self.palace, journal=self.journal, progress=no_progress).check()


@pytest.fixture
def half(tmp_path: Path) -> Half:
    return Half(tmp_path / "home" / "palace")


def test_a_rebuild_and_a_purge_are_refused(half: Half) -> None:
    with pytest.raises(JournalBroken, match=HOW_FAR) as refused:
        half.check()
    assert "palace rebuild --partial" in refused.value.message
    half.stores.tunnels.read_fingerprint()
    half.journal.fingerprints = lambda: {"tunnels": half.stores.tunnels.fingerprint()}
    half.tunnels.unlink()
    half.journal.end_adoption()
    half.check()


def test_a_backup_is_refused(half: Half) -> None:
    with pytest.raises(JournalBroken, match=HOW_FAR) as refused:
        check_whole(half.paths.journal, Kernel())
    assert "palace start" in refused.value.message


@pytest.mark.parametrize("contents", ["[{", "", None])
def test_a_damaged_store_is_left_and_said_to_be(half: Half, contents: str | None) -> None:
    if contents is None:
        half.tunnels.unlink()
    else:
        half.tunnels.write_text(contents)
    health = heal_stores(half.palace, half.journal, half.stores, no_progress)
    assert not health.healed
    (left,) = health.left
    assert left.damage.store == "tunnels"
    assert HOW_FAR in left.why
    assert left.remedy.endswith("palace rebuild --stop --partial")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_opens_nothing_and_another_error_leaves_the_store(
    half: Half, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    half.journal.fingerprints = lambda: {"tunnels": half.stores.tunnels.fingerprint()}
    half.journal.end_adoption()
    half.tunnels.write_text("[{")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Kernel, "write_durable", refuse)

    if number == errno.EIO:
        health = heal_stores(half.palace, half.journal, half.stores, no_progress)
        assert [left.damage.store for left in health.left] == ["tunnels"]
    else:
        with pytest.raises(StoreUnavailable, match=f"{os.strerror(number)}. Nothing was done"):
            heal_stores(half.palace, half.journal, half.stores, no_progress)
    assert half.tunnels.read_text() == "[{"


def test_the_doctor_says_so_until_a_broker_has_gone_on(half: Half) -> None:
    environment = ShimEnvironment({"HOME": str(Path(half.paths.root).parent)})

    def codes() -> set[str]:
        return {one.code for one in check_journal(gather(half.paths, environment))}

    assert "adoption" in codes()
    half.journal.fingerprints = lambda: {"tunnels": half.stores.tunnels.read_fingerprint()}
    adoption = Adoption(
        journal=half.journal,
        projections=[half.stores.tunnels],
        listed={"tunnels": {"tunnel": ["t1", "t2"]}},
    )

    assert adoption.in_one_go(no_progress)

    assert "adoption" not in codes()
    known = replay(half.paths.journal, Kernel())
    assert known.ids("tunnel") == ["t1", "t2"]


def test_the_history_prints_what_there_is_and_says_that_it_is_not_all(
    half: Half, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_history(half.paths, Kernel(), since=1, follow=False, as_json=False) == 0
    said = capsys.readouterr()
    assert "tunnel t1 (found in the palace)" in said.out
    assert HOW_FAR in said.err


@pytest.mark.parametrize(
    ("adoption", "level", "words"),
    [
        (None, WARNING, "palace start"),
        ({"done": 3, "total": 9, "problem": ""}, NOTE, "has taken 3 of 9 into it"),
        ({"done": 3, "total": 9, "problem": "no space"}, WARNING, "could not go on: no space"),
    ],
    ids=["nobody", "going on", "hindered"],
)
def test_the_doctor_says_whether_it_goes_on(
    half: Half, adoption: Any, level: str, words: str
) -> None:
    environment = ShimEnvironment({"HOME": str(Path(half.paths.root).parent)})
    status = None if adoption is None else {"journal": {"adoption": adoption}}
    found = attrs.evolve(gather(half.paths, environment), status=status)
    (finding,) = [one for one in check_journal(found) if one.code == "adoption"]
    assert finding.level == level
    assert words in f"{finding.text} {finding.remedy}"
