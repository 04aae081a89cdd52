"""What goes with a purged memory, and what stays: decided from the journal alone."""

import base64
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.engine.durability.derived import Derivation, Derived
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.purge import Going, purge_journal
from palace.journal.record import ADOPT, DELETE, PUT, Draft, Entity, Record, Stamp
from palace.journal.replay import replay
from tests.support.disks.memory import ROOT, Disk, all_kept

JOURNAL = f"{ROOT}/journal"
STAMP = Stamp(epoch=1, writer="w")
KEY = "skLive9f8e7d6c5b4a"
DRAWERS, CLOSETS = "chroma:mempalace_drawers", "chroma:mempalace_closets"


def drawer(text: str, **metadata: str) -> dict[str, Any]:
    drawn = random.Random(text)
    vector = base64.b64encode(struct.pack("<12f", *(drawn.gauss(0, 1) for _ in range(12)))).decode()
    return {"document": text, "metadata": {"wing": "w", **metadata}, "vector": vector}


def fact(subject: str, predicate: str, thing: str, **more: str) -> dict[str, Any]:
    row = {"id": f"t_{subject}_{thing}", "subject": subject, "predicate": predicate}
    return {"rowid": 1, "row": {**row, "object": thing, **more}}


def node(name: str) -> dict[str, Any]:
    return {"rowid": 1, "row": {"id": name.lower(), "name": name, "type": "unknown"}}


def written(*entities: tuple[str, str, Any]) -> Disk:
    """Return a disk whose journal says these, in order; None deletes."""
    disk, last = Disk(), {}
    journal = Journal.open(JOURNAL, disk, STAMP)
    for kind, ident, payload in entities:
        action = PUT if payload is not None else DELETE
        draft = Draft(
            action=action,
            kind=kind,
            id=ident,
            payload=payload,
            deleted=payload is None,
            before=last.get((kind, ident)),
        )
        last[kind, ident] = payload
        journal.append([draft])
        journal.close_key("", "outcome", reply=f"said {payload}")
    journal.close()
    return disk.power_cut(all_kept)


def derive(disk: Disk, *ids: str) -> Derived:
    def history() -> list[Record]:
        return [item for item in read_from(JOURNAL, disk) if isinstance(item, Record)]

    known = replay(JOURNAL, disk)
    return Derivation(history=history, known=known).run(frozenset(ids))


def gone(derived: Derived) -> set[str]:
    return {ident for _, ident in derived.entities}


def purge(disk: Disk, derived: Derived) -> None:
    known = replay(JOURNAL, disk)
    live = frozenset(told.seq for e, told in known.live.items() if e not in derived.entities)
    going = Going(
        entities=frozenset(derived.entities),
        holds=derived.traces.in_bytes,
        live=live,
    )
    purge_journal(JOURNAL, disk, going)


def holders(disk: Disk, text: str) -> list[str]:
    files = {path: disk.read(path) for path, file in disk.names.items() if file is not None}
    return [path for path, data in files.items() if text.lower().encode() in data.lower()]


def contents(disk: Disk) -> dict[Entity, Any]:
    known = replay(JOURNAL, disk)
    assert (known.broken, known.gaps) == ([], [])
    return {entity: known.payload(entity) for entity in known.live}


TWO = (
    (DRAWERS, "d1", drawer(f"The gate opens with {KEY} and a smile.", entities="Ann Lee;Bob")),
    (DRAWERS, "d2", drawer("Bob likes eels and the gate of the harbour.", entities="Bob")),
)


def test_facts_of_a_drawer_go_and_those_of_another_one_stay() -> None:
    disk = written(
        *TWO,
        ("graph:entity", "ann", node("Ann")),
        ("graph:entity", "bob", node("Bob")),
        ("graph:entity", "eels", node("Eels")),
        ("graph:triple", "t1", fact("ann", "knows", "bob", source_drawer_id="d1")),
        ("graph:triple", "t2", fact("bob", "likes", "eels", source_drawer_id="d2")),
        ("graph:triple", "t3", fact("bob", "is", "eels")),
    )

    found = derive(disk, "d1")

    assert gone(found) == {"d1", "t1", "ann"}
    assert found.shared == ()


def test_a_fact_without_a_source_goes_by_words_that_nothing_else_holds() -> None:
    facts = (
        ("graph:entity", KEY.lower(), node(KEY)),
        ("graph:triple", "t1", fact("gate", "has_key", KEY.lower())),
        ("graph:triple", "t2", fact("gate", "is", "open")),
        ("graph:entity", "gate", node("Gate")),
    )
    assert gone(derive(written(*TWO, *facts), "d1")) == {"d1", "t1", KEY.lower()}
    # Another drawer holds them: then the fact may be of that one.
    also = (DRAWERS, "d3", drawer(f"It was {KEY} in May."))
    found = derive(written(*TWO, also, *facts), "d1")
    assert gone(found) == {"d1"}
    assert {ident for _, ident in found.shared} == {"d3", "t1", KEY.lower()}


def test_a_fact_of_another_drawers_stays_whatever_it_says() -> None:
    told = fact("gate", "has_key", KEY.lower(), source_drawer_id="d2")
    found = derive(written(*TWO, ("graph:triple", "t1", told)), "d1")
    assert gone(found) == {"d1"}
    assert [ident for _, ident in found.shared] == ["t1"]


def test_facts_of_a_file_go_with_the_last_of_its_drawers() -> None:
    of_file = ("graph:triple", "t1", fact("bob", "likes", "eels", source_file="/f"))
    one = (DRAWERS, "d1", drawer("First part.", source_file="/f"))
    other = (DRAWERS, "d2", drawer("Second part.", source_file="/f"))
    assert gone(derive(written(one, other, of_file), "d1")) == {"d1"}
    assert gone(derive(written(one, other, of_file), "d1", "d2")) == {"d1", "d2", "t1"}


def test_chunks_closets_and_tunnels_go_with_their_drawer() -> None:
    mine = {"source_file": "/f"}
    disk = written(
        *TWO,
        (DRAWERS, "d1_1", drawer("The second part of it.", parent_drawer_id="d1")),
        (CLOSETS, "c1", drawer("a topic|Bob|→d2,d1", **mine)),
        (CLOSETS, "c2", drawer("another topic|Bob|→d2", **mine)),
        ("tunnel", "x", {"id": "x", "source": {"drawer_id": "d1"}, "target": {}, "label": "l"}),
        ("tunnel", "y", {"id": "y", "source": {"drawer_id": "d2"}, "target": {}, "label": "l"}),
    )
    assert gone(derive(disk, "d1")) == {"d1", "d1_1", "c1", "x"}


def test_closets_that_quote_a_later_part_of_a_file_go() -> None:
    disk = written(
        (DRAWERS, "d1", drawer("First part.", source_file="/f")),
        (DRAWERS, "d9", drawer("Bob decided to\nsell the Boat.", source_file="/f")),
        (CLOSETS, "c1", drawer("first things||→d1", source_file="/f")),
        (CLOSETS, "c2", drawer("decided to sell the boat||→d1", source_file="/f")),
        (CLOSETS, "c3", drawer("decided to sell the boat||→e1", source_file="/another")),
    )
    assert gone(derive(disk, "d9")) == {"d9", "c2"}


def test_names_that_only_the_drawer_holds_take_hallways_along() -> None:
    one = {"id": "h1", "entity_a": "Ann Lee", "entity_b": "Bob", "label": "Ann Lee - Bob"}
    other = {"id": "h2", "entity_a": "Bob", "entity_b": "Cy", "label": "Bob - Cy"}
    disk = written(*TWO, ("hallway", "h1", one), ("hallway", "h2", other))
    assert gone(derive(disk, "d1")) == {"d1", "h1"}


def test_what_a_closet_said_once_doesnt_count() -> None:
    before = (CLOSETS, "c1", drawer("a topic||→d1"))
    disk = written(*TWO, before, (CLOSETS, "c1", drawer("a topic||→d2")))
    assert gone(derive(disk, "d1")) == {"d1"}


@pytest.mark.parametrize("kind", ["log:event", "chroma:mempalace_diary", DRAWERS, "tunnel"])
def test_other_memories_that_hold_the_words_are_named_and_stay(kind: str) -> None:
    told = f"She wrote down {KEY}."
    payload = drawer(told) if kind.startswith("chroma") else {"id": "x", "row": {"text": told}}
    found = derive(written(*TWO, (kind, "x", payload)), "d1")
    assert gone(found) == {"d1"}
    assert found.shared == ((kind, "x"),)
    assert KEY.lower() not in {piece.lower() for piece in found.traces.pieces}


def test_an_id_that_nothing_ever_had() -> None:
    found = derive(written(*TWO), "d7")
    assert (found.entities, bool(found.traces)) == ({}, False)


def test_what_others_said_before_goes_and_what_they_say_stays() -> None:
    disk = written(
        *TWO,
        (DRAWERS, "d3", drawer(f"Then {KEY} was used.")),
        (DRAWERS, "d3", drawer("Then a key was used.")),
        (DRAWERS, "d4", drawer(f"Once {KEY} was used.")),
        (DRAWERS, "d4", None),
    )
    found = derive(disk, "d1")
    assert gone(found) == {"d1"}

    purge(disk, found)

    assert holders(disk, KEY) == []
    assert contents(disk)[DRAWERS, "d3"]["document"] == "Then a key was used."
    assert set(contents(disk)) == {(DRAWERS, "d2"), (DRAWERS, "d3")}


words = st.sampled_from(["gate", "Bob", "eel", "ninety-nine", "harbour", "é"])
plain = st.lists(words, min_size=1, max_size=8).map(" ".join)
sources = st.sampled_from(["", "d0", "d1", "d2", "secret"])
kinds = st.sampled_from(["drawer", "fact", "closet", "event", "delete", "checkpoint"])
steps = st.tuples(kinds, st.integers(0, 3), plain, st.booleans(), sources)


@settings(max_examples=120, deadline=None)
@given(script=st.lists(steps, max_size=14), word=st.sampled_from([KEY, "Schlüssel-4711-Ö-geheim"]))
def test_no_file_holds_the_secret_and_all_else_is_there(
    script: list[tuple[str, int, str, bool, str]], word: str
) -> None:
    """Whatever is written, deleted and changed, with the secret in it or not.

    What stays and holds it is named; if that is purged as well, no file holds it any more.
    """
    disk = Disk()
    journal = Journal.open(JOURNAL, disk, STAMP)
    journal.append([_adopted(DRAWERS, "secret", drawer(f"The word is {word}."))])
    for kind, number, text, tells, source in script:
        said = f"{text} {word} {text}" if tells else text
        named = {"source_drawer_id": source} if source else {}
        if kind == "checkpoint":
            journal.roll()
            make_checkpoint(JOURNAL, disk, STAMP)
        elif kind == "delete":
            journal.append([_adopted(DRAWERS, f"d{number}", None)])
        elif kind == "drawer":
            journal.append([_adopted(DRAWERS, f"d{number}", drawer(said))])
        elif kind == "fact":
            journal.append(
                [_adopted("graph:triple", f"t{number}", fact("bob", "is", said, **named))]
            )
        elif kind == "closet":
            journal.append([_adopted(CLOSETS, f"c{number}", drawer(f"{said}||→{source}"))])
        else:
            journal.append([_adopted("log:event", f"e{number}", {"row": {"content": said}})])
    journal.close()
    before = contents(disk)

    found = derive(disk, "secret")
    purge(disk, found)

    after = contents(disk)
    assert after == {e: p for e, p in before.items() if e not in found.entities}
    assert not any(kind in (DRAWERS, "log:event") for kind, i in found.entities if i != "secret")
    for entity in found.entities:
        shown = str(before.get(entity, "secret"))
        assert word in shown or "secret" in shown, entity
    holding = {entity for entity, payload in after.items() if word in str(payload)}
    assert holding == set(found.shared)

    everything = derive(disk, *(ident for _, ident in holding), "secret")
    purge(disk, everything)
    assert bool(holders(disk, word)) is False


def _adopted(kind: str, ident: str, payload: Any) -> Draft:
    return Draft(action=ADOPT, kind=kind, id=ident, payload=payload, deleted=payload is None)
