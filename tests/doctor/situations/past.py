"""What was served at a path, and what is there now."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from palace.commands.config import change_settings
from palace.commands.recover import forget_palace, recover_palace
from palace.doctor.finding import ERROR, WARNING
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.ownership import lock
from palace.ownership.place import take_place
from palace.ownership.served import Memory, saved_copy_path, write_served
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.doctor.situations.place import KERNEL, Place, Situation

OTHER_ID = "ab" * 16


def _served(place: Place, root: Path | None = None) -> Memory:
    """Serve the palace for as long as it takes to journal some records."""
    paths = Paths(str(root or place.palace))
    owner = lock.take_lock(paths, KERNEL)
    try:
        memory = take_place(owner, place.environ, KERNEL, serves=True)
    finally:
        KERNEL.close(owner.lock_fd)
    memory.note_seq(7)
    os.makedirs(paths.journal, exist_ok=True)
    return memory


def _recover(place: Place) -> None:
    recover_palace(place.paths, ShimEnvironment(place.environ), stop=False)


def _forget(place: Place) -> None:
    forget_palace(place.paths, ShimEnvironment(place.environ))


def moved(place: Place) -> None:
    memory = _served(place)
    elsewhere = str(place.home / "elsewhere")
    memory.note_moved(elsewhere)
    os.rename(place.palace, elsewhere)


def removed(place: Place) -> None:
    _served(place)
    shutil.rmtree(place.palace)


def emptied(place: Place) -> None:
    removed(place)
    place.palace.mkdir(mode=0o700)


def begun_again(place: Place) -> None:
    _served(place).note_lost(1, 7)


def older_copy(place: Place) -> None:
    _served(place).note_lost(6, 7)


def saved_copy_gone(place: Place) -> None:
    served = _served(place).served
    served.lost_from, served.lost_to, served.lost_with = 6, 7, "/state/served/p.saved-2"
    write_served(served, place.environ, KERNEL)


def without_journal(place: Place) -> None:
    _served(place)


def _journal_back(place: Place) -> None:
    Path(place.paths.journal, f"{1:020d}.jsonl").touch()


def other_palace(place: Place) -> None:
    _served(place)
    Path(place.paths.palace_id).write_text(f"{OTHER_ID}\n")
    _served(place)


def saved_and_left(place: Place) -> None:
    other_palace(place)
    _forget(place)
    Path(place.paths.journal, f"{1:020d}.jsonl").touch()
    Path(saved_copy_path(place.paths.root, 1, place.environ)).mkdir()


def copied(place: Place) -> None:
    original = place.home / "original"
    original.mkdir(mode=0o700)
    _served(place, original)
    place.palace.rmdir()
    shutil.copytree(original, place.palace)


def original_removed(place: Place) -> None:
    shutil.rmtree(place.home / "original")


def _journal(word: str) -> Callable[[Place], None]:
    def put(place: Place) -> None:
        change_settings(place.paths, ShimEnvironment(place.environ), {"journal": word}, KERNEL)

    return put


def _written_without(place: Place) -> None:
    Journal.note_pause(place.paths.journal, KERNEL)


def _taken_over(place: Place) -> None:
    Journal.open(place.paths.journal, KERNEL, Stamp(epoch=3, writer="w")).close()


SITUATIONS = {
    "the journal is off": Situation(
        arrange=_journal("off"),
        code="journal_off",
        level=WARNING,
        text="journal = off. There is none: no backup holds it",
        remedy="palace config set journal=on; palace stop; palace start",
        heal=_journal("on"),
    ),
    "a broker has written without the journal": Situation(
        arrange=_written_without,
        code="journal_off",
        level=WARNING,
        text="The journal lacks what a broker has written without it: no backup holds it",
        remedy="Let a broker take the palace into it: palace start",
        heal=_taken_over,
    ),
    "the palace was moved": Situation(
        arrange=moved,
        code="palace_gone",
        level=ERROR,
        text="it was moved to",
        remedy="palace recover",
        heal=_recover,
    ),
    "the palace was removed": Situation(
        arrange=removed,
        code="palace_gone",
        level=ERROR,
        text="is not there",
        remedy="palace recover",
        heal=_forget,
    ),
    "another program has emptied the palace": Situation(
        arrange=emptied,
        code="palace_replaced",
        level=ERROR,
        text="Another program has replaced",
        remedy="palace recover",
        heal=_forget,
    ),
    "an older copy was put back": Situation(
        arrange=older_copy,
        code="records_lost",
        level=ERROR,
        text="Records 6 to 7 were acknowledged",
        remedy="palace recover --forget",
        heal=_forget,
    ),
    "what a broker had saved of a replaced directory was removed": Situation(
        arrange=saved_copy_gone,
        code="records_lost",
        level=ERROR,
        text="/state/served/p.saved-2, where its broker had saved them, was removed before",
        remedy="palace recover --forget",
        heal=_forget,
    ),
    "the journal was removed": Situation(
        arrange=without_journal,
        code="journal_gone",
        level=ERROR,
        text="records up to 7 were written",
        remedy="Put it back before a broker starts",
        heal=_journal_back,
    ),
    "a broker has begun another journal": Situation(
        arrange=begun_again,
        code="records_lost",
        level=ERROR,
        text="its journal was removed",
        remedy="palace recover --forget",
        heal=_forget,
    ),
    "another palace was put there": Situation(
        arrange=other_palace,
        code="other_palace",
        level=WARNING,
        text="Another palace (",
        remedy="palace recover --forget",
        heal=_forget,
    ),
    "a saved journal is left": Situation(
        arrange=saved_and_left,
        code="saved_journal",
        level=WARNING,
        text="holds what a broker of",
        remedy="palace recover --forget",
        heal=_forget,
    ),
    "one palace lies in two places": Situation(
        arrange=copied,
        code="two_copies",
        level=WARNING,
        text="are copies of one palace",
        remedy="Use one of them and remove the other",
        heal=original_removed,
    ),
}
