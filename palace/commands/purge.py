"""`palace purge`: memories, and what was made of them, leave every file that palace has written.

Theory of operation.  First it is found out what goes (derived.py), and by what it is recognized
(traces.py); both are written down (purge_plan.py), since after the first step the journal can't
tell it again.  Then the journal's files are rewritten, new stores are built from it and put in the
place of the old ones, and copies are cleaned.  A purge that dies is finished by the next one,
whatever that is asked for: each step finds what an earlier run has left of it.  At last the bytes
of all files are looked through, and what still holds any of it is named.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping

import attrs

from palace.commands.maintenance import leave_request, rebuild_held
from palace.commands.progress import progress_shown
from palace.engine.durability.derived import Derivation, Derived
from palace.engine.durability.leftovers import Leftover, Surroundings
from palace.engine.durability.offline import hold_palace, open_stores, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.purge_plan import PlanFile, PurgePlan
from palace.engine.durability.rebuild import Rebuild
from palace.engine.durability.traces import Traces
from palace.engine.stores.drawers import TABLES_MARK
from palace.journal.inspect import read_from
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import Entity, Payload, Record
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.ownership.keys import known_keys
from palace.ownership.served import check_there
from palace.protocol.keyring import Keyring
from palace.protocol.wire import identity_of
from palace.settings.config import Config, load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import check_journalled

M_PERTURB = -6  # of glibc's malloc.h
SHOWN_MAX = 40
FOUND_NOTHING, STILL_THERE = 66, 65  # exit codes

_BEYOND = (
    "Out of palace's reach, and not touched: backups (make a new one with palace backup, and "
    "remove the older ones), copies on other machines and in replicas, the conversations that "
    "agents' own programs keep, and what the system has of removed files (snapshots, swap, freed "
    "blocks of the disk)."
)

_BEYOND_TABLES = (
    "PostgreSQL has the drawers in new tables, and the old ones were dropped. What it keeps of "
    "them itself is out of reach as well: its write-ahead log and archive, its backups and "
    "replicas, and blocks of the disk that were freed."
)

_BEYOND_MEMORY_SERVER = (
    "The memory server ({address}, of memory_plugin) has what was copied or stored there, and was "
    "not asked. Once memory_cutover is on, palace_forget_memory forgets single memories there, and "
    "palace namespace remove --purge a namespace."
)


@attrs.frozen(kw_only=True)
class Purged:
    """How many records went, of which entities and why; and what still holds their words."""

    records: int
    derived: Derived
    leftovers: tuple[Leftover, ...]
    on_server: bool = False  # the drawers are tables of PostgreSQL's
    memory_server: str = ""  # where memory_plugin has them held, or copied to

    @property
    def exit_code(self) -> int:
        if not self.derived.entities:
            return FOUND_NOTHING
        return STILL_THERE if self.derived.shared or self.leftovers else 0


@attrs.frozen
class _Search:
    """What finds out what goes, with the palace's lock or without it."""

    paths: Paths
    config: Config
    environ: Mapping[str, str]
    kernel: Kernel
    keys: Keyring

    @property
    def plan(self) -> PlanFile:
        identity = identity_of(self.kernel.read_hint(self.paths.palace_id, 200)) or "none"
        return PlanFile(identity, self.environ, self.kernel)

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(
            self.paths, self.config, self.environ, self.kernel, self.keys, self.plan.path
        )

    def derive(
        self, ids: Iterable[str], plan: PurgePlan | None, rows: Mapping[Entity, Payload]
    ) -> Derived:
        known = replay(self.paths.journal, self.kernel, progress_shown(), keys=self.keys)
        looked_for = plan.traces if plan is not None else Traces()
        search = Derivation(history=self._history, known=known, rows=rows, extra=looked_for)
        return search.run(frozenset(ids), plan.entities if plan is not None else ())

    def _history(self) -> Iterator[Record]:
        for record in read_from(self.paths.journal, self.kernel, keys=self.keys):
            if isinstance(record, Record):
                yield record

    def live(self, derived: Derived) -> frozenset[int]:
        """Return the records that are the last word on what stays."""
        known = replay(self.paths.journal, self.kernel, keys=self.keys)
        stays = known.live.keys() - derived.entities.keys()
        return frozenset(known.live[entity].seq for entity in stays)


def preview_purge(paths: Paths, environment: ShimEnvironment, ids: list[str]) -> Purged:
    """Return what a purge would remove, and which files hold it now; changes nothing.

    It takes no lock: what a broker writes meanwhile may be missing.
    """
    kernel, environ = Kernel(), environment.all
    check_there(paths, environ, kernel)
    config = load_config(paths, environ, kernel)
    check_journalled(paths.root, config.config_dir, environ)
    search = _Search(paths, config, environ, kernel, known_keys(paths, environ, kernel))
    derived = search.derive(ids, search.plan.read(), {})
    found = search.surroundings.leftovers(derived.traces) if derived.traces else ()
    return Purged(records=0, derived=derived, leftovers=tuple(found))


def purge_memories(
    paths: Paths, environment: ShimEnvironment, ids: list[str], *, stop: bool
) -> Purged:
    """Remove entities and what was made of them from all files that palace has written."""
    _blank_memory()
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        search = _Search(paths, held.config, environment.all, held.kernel, held.stamp.keys)
        is_settled = _check(held)  # before anything is changed
        derived = _derive(search, held, ids)
        if not derived.entities:
            return Purged(records=0, derived=derived, leftovers=())
        if not is_settled:
            # What a dead broker left unfinished is taken back first.
            rebuild_held(held, allow_gaps=False, keep=False)
            derived = _derive(search, held, ids)
        return _carry_out(search, held, derived)


def _check(held: OwnedPalace) -> bool:
    """Refuse where a rebuild would; tell whether the stores are what the journal last said."""
    with opened_journal(held) as journal:
        Rebuild(palace=held, journal=journal, progress=progress_shown()).check()
        return not journal.tail.open and not journal.tail.touched


def _derive(search: _Search, held: OwnedPalace, ids: list[str]) -> Derived:
    plan = search.plan.read()
    derived = search.derive(ids, plan, {})
    if derived.entities and plan is None:
        return derived
    # An earlier purge may have died after the journal was rewritten: then stores alone have it.
    wanted = {*ids, *(ident for _, ident in (plan.entities if plan is not None else ()))}
    rows = _stored(held, wanted)
    return search.derive(ids, plan, rows) if rows else derived


def _stored(held: OwnedPalace, ids: Iterable[str]) -> dict[Entity, Payload]:
    with open_stores(held) as stores:
        for store in stores.all:
            store.read_fingerprint()
        pairs = [(store, kind) for store in stores.all for kind in store.kinds()]
        # A row that attaches an artifact to an event has a pair of ids, and no id of its own.
        return {
            (kind, ident): payload
            for store, kind in pairs
            if kind != "log:attached"
            for ident, payload in store.read(kind, ids).items()
        }


def _carry_out(search: _Search, held: OwnedPalace, derived: Derived) -> Purged:
    entities = frozenset(derived.entities)
    search.plan.write(PurgePlan(entities, derived.traces))
    going = Going(
        entities=entities,
        holds=derived.traces.in_bytes,
        live=search.live(derived),
        under_way=True,
    )
    records = purge_journal(search.paths.journal, search.kernel, going, search.keys)
    search.kernel.failpoint("purged_journal")
    rebuild_held(held, allow_gaps=False, keep=False)
    search.kernel.failpoint("purged_stores")
    _tell_followers(held)
    search.surroundings.clean(going, derived.traces, search.plan.palace_id)
    leftovers = tuple(search.surroundings.leftovers(derived.traces)) if derived.traces else ()
    search.plan.remove()
    return Purged(
        records=records or len(entities),
        derived=derived,
        leftovers=leftovers,
        on_server=held.kernel.file_id(f"{held.paths.root}/{TABLES_MARK}") is not None,
        memory_server=held.config.memory_plugin,
    )


def _tell_followers(held: OwnedPalace) -> None:
    """Have those who follow the journal look at it anew; before the plan goes, so it is done."""
    with opened_journal(held) as journal:
        journal.sync(journal.append([purge_mark()]))


def _blank_memory() -> None:
    """Have malloc blank freed memory: Chroma writes what it finds there into its index files."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 1)


# What is said of it.


def purge_text(paths: Paths, purged: Purged) -> str:
    """Return what was removed, and where the same text may still be."""
    if not purged.derived.entities:
        return f"Nothing in {paths.root} has such an id, nor ever had one. Nothing was changed."
    lines = [f"{purged.records} records were removed, and the stores rebuilt without them:"]
    lines += _listed(purged.derived)
    if purged.leftovers:
        lines.append("The text is still in these files:")
        lines += [f"    {each.path}: {each.what}; {each.remedy}" for each in purged.leftovers]
    elif purged.derived.traces:
        lines.append("No other file that palace has written holds any of it.")
    else:
        lines.append("They held nothing long or rare enough to search other files for.")
    beyond = [_BEYOND, _BEYOND_TABLES] if purged.on_server else [_BEYOND]
    if purged.memory_server:
        beyond.append(_BEYOND_MEMORY_SERVER.format(address=purged.memory_server))
    return "\n".join([*lines, *_sources(purged.derived), *beyond])


def preview_text(paths: Paths, purged: Purged) -> str:
    """Return what would be removed, and where it is."""
    if not purged.derived.entities:
        return f"Nothing in {paths.root} has such an id, nor ever had one."
    lines = [f"A purge would remove these {len(purged.derived.entities)}, for good:"]
    lines += _listed(purged.derived)
    if purged.leftovers:
        lines.append("Their text is in these files now. Stores and journals will be cleaned:")
        lines += [f"    {each.path}" for each in purged.leftovers]
    return "\n".join([*lines, *_sources(purged.derived), "Nothing was changed."])


def _listed(derived: Derived) -> list[str]:
    """Return what goes, by the reason why, and what stays and holds some of the same words."""
    going = sorted(derived.entities.items(), key=lambda item: (item[1], item[0]))
    return [*_entities(f"{kind} {ident}: {why}" for (kind, ident), why in going), *_shared(derived)]


def _entities(texts: Iterable[str]) -> list[str]:
    shown = [f"    {text}" for text in texts]
    more = len(shown) - SHOWN_MAX
    return shown if more <= 0 else [*shown[:SHOWN_MAX], f"    ... and {more} more"]


def _shared(derived: Derived) -> list[str]:
    if not derived.shared:
        return []
    told = "These still hold some of the same words; if those have to go, purge them as well:"
    return [told, *_entities(f"{kind} {ident}" for kind, ident in sorted(derived.shared))]


def _sources(derived: Derived) -> list[str]:
    there = [path for path in derived.sources if os.path.isfile(path)]
    if not there:
        return []
    told = "They came from these files, which are filed again whenever they are mined:"
    return [told, *_entities(there)]
