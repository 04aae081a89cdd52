"""`palace trust`: who wrote a palace's journal, and whose records count."""

import shutil

import attrs

from palace.commands.maintenance import leave_request
from palace.engine.durability.meeting import meet_journal
from palace.engine.durability.offline import hold_palace
from palace.journal.aside import ASIDE, kept_aside
from palace.journal.inspect import read_from
from palace.journal.record import Record
from palace.journal.reseal import reseal
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.ownership.keys import KeyFile, accept_keys, known_keys, read_keys
from palace.protocol.errors import ConfigError
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from palace.protocol.wire import identity_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KEY_FILE_BYTES_MAX = 65_536


@attrs.define
class _Written:
    """What one key's holder has written."""

    count: int = 0
    first: Record | None = None
    last: Record | None = None

    def add(self, record: Record) -> None:
        self.count += 1
        self.first = self.first or record
        self.last = record


def writers_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return who wrote the records of a palace's journal, and what is set aside."""
    kernel = Kernel()
    keys = known_keys(paths, environment.all, kernel)
    found: dict[str, _Written] = {}
    for record in read_from(paths.journal, kernel, keys=ANYBODYS):
        if isinstance(record, Record):
            found.setdefault(record.by, _Written()).add(record)
    lines = [one_line(_line(by, written, keys)) for by, written in found.items()]
    aside = kept_aside(paths.journal, kernel)
    if aside[1]:
        lines.append(f"{aside[0]} lines are set aside in {paths.journal}/{ASIDE}: palace history")
    if keys.floor and found:
        lines.append(
            f"Records up to {keys.floor} count as they were found, whoever wrote them. If that is "
            "right, seal them with your own key: palace trust --yes"
        )
    return "\n".join(lines or [f"{paths.root} has no journal yet."])


def _line(by: str, written: _Written, keys: Keyring) -> str:
    first, last = written.first, written.last
    assert first is not None
    assert last is not None
    since = {key.id: key.since for key in keys.keys}
    if by in since:
        own = keys.own is not None and by == keys.own.id
        called = f"key {by} ({'this user writes with it' if own else 'known here'}, {since[by]})"
    else:
        called = f"key {by} (not known here)" if by else "no key"
    return (
        f"{called}: {written.count} records, {first.seq} to {last.seq}, "
        f"{first.ts} to {last.ts}, epochs {first.epoch} to {last.epoch}"
    )


def trust_journal(paths: Paths, environment: ShimEnvironment, *, stop: bool) -> str:
    """Seal what counts in the journal with this user's own key; return what was done.

    Owners that have other keys take it for somebody else's from then on.
    """
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        keys = held.keys
        if keys is None or keys.ring.own is None:
            raise ConfigError(
                "The keys of the journal can't be kept: palace doctor says what is wrong with the "
                "state directory."
            )
        meet_journal(held)
        reseal(paths.journal, held.kernel, keys.ring, keys.ring.own)
        keys.settle()
    return f"All records that count are sealed with the key {keys.ring.own.id}."


def discard_aside(paths: Paths, environment: ShimEnvironment, *, stop: bool) -> str:
    """Remove what brokers have set aside; return what that was."""
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        lines, files, _ = kept_aside(paths.journal, held.kernel)
        shutil.rmtree(f"{paths.journal}/{ASIDE}", ignore_errors=True)
    return f"{lines} lines in {files} files were removed."


def keys_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return this user's keys of a palace, for another owner of it; a line each.

    Raises ConfigError where there are none.
    """
    keys = _keys(paths, environment)
    if keys is None:
        raise ConfigError(
            f"This user has no keys of {paths.root} yet: a broker makes one at its first start. "
            "palace start"
        )
    return "\n".join(key.secret.hex() for key in keys.ring.keys)


def _keys(paths: Paths, environment: ShimEnvironment) -> KeyFile | None:
    kernel = Kernel()
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    return read_keys(identity, environment.all, kernel) if identity else None


def add_keys(paths: Paths, environment: ShimEnvironment, file: str) -> str:
    """Accept another owner's keys, out of a file with a line each; return which.

    A broker that runs takes them when it starts again.  Raises ConfigError.
    """
    kernel = Kernel()
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    if not identity:
        raise ConfigError(f"{paths.root} is no palace yet: there is nothing to have keys of.")
    try:
        data = kernel.read_file(file, KEY_FILE_BYTES_MAX)
        new = [Key(bytes.fromhex(line.decode("ascii"))) for line in (data or b"").split()]
    except ValueError:
        new = []
    if not new:
        raise ConfigError(
            f"{file} holds no keys: it has to be what palace trust --show-keys has written."
        )
    accept_keys(identity, new, environment.all, kernel)
    return f"Records by these keys count from now on: {', '.join(key.id for key in new)}."
