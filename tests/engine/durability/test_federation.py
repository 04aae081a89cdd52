"""Candidates as a projection: what was pulled survives each death, and nothing else is changed.

The journal of the palace that pulls lies on a disk in memory, at any call of which its owner may
die; its file of candidates is a real one.  The other palace is a journal on another disk.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.engine.durability.candidate_room import fit
from palace.engine.durability.federation import FederationTools
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.candidates import CANDIDATE, TABLES, Candidates, Size, open_candidates
from palace.journal.journal import Journal
from palace.journal.offering import DRAWERS, FACTS, offers
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import DELETE, PUT, Draft, Stamp
from palace.journal.replay import no_progress, replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed
from palace.protocol.federation import (
    DRAWER,
    UNDECIDED,
    Place,
    batches,
    item_fields,
    position_fields,
    read_position,
)
from palace.protocol.request import tool_call
from palace.protocol.tools import FEDERATION_TOOLS
from palace.settings.paths import Paths
from tests.support.disks.memory import ROOT, Disk, Stopped, all_kept, all_lost
from tests.support.faults.killing import is_deep
from tests.support.stores.memory import JOURNAL, KEYS, MemoryStore, Platter

STRIDE = 1 if is_deep() else 17  # of the kernel's calls at which an owner dies
OURS, THEIRS, THIRD = "0a" * 16, "0b" * 16, "0c" * 16
THERE = f"{ROOT}/there"
ACCEPT = "accept"
FILED = "drawer"  # the kind of what stands for stock's drawers here
UNFILED = "what stock refuses"


def drawer(ident: str, text: str | None) -> Draft:
    if text is None:
        return Draft(action=DELETE, kind=DRAWERS, id=ident, deleted=True)
    metadata = {"wing": "w", "room": "r"}
    return Draft(
        action=PUT,
        kind=DRAWERS,
        id=ident,
        payload={"document": text, "metadata": metadata, "vector": ""},
    )


def fact(text: str) -> Draft:
    subject, predicate, obj = text.split(" ", 1)[0], "works_at", text.rsplit(" ", 1)[1]
    row = {"subject": subject, "predicate": predicate, "object": obj}
    return Draft(action=PUT, kind=FACTS, id=text, payload={"row": row})


def other_palace(disk: Disk, epoch: int = 1) -> Journal:
    return Journal.open(THERE, disk, Stamp(epoch=epoch, writer=f"there{epoch}", origin=THEIRS))


@attrs.define(eq=False)
class Life:
    """One owner's life over candidates in a real directory."""

    disk: Disk
    root: Path
    journal: Journal
    groups: CallGroups
    store: Candidates
    tools: FederationTools
    shelf: MemoryStore
    calls: int = 0

    @property
    def filed(self) -> list[str]:
        return sorted(payload["text"] for _, payload in self.shelf.scan(FILED))

    def ask(self, name: str, /, *, read_only: bool = False, **arguments: Any) -> Any:
        """Return the result, or the error's name and message."""
        self.calls += 1
        params = {"name": f"palace_{name}", "arguments": json.loads(json.dumps(arguments))}
        call = tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        key = f"s{self.journal.stamp.epoch}:{self.calls}"
        with self.groups.group(key, non_atomic=False) as group:
            try:
                reply: Any = self.tools.answer(call, read_only=read_only)
            except ValueError:  # an engine answers so whatever escapes, and goes on
                data = {"palace": "internal"}
                reply = {"error": {"message": "Internal error", "data": data}}
        self.groups.commit(group, json.dumps(reply))
        if "error" in reply:
            return f"{reply['error']['data']['palace']}: {reply['error']['message']}"
        return json.loads(reply["result"]["content"][0]["text"])

    def pull(self, there: Disk, palace: str = THEIRS, most: int = 2, left_out: int = 0) -> None:
        (remote,) = self.ask("remote_list")["remotes"]
        place = Place(position=read_position(remote["position"]), step=remote["step"])

        def known() -> list[tuple[str, str]]:
            told = self.ask("candidate_known", remote="desk")
            return [(kind, ident) for kind, ident, _ in told["known"]]

        for batch in batches(offers(THERE, there, place.position), place, known, most):
            told = self.ask("remote_fold", **folding(batch, palace))
            assert "changed" in told, told
            left_out -= told["left_out"]
        assert not left_out

    @property
    def texts(self) -> list[str]:
        told = self.ask("candidate_list")["candidates"]
        return sorted(one["says"]["text"] for one in told if one["says"])

    def check(self) -> None:
        """Assert that the file and the journal say the same."""
        known = replay(JOURNAL, self.disk)
        ours = {table.kind for table in TABLES}
        told: Any = {one: known.payload(one) for one in known.live if one[0] in ours}
        kept = {
            (table.kind, ident): payload
            for table in TABLES
            for ident, payload in self.store.scan(table.kind)
        }
        assert {e: payload["row"] for e, payload in told.items()} == {
            e: payload["row"] for e, payload in kept.items()
        }
        sums = self.store.sums()
        self.store.read_fingerprint()
        assert self.store.sums() == sums


def folding(batch: Any, palace: str = THEIRS, **more: Any) -> dict[str, Any]:
    upto = None if batch.upto is None else position_fields(batch.upto)
    offered = [item_fields(one) for one in batch.offers]
    told = {"remote": "desk", "palace": palace, "step": batch.step, "offers": offered}
    return {**told, "upto": upto, **more}


def awake(disk: Disk, root: Path, epoch: int = 1, shelf: Platter | None = None) -> Life:
    root.mkdir(exist_ok=True)
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS))
    store = open_candidates(Paths(str(root)), Kernel())
    drawers = MemoryStore(name="drawers", kinds_=(FILED,), kernel=disk, platter=shelf or Platter())
    recovery = Recovery(
        journal=journal,
        projections=[store, drawers],
        progress=no_progress,
        own=frozenset({store.name}),
    )
    recovery.scan()
    journal.fingerprints = recovery.fingerprints
    recovery.run()
    groups = CallGroups(journal)
    file = partial(filed_on, drawers, groups)
    tools = FederationTools(store, groups, Kernel(), OURS, file)
    return Life(disk, root, journal, groups, store, tools, drawers)


def filed_on(
    shelf: MemoryStore, groups: CallGroups, tool: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Answer as stock does, and file each time anew: a text that is filed twice is seen."""
    text = arguments.get("content", arguments.get("object"))
    if text == UNFILED:
        made = {"success": False, "error": "room contains invalid characters"}
    else:
        ident = f"drawer_{shelf.count(FILED) + 1}"
        shelf.set(groups, FILED, {ident: {"text": text, "tool": tool, **arguments}})
        made = {"success": True, ("drawer_id" if "content" in arguments else "triple_id"): ident}
    return {"id": 0, "result": {"content": [{"type": "text", "text": json.dumps(made)}]}}


@pytest.fixture
def there() -> Disk:
    disk = Disk()
    other_palace(disk).append([drawer(ident, f"text {ident}") for ident in "abcde"])
    return disk


@pytest.fixture
def life(tmp_path: Path) -> Life:
    life = awake(Disk(), tmp_path / "palace")
    life.ask("remote_add", name="desk", address="/desk")
    return life


def key_of(life: Life, text: str) -> str:
    told = life.ask("candidate_list")["candidates"]
    key: str = next(one["key"] for one in told if one["says"].get("text") == text)
    return key


def decide(life: Life, text: str, what: str = "dismiss", **more: Any) -> Any:
    key = key_of(life, text)
    digest = life.ask("candidate_show", key=key)["candidate"]["digest"]
    return life.ask(f"candidate_{what}", key=key, digest=digest, **more)


# What a pull leaves.


def test_what_another_palace_knows_is_shown_and_changes_no_drawer(life: Life, there: Disk) -> None:
    life.pull(there)
    assert life.texts == [f"text {ident}" for ident in "abcde"]
    kinds = {kind for kind, _ in replay(JOURNAL, life.disk).live}
    assert kinds == {"palace:remote", "palace:candidate"}
    assert not life.filed
    (before,) = life.ask("remote_list")["remotes"]
    life.pull(there)
    assert life.ask("remote_list")["remotes"] == [before]
    life.check()


def test_what_changes_goes_and_is_purged_there_follows(life: Life, there: Disk) -> None:
    life.pull(there)
    decide(life, "text a", ACCEPT)
    decide(life, "text b", ACCEPT)
    decide(life, "text c")
    journal = other_palace(there, 2)
    journal.append([drawer("a", "other"), drawer("b", None), drawer("c", None), drawer("d", "new")])
    journal.sync(journal.seq)
    life.pull(there)
    found = life.ask("candidate_list")["candidates"]
    assert sorted((one["status"], one["says"].get("text", "")) for one in found) == [
        ("changed", "other"),
        ("new", "new"),
        ("new", "text e"),
        ("withdrawn", ""),
    ]
    purge_journal(THERE, there, Going(entities=frozenset({(DRAWERS, "e")})))
    other_palace(there, 3).append([purge_mark()])
    life.pull(there)
    assert life.texts == ["new", "other"]
    life.check()


@pytest.mark.parametrize("lose", [all_kept, all_lost])
def test_a_death_at_any_call_of_a_pull_costs_no_offer_and_doubles_none(
    life: Life, there: Disk, lose: Any
) -> None:
    life.pull(there)
    decide(life, "text a", ACCEPT)
    journal = other_palace(there, 2)
    journal.append([drawer("a", "other"), drawer("b", None), drawer("f", "text f")])
    journal.sync(journal.seq)
    purge_journal(THERE, there, Going(entities=frozenset({(DRAWERS, "c")})))
    other_palace(there, 3).append([purge_mark(), drawer("g", "text g")])
    life.journal.sync(life.journal.seq)
    again, deaths = copies(life), 0
    while True:
        disk, root = next(again)
        shelf = life.shelf.platter.copy()
        owner = awake(disk, root, 2, shelf)
        disk.stop_after(deaths)
        try:
            owner.pull(there)
            owner.journal.sync(owner.journal.seq)
        except Stopped:
            deaths += STRIDE
        else:
            break
        heir = awake(disk.power_cut(lose), root, 3, shelf)
        heir.check()
        before = {"text a", "text b", "text c", "text d", "text e", "text f", "text g", "other"}
        assert set(heir.texts) <= before
        heir.pull(there)
        assert heir.texts == ["other", "text d", "text e", "text f", "text g"]
        told = heir.ask("candidate_list")["candidates"]
        assert sum(one["status"] == "changed" for one in told) == 1
        heir.check()
    assert deaths > 50


# What is decided.


def test_what_is_accepted_is_filed_once_and_says_whom_it_is_from(life: Life, there: Disk) -> None:
    other_palace(there, 2).append([fact("bob works at acme")])
    life.pull(there)
    first = decide(life, "text a", ACCEPT, wing="mine")
    assert first == {
        "candidate": first["candidate"],
        "status": "accepted",
        "local": ["drawer_1"],
        "before": [],
        "existing": False,
    }
    (row,) = (payload for _, payload in life.shelf.scan(FILED))
    assert row == {
        "text": "text a",
        "tool": "mempalace_add_drawer",
        "wing": "mine",
        "room": "r",
        "content": "text a",
        "added_by": "palace:desk",
    }
    digest = life.ask("candidate_show", key=first["candidate"])["candidate"]["digest"]
    again = life.ask("candidate_accept", key=first["candidate"], digest=digest, wing="other")
    assert again == {**first, "existing": True}
    assert life.filed == ["text a"]

    (told,) = (one for one in life.ask("candidate_list")["candidates"] if one["kind"] == "fact")
    made = life.ask("candidate_accept", key=told["key"], digest=told["digest"])
    assert made["local"] == ["drawer_2"]
    assert life.shelf.read(FILED, ["drawer_2"])["drawer_2"] == {
        "text": "acme",
        "tool": "mempalace_kg_add",
        "subject": "bob",
        "predicate": "works_at",
        "object": "acme",
        "source_file": "palace:desk",
    }
    life.check()


def test_what_stock_refuses_to_file_stays_to_be_decided(life: Life, there: Disk) -> None:
    other_palace(there, 2).append([drawer("u", UNFILED)])
    life.pull(there)
    told = decide(life, UNFILED, ACCEPT)
    assert told.startswith("remote_refused: ")
    assert "can't be filed: room contains invalid characters. Nothing was changed." in told
    assert "up to 256 characters" in decide(life, UNFILED, ACCEPT, wing="x" * 257)
    assert {one["status"] for one in life.ask("candidate_list")["candidates"]} == {"new"}
    assert not life.filed
    assert decide(life, UNFILED)["status"] == "dismissed"
    life.check()


def test_what_is_gone_there_is_nothing_to_accept(life: Life, there: Disk) -> None:
    life.pull(there)
    key = decide(life, "text a", ACCEPT)["candidate"]
    other_palace(there, 2).append([drawer("a", None)])
    life.pull(there)
    told = life.ask("candidate_show", key=key)["candidate"]
    assert (told["status"], told["digest"]) == ("withdrawn", "")
    assert "nothing to accept" in life.ask("candidate_accept", key=key, digest="")
    assert life.ask("candidate_dismiss", key=key, digest="")["status"] == "gone"
    assert life.filed == ["text a"], "it is ours"


@pytest.mark.parametrize("lose", [all_kept, all_lost])
def test_a_death_at_any_call_of_accepting_files_nothing_or_all_of_it(
    life: Life, there: Disk, lose: Any
) -> None:
    life.pull(there)
    life.journal.sync(life.journal.seq)
    again, deaths = copies(life), 0
    while True:
        disk, root = next(again)
        shelf = life.shelf.platter.copy()
        owner = awake(disk, root, 2, shelf)
        disk.stop_after(deaths)
        try:
            decide(owner, "text a", ACCEPT)
            owner.journal.sync(owner.journal.seq)
        except Stopped:
            deaths += 1
        else:
            break
        heir = awake(disk.power_cut(lose), root, 3, shelf)
        heir.check()
        waits = "text a" in heir.texts
        assert heir.filed == ([] if waits else ["text a"]), "both, or neither"
        if waits:
            assert decide(heir, "text a", ACCEPT)["existing"] is False
        assert heir.filed == ["text a"]
        heir.check()
    assert deaths > 10


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ValueError("?")])
def test_a_decision_that_can_not_be_noted_files_nothing(
    life: Life, there: Disk, error: Exception
) -> None:
    life.pull(there)
    passes: list[str] = []

    def failpoint(name: str) -> None:
        passes.append(name)
        if name == "apply" and passes.count("apply") == 2:  # the drawer is filed
            raise error

    life.disk.failpoint = failpoint  # type: ignore[method-assign]
    with pytest.raises(JournalFailed, match="was not filed"):
        decide(life, "text a", ACCEPT)
    del life.disk.failpoint
    assert not life.filed
    assert "text a" in life.texts
    life.check()


def copies(life: Life) -> Iterator[tuple[Disk, Path]]:
    number = 0
    while True:
        number += 1
        root = life.root.with_name(f"copy-{number}")
        shutil.copytree(life.root, root)
        yield life.disk.power_cut(all_kept), root


def test_a_batch_whose_outcome_can_not_be_written_moves_no_cursor(life: Life, there: Disk) -> None:
    (before,) = life.ask("remote_list")["remotes"]

    def failpoint(name: str) -> None:
        if name == "outcome":
            raise JournalFailed("the disk is full")

    life.disk.failpoint = failpoint  # type: ignore[method-assign]
    (first, *_) = batches(offers(THERE, there), Place(), list, 2)
    with pytest.raises(JournalFailed):
        life.ask("remote_fold", **folding(first))
    assert life.store.count(CANDIDATE) == 0
    (now,) = (json.loads(json.dumps(one)) for one in life.tools._list({})["remotes"])  # type: ignore[attr-defined]
    assert now == before


def test_five_pulls_at_once_are_one(life: Life, there: Disk) -> None:
    pulls = [batches(offers(THERE, there), Place(), list, 2) for _ in range(5)]
    stale = 0
    while pulls:
        for work in list(pulls):
            batch = next(work, None)
            if batch is None or "stale" in life.ask("remote_fold", **folding(batch)):
                stale += batch is not None
                pulls.remove(work)
    assert stale == 4
    assert life.texts == [f"text {ident}" for ident in "abcde"]
    (remote,) = life.ask("remote_list")["remotes"]
    assert remote["step"] == 3
    life.check()


# Nobody but palace writes it.


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM candidate",
        "UPDATE candidate SET decided = digest, local = 'drawer_1'",
        "UPDATE remote SET seq = 0, step = 0",
        "INSERT INTO remote SELECT 'more', '/etc', palace, scope, 0, 0, '', '', 0, '', '' "
        "FROM remote",
    ],
)
def test_what_another_program_writes_is_put_back(life: Life, there: Disk, statement: str) -> None:
    life.pull(there)
    with closing(sqlite3.connect(life.store.path)) as connection, connection:
        connection.execute(statement)
    heir = awake(life.disk.power_cut(all_kept), life.root, 2)
    heir.check()
    assert heir.texts == [f"text {ident}" for ident in "abcde"]
    assert [one["name"] for one in heir.ask("remote_list")["remotes"]] == ["desk"]
    heir.pull(there)
    assert {one["status"] for one in heir.ask("candidate_list")["candidates"]} == {"new"}


def test_a_file_that_is_gone_is_written_again(life: Life, there: Disk) -> None:
    life.pull(there)
    Path(life.store.path).unlink()
    heir = awake(life.disk.power_cut(all_kept), life.root, 2)
    heir.check()
    assert heir.texts == [f"text {ident}" for ident in "abcde"]


# What is refused.


def test_every_tool_of_the_table_is_answered(life: Life) -> None:
    assert set(life.tools._answers) == set(FEDERATION_TOOLS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"palace": OURS}, "this very palace"),
        ({"palace": "../x"}, "no palace"),
        ({"palace": 7}, "no palace"),
        ({"palace": "\N{EURO SIGN}"}, "no palace"),
        ({"was": "x"}, "no list"),
        ({"remote": "lap"}, "no remote lap"),
        ({"step": -1}, "the number of the one before"),
        ({"step": True}, "the number of the one before"),
        ({"offers": {}}, "up to 200 offers"),
        ({"offers": [{}] * 201}, "up to 200 offers"),
        ({"offers": [{"gap": True}]}, "and nothing else"),
        ({"offers": [{"kind": "palace:token", "id": "x"}]}, "neither a drawer nor a fact"),
        ({"upto": {"epoch": 1, "seq": 1 << 63, "writer": "", "origin": ""}}, "no numbers"),
        ({"upto": {"epoch": 0, "seq": 0, "writer": "", "origin": ""}}, "after its own end"),
    ],
)
def test_what_no_pull_sends_is_refused(
    life: Life, there: Disk, change: dict[str, Any], why: str
) -> None:
    (first, *_) = batches(offers(THERE, there), Place(), list, 2)
    answer = life.ask("remote_fold", **{**folding(first), **change})
    assert isinstance(answer, str)
    assert answer.startswith("remote_refused: ")
    assert why in answer
    assert not life.texts
    life.check()


def test_another_palace_in_a_remotes_place_is_refused_unless_it_was_that_one(
    life: Life, there: Disk
) -> None:
    life.pull(there, most=100)
    (batch,) = batches(
        [*offers(THERE, there)], Place(step=1), lambda: [(DRAWER, "x")], 100
    )  # as if anew
    assert "Another palace" in life.ask("remote_fold", **folding(batch, THIRD))
    assert "changed" not in life.ask("remote_fold", **folding(batch, THIRD, was=[OURS]))
    back = life.ask("remote_fold", **folding(attrs.evolve(batch, upto=None), THIRD, was=[THEIRS]))
    assert back["remote"]["palace"] == THIRD
    life.ask("remote_add", name="lap", address="/lap")
    assert "of the remote desk" in life.ask("remote_fold", **folding(batch, THIRD, remote="lap"))


def test_a_decision_is_upon_what_was_seen(life: Life, there: Disk) -> None:
    life.pull(there)
    key = key_of(life, "text a")
    for what in ("accept", "dismiss"):
        told = life.ask(f"candidate_{what}", key=key)
        assert "has changed meanwhile" in told
        for digest in ("0" * 64, "", 7, None):
            told = life.ask(f"candidate_{what}", key=key, digest=digest)
            assert "has changed meanwhile" in told
    assert not life.filed
    assert decide(life, "text a", ACCEPT)["status"] == "accepted"
    for named in (7, "x" * 99, "a\nb"):
        assert "named by its key" in life.ask("candidate_show", key=named)
    assert "no candidate" in life.ask("candidate_show", key="cand_0")
    assert "one of new" in life.ask("candidate_list", status="good")


def test_a_session_that_may_only_read_changes_nothing(life: Life) -> None:
    for name in (
        "remote_add",
        "remote_remove",
        "remote_fold",
        "candidate_accept",
        "candidate_dismiss",
    ):
        assert life.ask(name, read_only=True).startswith("forbidden"), name


def test_remotes_are_added_once_and_go_with_what_they_said(life: Life, there: Disk) -> None:
    life.pull(there)
    assert "already" in life.ask("remote_add", name="desk", address="/x")
    for given in ({"wings": "w"}, {"kinds": ["file"]}, {"wings": ["a\nb"]}):
        answer = life.ask("remote_add", name="more", address="/x", **given)
        assert isinstance(answer, str)
    assert life.ask("remote_remove", remote="desk") == {"removed": 5, "more": False}
    assert life.ask("remote_list") == {"remotes": []}
    assert not life.texts
    life.check()


def test_a_remote_that_was_removed_in_part_is_pulled_from_its_beginning(
    life: Life, there: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.engine.durability.federation.REMOVED_MAX", 2)
    life.pull(there)
    late = [batches(offers(THERE, there), Place(step=step), list, 2) for step in (0, 3)]
    assert life.ask("remote_remove", remote="desk") == {"removed": 2, "more": True}
    for one in late:
        assert life.ask("remote_fold", **folding(next(one))) == {"stale": True}
    life.pull(there)
    assert life.texts == [f"text {ident}" for ident in "abcde"]
    life.check()
    told = [life.ask("remote_remove", remote="desk") for _ in range(3)]
    assert [one["more"] for one in told] == [True, True, False]
    assert life.ask("remote_list") == {"remotes": []}


def test_one_that_says_too_much_is_told_so_and_still_takes_back_what_it_said(
    life: Life, there: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = Size(3, 1 << 20)
    monkeypatch.setattr("palace.engine.durability.federation.fit", partial(fit, most=most))
    life.pull(there, left_out=2)
    assert life.texts == ["text a", "text b", "text c"]
    life.ask("remote_add", name="lap", address="/lap")
    batch = next(batches(offers(THERE, there), Place(), list, 3))
    other = life.ask("remote_fold", **folding(batch, THIRD, remote="lap"))
    assert (other["changed"], other["left_out"]) == (3, 0)
    life.ask("remote_remove", remote="lap")

    journal = other_palace(there, 2)
    journal.append([drawer("a", None), drawer("b", "other"), drawer("f", "text f")])
    life.pull(there)
    assert life.texts == ["other", "text c", "text f"]
    assert life.store.size("desk").many == 3
    life.check()


def test_what_is_kept_of_a_remote_is_counted_as_it_is_in_the_file(life: Life, there: Disk) -> None:
    def is_counted() -> bool:
        return life.store.sizes.get("desk", (0, None))[1] in (None, life.store.size("desk"))

    life.pull(there)
    assert life.store.sizes
    assert is_counted()
    decide(life, "text a", ACCEPT)
    journal = other_palace(there, 2)
    journal.append([drawer("a", "\N{EURO SIGN}"), drawer("b", None), drawer("c", "longer text")])
    life.pull(there)
    assert life.store.sizes
    assert is_counted()


def test_a_page_of_candidates_is_bounded_and_all_is_in_one_of_them(
    life: Life, there: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_palace(there, 2).append([drawer(f"x{one}", f"{one}" * 200_000) for one in range(9)])
    life.pull(there)
    monkeypatch.setattr("palace.engine.durability.candidate_pages.LIST_BYTES", 2000)
    pages, after = [], ""
    while True:
        told = life.ask("candidate_list", after=after)
        pages.append(told["candidates"])
        assert len(json.dumps(told)) < 4000
        after = told["next"]
        if not after:
            break
    found = [one for page in pages for one in page]
    assert len({one["key"] for one in found}) == len(found) == 14
    assert sum(one["cut"] for one in found) == 9
    cut = next(one for one in found if one["cut"])
    whole = life.ask("candidate_show", key=cut["key"])["candidate"]
    assert (len(whole["says"]["text"]), whole["cut"]) == (200_000, False)


def test_a_search_finds_what_holds_all_words_on_whichever_page_it_is(
    life: Life, there: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {f"x{one}": f"{'y' * 600} Node {one} builds." for one in range(9)}
    other_palace(there, 2).append([drawer(ident, text) for ident, text in said.items()])
    life.pull(there)
    monkeypatch.setattr("palace.engine.durability.candidate_pages.SEARCHED_MAX", 4)

    def found(query: str) -> list[str]:
        keys, after = [], ""
        while True:
            told = life.ask("candidate_list", query=query, after=after)
            keys += [one["key"] for one in told["candidates"]]
            after = told["next"]
            if not after:
                return keys

    assert len(found("BUILDS node")) == len(set(found("builds"))) == 9
    (only,) = found("node 7")  # far behind what a list shows of it
    assert life.ask("candidate_show", key=only)["candidate"]["says"]["text"] == said["x7"]
    assert found("node text") == []
    assert len(found(" ")) == 14, "no word is no search"
    (third,) = found("node 3")
    digest = life.ask("candidate_show", key=third)["candidate"]["digest"]
    assert life.ask("candidate_dismiss", key=third, digest=digest)["status"] == "dismissed"
    assert found("node 3") == [third], "what was dismissed is found, too"
    assert "up to 1000 characters" in life.ask("candidate_list", query="x" * 1001)


def test_how_many_are_to_decide_upon_is_counted_by_the_file(life: Life, there: Disk) -> None:
    life.pull(there)
    decide(life, "text a", ACCEPT)
    decide(life, "text b", ACCEPT)
    decide(life, "text c")
    journal = other_palace(there, 2)
    journal.append([drawer("a", "other"), drawer("b", None), drawer("f", "text f")])
    life.pull(there)
    (remote,) = life.ask("remote_list")["remotes"]
    found = life.ask("candidate_list")["candidates"]
    assert remote["undecided"] == sum(one["status"] in UNDECIDED for one in found) == 5


def test_all_that_was_made_of_a_candidate_is_named(life: Life, there: Disk) -> None:
    life.pull(there)
    assert decide(life, "text a", ACCEPT)["before"] == []
    journal = other_palace(there, 2)
    journal.append([drawer("a", "other")])
    life.pull(there)
    assert decide(life, "other", ACCEPT)["before"] == ["drawer_1"]
    journal.append([drawer("a", None)])
    life.pull(there)
    (gone,) = life.ask("candidate_list", status="withdrawn")["candidates"]
    assert gone["local"] == ["drawer_1", "drawer_2"]


def test_a_palace_without_remotes_says_nothing_of_them(tmp_path: Path) -> None:
    life = awake(Disk(), tmp_path / "palace")
    assert life.store.fingerprint() is None
    assert life.ask("remote_list") == {"remotes": []}
    assert life.ask("candidate_list") == {"candidates": [], "next": ""}
    assert not list(life.root.iterdir())
