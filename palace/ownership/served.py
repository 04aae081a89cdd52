"""What was served where: remembered outside of the palaces, in the user's state directory.

A palace's identity, journal and settings lie in its directory, and whatever replaces the directory
takes them along: stock's `migrate` and `repair rebuild-index` do, and so does `mv`.  So that what
is there afterwards isn't taken for a new palace, each owner notes what it serves at which path: a
small file for each path, for this user alone.  The same is noted beside the directory, since other
homes of this user see no more of the palace than that.  Neither grants a right; they only say what
should be there, and losing them costs no more than that.

Standard library only, and light: every owner runs through here.
"""

import os

from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.protocol.errors import OnHold, PalaceError, PalaceReplaced, UnsafePalace
from palace.protocol.wire import identity_of, whole_number
from palace.settings.paths import Paths, path_key, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from palace.ownership.keys import KeyFile

SCHEMA = 1
ENTRY_BYTES_MAX = 65_536
SAVED = ".saved-"
BESIDE = ".served.json"
REPLACED = ".old"  # what stock's migrate calls the directory that it removes a moment later
# What stock calls a directory in whose place it puts another one.
ARCHIVED = (".pre-rebuild-", ".pre-migrate.", REPLACED)
SWAP_S = 10.0
SWAP_POLL_S = 0.05
_TEXTS = (
    *("path", "palace_id", "since", "moved_to", "copied_from", "former_id"),
    *("saved", "disk", "lost_with"),
)
_NUMBERS = ("epoch", "seq", "lost_from", "lost_to", "begun")
_NEWER = ("saved", "begun", "disk", "lost_with")  # which older versions don't write


class Served:
    """What is remembered of one path.

    `seq` is the last record that its journal is known to have held, 0 where it never held any;
    `moved_to` is where its last broker saw it go; `copied_from` names the palace of which it was a
    copy, and `former_id` the other one that was served at this path before, "" for none.
    `saved` is where a broker saved what the directory held when it was replaced, "" for nowhere.
    The records `lost_from` to `lost_to` were acknowledged and are in no copy; 0: nothing is lost.
    `lost_with` is where a broker had saved them, and is gone; "" where none had.
    `unjournalled` says that it held memories which no journal knew.
    `disk` is what it lay on (see `disk_of`), "" where that isn't known.
    `begun` is the epoch in which its journal was begun, 0 where that isn't known: an owner whose
    directory was replaced as it opened it may have begun another one in what took its place.
    """

    __slots__ = (*_TEXTS, *_NUMBERS, "held", "unjournalled")

    def __init__(self, path: str, palace_id: str) -> None:
        self.path = path
        self.palace_id = palace_id
        self.since = self.moved_to = self.copied_from = self.former_id = self.saved = ""
        self.disk = self.lost_with = ""
        self.epoch = self.seq = self.lost_from = self.lost_to = self.begun = 0
        self.held = self.unjournalled = False

    def encode(self) -> bytes:
        import json

        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"v": SCHEMA} | fields, indent=1).encode() + b"\n"

    @property
    def name(self) -> str:
        """Name the palace for people."""
        return f"palace {self.palace_id[:8]} (epoch {self.epoch}, record {self.seq})"


def _decode(data: "bytes | None") -> "Served | None":
    from palace.protocol.decoding import decode_json, number_in

    try:
        found = decode_json(data or b"")
        served = Served(str(found["path"]), identity_of(str(found["palace_id"]).encode()) or "")
        for name in _TEXTS[2:]:
            told = found.get(name, "") if name in _NEWER else found[name]
            setattr(served, name, str(told))
        for name in _NUMBERS:
            if name in found or name not in _NEWER:
                setattr(served, name, number_in(found, name))
        served.held = found["held"] is True
        served.unjournalled = found.get("unjournalled") is True  # older versions don't write it
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # written by another version, or by another program
    return served if served.palace_id and found.get("v") == SCHEMA else None


def directory_of(environ: "Mapping[str, str]") -> str:
    return f"{state_dir(environ)}/served"


def entry_path(root: str, environ: "Mapping[str, str]") -> str:
    """Return the file that remembers what was served at a path."""
    return f"{directory_of(environ)}/{path_key(root)}.json"


def beside_path(root: str) -> str:
    """Return the file by which all homes of a user remember what was served at a path."""
    return root + BESIDE


def read_served(root: str, environ: "Mapping[str, str]", kernel: Kernel) -> "Served | None":
    """Return what was served at a path, None where that isn't known: the later of the two notes."""
    found = [_decode(kernel.read_hint(entry_path(root, environ), ENTRY_BYTES_MAX))]
    beside = beside_path(root)
    if kernel.is_own_file(beside):  # strangers may write to the parent of a palace, as in /tmp
        found.append(_decode(kernel.read_hint(beside, ENTRY_BYTES_MAX)))
    there = [one for one in found if one is not None and one.path == root]
    if len({one.palace_id for one in there}) > 1:
        return max(there, key=lambda one: one.since)
    return max(reversed(there), key=lambda one: (one.epoch, one.seq), default=None)


def all_served(environ: "Mapping[str, str]", kernel: Kernel) -> "Iterator[Served]":
    """Yield what this home remembers of each path, in no order."""
    directory = directory_of(environ)
    for name in kernel.list_directory(directory):
        if name.endswith(".json"):
            found = _decode(kernel.read_hint(f"{directory}/{name}", ENTRY_BYTES_MAX))
            if found is not None:
                yield found


def known_here(root: str, environ: "Mapping[str, str]", kernel: Kernel) -> str:
    """Return the palace that was served at a path by this home, "" where it served none.

    What is noted beside the palace is left out: whoever has its parent could have written it.
    """
    found = _decode(kernel.read_hint(entry_path(root, environ), ENTRY_BYTES_MAX))
    return found.palace_id if found is not None and found.path == root else ""


def write_served(
    served: Served, environ: "Mapping[str, str]", kernel: Kernel, *, durable: bool = True
) -> None:
    """Remember it; raises OSError and UnsafePalace where the state directory can't be used."""
    write = kernel.write_durable if durable else kernel.replace_file
    try:
        write(beside_path(served.path), served.encode())
    except OSError:
        pass  # other homes will know nothing of it
    os.makedirs(state_dir(environ), 0o700, exist_ok=True)
    called, remedy = "The directory of what was served", "Correct or remove it."
    prepare_private(directory_of(environ), kernel, called=called, remedy=remedy)
    write(entry_path(served.path, environ), served.encode())


def forget_served(root: str, environ: "Mapping[str, str]", kernel: Kernel) -> None:
    """Forget what was served at a path; what was saved of it stays (see `saved_copies`)."""
    kernel.unlink(entry_path(root, environ))
    kernel.unlink(beside_path(root))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def saved_copies(root: str, environ: "Mapping[str, str]", kernel: Kernel) -> "list[str]":
    """Return where brokers that lost their directory saved what it had held, oldest first.

    A broker of another home saved it there.
    """
    base = entry_path(root, environ).removesuffix(".json")
    prefix = os.path.basename(base) + SAVED
    names = [n for n in kernel.list_directory(directory_of(environ)) if n.startswith(prefix)]
    found = [name for name in names if _is_number(name.removeprefix(prefix))]
    found.sort(key=lambda name: whole_number(name.removeprefix(prefix)))
    copies = [f"{directory_of(environ)}/{name}" for name in found]
    served = read_served(root, environ, kernel)
    elsewhere = served.saved if served is not None else ""
    # The note may be another's writing, and copies are removed: none that isn't named as one is.
    if os.path.normpath(elsewhere) == elsewhere and elsewhere not in copies:
        name = os.path.basename(elsewhere)
        is_one = name.startswith(prefix) and _is_number(name.removeprefix(prefix))
        if is_one and kernel.file_id(elsewhere) is not None:
            copies.insert(0, elsewhere)
    return copies


def saved_copy_path(root: str, epoch: int, environ: "Mapping[str, str]") -> str:
    """Return where the owner of an epoch saves what its directory held."""
    return f"{entry_path(root, environ).removesuffix('.json')}{SAVED}{epoch}"


# What an owner notes.


class Memory:
    """What an owner remembers of the palace that it serves, for as long as it serves it.

    `keys` are those of its journal, None where they can't be kept; `in_place` tells whether the
    directory is still the one whose lock its owner holds.  `is_first` says that nothing tells of
    an owner before this one: no epoch, no record, and nothing that is remembered of its path.
    """

    __slots__ = ("_environ", "_kernel", "in_place", "is_first", "keys", "served")

    def __init__(self, served: Served, environ: "Mapping[str, str]", kernel: Kernel) -> None:
        self.served = served
        self.in_place: Callable[[], bool] = lambda: True
        self.is_first = False
        self.keys: KeyFile | None = None
        self._environ = environ
        self._kernel = kernel

    def note_seq(self, seq: int) -> None:
        """Remember the last record that is durable in the journal, if it is a new one."""
        if seq > self.served.seq:
            self.served.seq = seq
            self._keep()

    def note_begun(self, epoch: int) -> None:
        """Remember in which epoch the journal that is served here was begun."""
        if epoch != self.served.begun:
            self.served.begun = epoch
            self._keep()

    def note_unjournalled(self) -> None:
        """Remember that the palace holds memories of which there is no journal."""
        if not self.served.unjournalled:
            self.served.unjournalled = True
            self._keep()

    def note_moved(self, path: str) -> None:
        """Remember where the palace was seen to go, "" for nowhere."""
        self.served.moved_to = path
        self._keep()

    def note_saved(self, path: str) -> None:
        """Remember where this owner has saved what its directory held."""
        self.served.saved = path
        self._keep()

    def note_lost(self, first: int, last: int) -> None:
        """Remember that records which were acknowledged are in no copy of the journal."""
        self.served.lost_from, self.served.lost_to = first, last
        self.served.lost_with = ""
        self._keep()

    def _keep(self) -> None:
        # `palace stop --hold` may have written to the file meanwhile.
        known = read_served(self.served.path, self._environ, self._kernel)
        self.served.held = known is not None and known.held
        keep(self.served, self._environ, self._kernel)

    @property
    def save_path(self) -> str:
        """Return where this owner saves what its directory held, should that be replaced."""
        return saved_copy_path(self.served.path, self.served.epoch, self._environ)


def keep(
    served: Served, environ: "Mapping[str, str]", kernel: Kernel, *, durable: bool = False
) -> bool:
    """Write it where that is possible; tell whether it was."""
    try:
        write_served(served, environ, kernel, durable=durable)
    except (OSError, UnsafePalace):
        return False
    return True


def note_hold(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel, *, held: bool) -> None:
    """Remember that brokers may not start (`palace stop --hold`), or that they may again."""
    served = read_served(paths.root, environ, kernel) or find_missing(paths, environ, kernel)
    if served is not None and served.held is not held:
        served.held = held
        keep(served, environ, kernel, durable=True)


def note_restored(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel, *, seq: int) -> None:
    """Remember that a backup took the place on purpose: what was there before is not missed."""
    served = read_served(paths.root, environ, kernel)
    if served is not None:
        served.seq, served.lost_from, served.lost_to = seq, 0, 0
        served.former_id = served.copied_from = ""
        keep(served, environ, kernel, durable=True)


# What is there, compared with what should be.


def is_empty(served: Served) -> bool:
    """Tell whether no memory was ever there: a new palace then loses nothing."""
    return served.seq == 0 and not served.unjournalled


def find_missing(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel) -> "Served | None":
    """Return what was served at a path and isn't there: its directory has no identity, or is gone.

    Also where the identity is there, but a broker saved the journal: that isn't there, or what is
    may be an older copy's.
    """
    identity = kernel.read_hint(paths.palace_id, 200)
    served = read_served(paths.root, environ, kernel)
    if served is None and not identity:
        return find_archived(paths, kernel)
    if served is None or is_empty(served):
        return None
    if not identity:
        return served
    copies = saved_copies(paths.root, environ, kernel)
    if not copies:
        return None
    if not kernel.list_directory(paths.journal):
        return served
    is_newest = any(copy.endswith(f"{SAVED}{served.epoch}") for copy in copies)
    return served if is_newest and identity_of(identity) == served.palace_id else None


def find_archived(paths: Paths, kernel: Kernel) -> "Served | None":
    """Return what stock has put away from a path of which nothing is remembered, None for nothing.

    A store without an identity took its place, and its journal lies in an archive beside it.  Of
    several the one that was served last counts.  `seq` is 1: only its journal says how far it goes.
    """
    if kernel.file_id(paths.store) is None or kernel.list_directory(paths.journal):
        return None
    found = []
    parent, name = os.path.split(paths.root)
    for other in sorted(kernel.list_directory(parent)):
        archive = Paths(f"{parent}/{other}")
        if not any(other.startswith(name + ending) for ending in ARCHIVED):
            continue
        identity = identity_of(kernel.read_hint(archive.palace_id, 200))
        # Strangers may write to the parent of a palace, as in /tmp.
        is_own = kernel.is_own_file(archive.palace_id)
        if not identity or not is_own or not kernel.list_directory(archive.journal):
            continue
        served = Served(paths.root, identity)
        served.seq, served.epoch = 1, _epoch_in(archive, kernel)
        served.held = kernel.file_id(archive.hold) is not None
        found.append(served)
    return max(found, key=lambda served: served.epoch, default=None)


def _epoch_in(paths: Paths, kernel: Kernel) -> int:
    text = (kernel.read_hint(paths.epoch, 200) or b"").decode("ascii", "replace").strip()
    return whole_number(text) if _is_number(text) else 0


def disk_of(root: str, kernel: Kernel) -> str:
    """Return what a directory lies on: a device's number counts for as long as the system is up."""
    found = kernel.file_id(root)
    return f"{kernel.boot_id()} {found[0]}" if found is not None else ""


def is_on_another_disk(served: Served, kernel: Kernel) -> bool:
    """Tell whether what is where a palace was lies on another disk: its own may not be mounted."""
    here = disk_of(served.path, kernel)
    same_boot = here.partition(" ")[0] == served.disk.partition(" ")[0]
    return bool(here) and same_boot and here != served.disk


def check_remembered_hold(
    paths: Paths, environ: "Mapping[str, str]", kernel: Kernel
) -> "Served | None":
    """Return what was served and isn't there; raises OnHold where it was stopped on hold.

    The note of the hold went with the directory, and its reason may be what replaced that.
    """
    missing = find_missing(paths, environ, kernel)
    if missing is not None and missing.held:
        raise OnHold(
            f"The palace {paths.root} was stopped on hold, and another program has replaced its "
            f"directory since. Let brokers start again, which bring back what was served there: "
            f"palace start --palace {paths.root}"
        )
    return missing


def check_there(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel) -> None:
    """Refuse to create a palace's directory again where one was served; raises PalaceReplaced."""
    if kernel.file_id(paths.root) is None:
        served = read_served(paths.root, environ, kernel)
        if served is not None and not is_empty(served) and not _is_swapped_in(served, kernel):
            raise gone(served, environ, kernel)


def _is_swapped_in(served: Served, kernel: Kernel) -> bool:
    """Wait while stock's `migrate` is between its two renames; tell whether a directory came.

    The second one is a copy where its scratch directory is on another disk.  Whoever refused
    meanwhile would tell its clients that an outcome is unknown which the next owner knows.
    """
    import time

    deadline_s = kernel.monotonic() + SWAP_S
    while kernel.file_id(served.path) is None:
        is_between = holds(served.path + REPLACED, served.palace_id, kernel)
        if not is_between or kernel.monotonic() >= deadline_s:
            return False
        time.sleep(SWAP_POLL_S)
    return True


def gone(
    served: Served, environ: "Mapping[str, str]", kernel: Kernel, *, tried: str = ""
) -> PalaceError:
    """Return the error for a palace that is not where it was served; `tried` is why not found."""
    path = served.path
    what = f"{served.name} was served at {path} until {served.since} or later, and is not there"
    command = f"palace recover --palace {path}"
    moved_to = where_moved(served, kernel)
    if moved_to:
        return PalaceReplaced(
            f"{what}: it was moved to {moved_to}. Use it there "
            f"(MEMPALACE_PATH={moved_to}), or bring it back: {command}",
            moved_to=moved_to,
        )
    if is_on_another_disk(served, kernel):
        return PalaceReplaced(
            f"{what}: the directory that is there now is on another disk. Mount the one that the "
            f"palace is on. If that is gone for good, bring back what was saved of it: {command}"
        )
    if saved_copies(path, environ, kernel):
        return PalaceReplaced(
            f"{what}: its directory was removed under its broker, which saved what it held. "
            f"Bring it back: {command}"
        )
    return PalaceReplaced(
        f"{what}{tried}. If it is on a disk that is not mounted, mount it. Otherwise look for it, "
        f"and see how to begin a new palace instead: {command}"
    )


def notices(served: Served) -> "list[str]":
    """Say what people who use the palace should know of its past."""
    found = []
    if served.copied_from:
        found.append(f"it began as a copy of palace {served.copied_from}; each is its own now")
    if served.former_id:
        found.append(
            f"another palace ({served.former_id[:8]}) was served here before: palace doctor"
        )
    if served.lost_to:
        found.append(
            f"records {served.lost_from} to {served.lost_to} were acknowledged and are not here: "
            "palace doctor"
        )
    return found


def where_moved(served: Served, kernel: Kernel) -> str:
    """Return where a palace lies that was moved, "" where that isn't known.

    It was seen to go there.  Or it lies in what took its place, where `mv` puts whatever is moved
    back while a directory is in the way.
    """
    inside = (f"{served.path}/{name}" for name in kernel.list_directory(served.path))
    places = (served.moved_to, *inside)
    return next((place for place in places if holds(place, served.palace_id, kernel)), "")


def holds(root: str, palace_id: str, kernel: Kernel) -> bool:
    """Tell whether a directory is that of a palace with this identity; "" is none."""
    return bool(root) and identity_of(kernel.read_hint(Paths(root).palace_id, 200)) == palace_id


# Copies.


def copy_of(
    paths: Paths, palace_id: str, environ: "Mapping[str, str]", kernel: Kernel
) -> "Served | None":
    """Return the palace of which the one at a path is a copy, None where it is none.

    A palace that was moved is not: nothing with its identity is where it was.  Nor is one that has
    two names: both lead to one directory.
    """
    here = kernel.file_id(paths.root)
    for other in all_served(environ, kernel):
        if other.palace_id != palace_id or other.path == paths.root:
            continue
        there = kernel.file_id(os.path.realpath(other.path))  # a link may have taken its place
        if there != here and holds(other.path, palace_id, kernel):
            return other
    return None
