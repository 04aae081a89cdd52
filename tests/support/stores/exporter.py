"""A palace that others pull from: a directory with an identity and a journal, and no stores."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from palace.journal.journal import Journal
from palace.journal.offering import DRAWERS, FACTS
from palace.journal.record import DELETE, PUT, Draft, Stamp
from palace.kernel.kernel import Kernel

IDENTITY = "0b" * 16


def drawer(ident: str, text: str | None, wing: str = "w") -> Draft:
    """Return what says that a drawer holds a text; None: that it is gone."""
    if text is None:
        return Draft(action=DELETE, kind=DRAWERS, id=ident, deleted=True)
    metadata = {"wing": wing, "room": "r"}
    payload = {"document": text, "metadata": metadata, "vector": ""}
    return Draft(action=PUT, kind=DRAWERS, id=ident, payload=payload)


def fact(subject: str, predicate: str, what: str) -> Draft:
    """Return what says that a fact is known."""
    row = {"subject": subject, "predicate": predicate, "object": what}
    ident = f"t_{subject}_{predicate}"
    return Draft(action=PUT, kind=FACTS, id=ident, payload={"rowid": 1, "row": row})


def export(
    root: Path,
    texts: Mapping[str, str | None],
    epoch: int = 1,
    facts: Iterable[tuple[str, str, str]] = (),
    wing: str = "w",
) -> None:
    """Have an owner of this epoch say what drawers hold; makes the palace where there is none."""
    (root / "journal").mkdir(parents=True, exist_ok=True)
    (root / "palace_id").write_text(f"{IDENTITY}\n")
    stamp = Stamp(epoch=epoch, writer=f"there{epoch}", origin=IDENTITY)
    journal = Journal.open(str(root / "journal"), Kernel(), stamp)
    drafts = [drawer(ident, text, wing) for ident, text in texts.items()]
    drafts += [fact(*told) for told in facts]
    for first in range(0, len(drafts), 500):
        journal.append(drafts[first : first + 500])
    journal.sync(journal.seq)
    journal.close()
