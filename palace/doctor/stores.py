"""Are the stores whole: a look at their files, or the word of the broker that has them open."""

from collections.abc import Iterator
from typing import Any

from palace.doctor.contents import WITHIN_S, changed_rows
from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.lacking import EVERY_ENTRY, check_lacking
from palace.journal.tail import Tail
from palace.protocol.decoding import decode_json
from palace.settings.config import DUAL

START = (
    "A broker brings it back from the journal at its start, and keeps the old files: palace start"
)


def check_stores(found: Diagnostics) -> Iterator[Finding]:
    """Yield what is wrong with the stores' files, and what was brought back."""
    if found.foreign is not None or not found.exists or found.config is None:
        return
    tail = found.tail()
    damages = list(_damages(found, tail))
    yield from (finding for _, finding in damages)
    lacks = list(check_lacking(found, tail, (store for store, _ in damages)))
    yield from lacks
    is_readable = not any(store for store, _ in damages)
    differs = list(_differing(found, tail, is_readable=is_readable))
    yield from differs
    yield from _kept(found)
    is_ready = found.status is not None and found.status["engine"]["state"] == "ready"
    if not (damages or lacks or differs) and (is_ready or found.is_closed()):
        yield Finding(level=OK, code="stores", text="whole")


def _damages(found: Diagnostics, tail: Tail) -> Iterator[tuple[str, Finding]]:
    """Yield what is wrong, with the store's name where all of it is in doubt, else with ""."""
    if found.status is not None:
        yield from _by_the_broker(found.status)
    elif found.is_closed():
        damages = list(_by_the_files(found, tail))
        if found.is_closed():  # else somebody began to write while we looked
            yield from damages


def _by_the_broker(status: dict[str, Any]) -> Iterator[tuple[str, Finding]]:
    stores = status.get("journal", {}).get("stores") or {}
    for one in stores.get("damaged", ()):
        yield (
            one["store"],
            Finding(
                level=ERROR,
                code="store_damaged",
                text=f"{_sentence(one['text'])} It was not brought back: {one['why']}. Calls that "
                "need it say so.",
                remedy=one["remedy"],
            ),
        )
    if trouble := stores.get("trouble"):
        remedy = "The next call lets another broker bring it back from the journal, as does: "
        yield (
            "",
            Finding(
                level=ERROR,
                code="store_damaged",
                text=_sentence(trouble),
                remedy=f"{remedy}palace stop; palace start",
            ),
        )
    gone = [one["text"] for one in stores.get("healed", ()) if not one["kept"]]
    for text in [*gone, *stores.get("mended", ())]:
        yield (
            "",
            Finding(
                level=WARNING,
                code="store_mended",
                text=f"{_sentence(text)} The broker wrote it again as it was.",
                remedy="Find out what removes or damages it. This is shown until the broker "
                "leaves: palace stop",
            ),
        )


def _by_the_files(found: Diagnostics, tail: Tail) -> Iterator[tuple[str, Finding]]:
    # Late, since they load the stores' modules.
    from palace.engine.durability.healing import FROM_DUAL, remedy_without_journal
    from palace.engine.stores.health import WHOLE_IDLE, find_damage
    from palace.engine.stores.palace_stores import unopened_stores

    assert found.config is not None
    stores = unopened_stores(found.paths, found.config, found.kernel)
    baseline = tail.baseline
    is_whole = baseline is not None and tail.adopting is None
    healing = FROM_DUAL if found.config.journal == DUAL else START
    for damage in find_damage(stores, baseline, WHOLE_IDLE):
        can_heal = found.config.journal != "off" and (is_whole or damage.index)
        yield (
            "" if damage.index else damage.store,
            Finding(
                level=ERROR,
                code="store_damaged",
                text=_sentence(damage.text),
                remedy=healing if can_heal else remedy_without_journal(damage),
            ),
        )


def _differing(found: Diagnostics, tail: Tail, *, is_readable: bool) -> Iterator[Finding]:
    """Yield which records are others than the journal's: as a broker found while nobody asked it.

    Where none has noted any, and none serves, they are compared now.
    """
    noted = found.kernel.read_hint(found.paths.differing_texts)
    text: str | None = (noted or b"").decode("utf-8", "replace")
    if noted is None and is_readable and found.status is None and found.is_closed():
        text = changed_rows(found, tail)
    if text is None:
        yield Finding(
            level=NOTE,
            code="not_compared",
            text=f"Texts and metadata were not compared with the journal: {WITHIN_S:.0f} s were "
            "not enough. A broker compares them while nobody asks it.",
            remedy=EVERY_ENTRY,
        )
    elif text:
        yield Finding(
            level=ERROR,
            code="texts_differ",
            text=f"{_sentence(text)} Bits have flipped on the disk, or a program wrote into "
            "Chroma's database by itself. Searches show what is there now.",
            remedy="To have the journal's texts back, and keep the old stores: palace rebuild "
            "--stop. To take over the new ones, file them again",
        )


def _kept(found: Diagnostics) -> Iterator[Finding]:
    """Yield what was brought back, for as long as the old files are kept."""
    root, kernel = found.paths.root, found.kernel
    for name in sorted(kernel.list_directory(root)):
        if not name.startswith("replaced-"):
            continue
        try:
            notes = decode_json(kernel.read_hint(f"{root}/{name}/why.json") or b"[]")
            yield from (_healed(note, f"{root}/{name}") for note in notes)
        except (ValueError, KeyError, TypeError):
            continue


def _healed(note: dict[str, Any], directory: str) -> Finding:
    told = f"{_sentence(note['text'])} It was brought back at {note['at']}"
    if note["index"]:
        return Finding(
            level=NOTE,
            code="store_healed",
            text=f"{told} from the rows and the journal.",
            remedy=f"None needed; the damaged files may go: rm -r {directory}",
        )
    return Finding(
        level=WARNING,
        code="store_healed",
        text=f"{told} from the journal. What another program than palace wrote into it after the "
        "last broker, if any did, is only in the damaged files.",
        remedy=f"Look whether you miss anything; then remove them: rm -r {' '.join(_places(note))}",
    )


def _places(note: dict[str, Any]) -> list[str]:
    return sorted(
        {path.rpartition("/")[0] if "/replaced-" in path else path for path in note["kept"]}
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
