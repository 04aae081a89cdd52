"""Another palace says the same whichever way it is read, and what goes wrong on the way is said."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.broker.http.feeds import PAGE_OFFERS
from palace.commands.feed import header_at
from palace.commands.sources import Asked, read_source
from palace.journal.journal import Journal
from palace.journal.offering import DRAWERS, offers
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import Stamp
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError, RemoteRefused
from palace.protocol.federation import START, Gap, Item, Offer, Position, Read, Whole
from palace.protocol.feed_lines import Header
from palace.protocol.keyring import ANYBODYS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.machines.feeds import DIRECTORY, HTTPS, WAYS, Way, way_to
from tests.support.stores.exporter import IDENTITY, export

pytestmark = pytest.mark.process

MANY = 3000  # more than a pipe or a socket holds


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Way]:
    with way_to(short_dir / "there", request.param, short_dir) as found:
        yield found


def asked(way: Way, here: Path, since: Position = START, **scope: list[str]) -> Asked:
    options = dict(zip(way.address[1::2], way.address[2::2], strict=True))
    remote: dict[str, Any] = {
        "address": way.address[0],
        "token_file": options.get("--token-file", ""),
        "wings": [],
        "kinds": [],
        **scope,
    }
    environment = ShimEnvironment({**os.environ, **way.environ, "HOME": str(here)})
    return Asked(remote, since, Paths(str(here / "ours")), environment)


def items_of(question: Asked) -> list[Item]:
    found = read_source(question)
    header = next(found)
    assert header == Header(palace=IDENTITY)
    return [one for one in found if not isinstance(one, Header)]


def told(there: Path, since: Position = START) -> list[Item]:
    return list(offers(str(there / "journal"), Kernel(), since))


def test_each_way_says_what_the_journal_says(short_dir: Path, way: Way) -> None:
    there = short_dir / "there"
    if way.kind == HTTPS:  # of a broker's palace, which may have no journal
        assert items_of(asked(way, short_dir)) == []
    else:
        with pytest.raises((ConfigError, RemoteRefused), match="no palace with a journal"):
            items_of(asked(way, short_dir))
    export(there, {"1": "one", "2": "two \u2028 \U0001f600"}, facts=[("bob", "is", "here")])
    first = items_of(asked(way, short_dir))
    assert [type(one) for one in first] == [Offer, Offer, Offer, Read]
    assert first == told(there)
    since = first[-1].at if isinstance(first[-1], Read) else START
    assert [type(one) for one in items_of(asked(way, short_dir, since))] == [Read]
    if way.kind != HTTPS:  # whose scope the other side knows
        check_scope(asked(way, short_dir, kinds=["fact"]), short_dir, way)

    # It is deleted, purged, and said again, by a later owner.
    export(there, {"1": None, "3": "three"}, epoch=2)
    later = items_of(asked(way, short_dir, since))
    assert next(one.says for one in later if isinstance(one, Offer)) is None
    purge(there, "2", epoch=3)
    since = later[-1].at if isinstance(later[-1], Read) else START
    anew = items_of(asked(way, short_dir, since))
    assert [type(one) for one in anew] == [Gap, Offer, Offer, Whole]
    assert anew == told(there, since)


def check_scope(facts: Asked, short_dir: Path, way: Way) -> None:
    only = items_of(facts)
    assert [one.kind for one in only if isinstance(one, Offer)] == ["fact"]
    others = items_of(asked(way, short_dir, wings=["o'hara $(x)"], kinds=["drawer"]))
    assert [one for one in others if isinstance(one, Offer)] == [], "not even that there are any"


def purge(there: Path, ident: str, epoch: int) -> None:
    kernel, directory = Kernel(), str(there / "journal")
    purge_journal(directory, kernel, Going(entities=frozenset({(DRAWERS, ident)})))
    stamp = Stamp(epoch=epoch, writer=f"there{epoch}", origin=IDENTITY)
    journal = Journal.open(directory, kernel, stamp)
    journal.sync(journal.append([purge_mark()]))
    journal.close()


def test_half_a_copy_is_refused_whichever_way_it_is_read(short_dir: Path, way: Way) -> None:
    there = short_dir / "there"
    for number in range(3):
        export(there, {f"{number}": f"text {number}"}, epoch=number + 1)
        stamp = Stamp(epoch=number + 1, writer=f"there{number + 1}", origin=IDENTITY)
        journal = Journal.open(str(there / "journal"), Kernel(), stamp)
        journal.roll()
        journal.close()
    whole = told(there)
    middle = list_segments(str(there / "journal"), Kernel())[1].path
    shutil.move(middle, short_dir / "kept")
    with pytest.raises(RemoteRefused, match="is not whole"):
        items_of(asked(way, short_dir))
    shutil.move(short_dir / "kept", middle)
    assert items_of(asked(way, short_dir)) == whole


def test_a_long_feed_comes_in_pages_and_says_the_same(short_dir: Path) -> None:
    there = short_dir / "there"
    export(there, {f"{number}": f"text {number}" for number in range(2 * PAGE_OFFERS + 1)})
    with way_to(there, HTTPS, short_dir) as way:
        found = items_of(asked(way, short_dir))
        assert found == told(there)
        purge(there, "0", epoch=2)
        found = items_of(asked(way, short_dir, START))
        # What is told as a whole is one page, behind the one that came before it.
        kinds = [type(one) for one in found]
        assert (kinds.count(Offer), kinds.count(Gap)) == (4 * PAGE_OFFERS, 1)
        assert isinstance(found[-1], Whole)


@pytest.mark.parametrize("kind", [one for one in WAYS if one != DIRECTORY])
def test_what_breaks_off_is_said_and_what_came_before_counts(short_dir: Path, kind: str) -> None:
    there = short_dir / "there"
    export(there, {f"{number}": "text " * 50 for number in range(MANY)})
    with way_to(there, kind, short_dir) as way:
        found = read_source(asked(way, short_dir))
        assert [type(next(found)) for _ in range(2)] == [Header, Offer]
        assert way.cut()
        with pytest.raises(RemoteRefused, match="not pulled to its end: "):
            list(found)
    gone = asked(way, short_dir)
    with pytest.raises(RemoteRefused, match="not pulled to its end: "):
        items_of(gone)
    assert header_at(Paths(str(there)), Kernel(), ANYBODYS) == Header(palace=IDENTITY)
