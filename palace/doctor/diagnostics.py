"""What all checks of the doctor look at: who owns the palace, what it says, what is set."""

import os
from typing import Any

import attrs

from palace.client.control import STATUS_S, Control
from palace.journal.journal import read_tail
from palace.journal.last_words import LastWords
from palace.journal.segment import list_segments
from palace.journal.tail import Tail
from palace.kernel.causes import cause_text
from palace.kernel.durations import span
from palace.kernel.kernel import Kernel
from palace.kernel.processes import Process, user_name
from palace.ownership.claim import Foreign, find_foreign
from palace.ownership.keys import known_keys
from palace.ownership.record import read_record
from palace.protocol.broker_record import BrokerRecord
from palace.protocol.errors import ConfigError, PalaceError
from palace.protocol.keyring import Keyring
from palace.settings.config import Config, Loaded, load_settings
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

COMMAND_CHARS = 70


@attrs.frozen(kw_only=True)
class Diagnostics:
    """What was found of one palace.

    `holder` has the kernel's lock, `status` is the broker's own word, said at the socket
    `endpoint`, and `silence` why there is none;
    `config` is None where the settings are wrong, as `wrong` says, or are another user's;
    `ignored` names what palace.toml says and may not decide, `user_settings` the user's own file.
    `words` is filled by the check that reads the whole journal, for those that come after it.
    """

    paths: Paths
    environment: ShimEnvironment
    kernel: Kernel
    foreign: Foreign | None
    exists: bool
    record: BrokerRecord | None
    holder: Process | None
    status: dict[str, Any] | None
    endpoint: str
    silence: PalaceError | None
    config: Config | None
    wrong: ConfigError | None
    ignored: tuple[str, ...] = ()
    user_settings: str = ""
    words: LastWords = attrs.field(factory=LastWords)

    @property
    def owner(self) -> int | None:
        """Return the uid that the palace belongs to, None where there is none."""
        return self.kernel.file_owner(self.paths.root)

    @property
    def owner_name(self) -> str:
        return "" if self.owner is None else user_name(self.owner)

    @property
    def is_anothers(self) -> bool:
        """Tell whether the palace belongs to another user, who alone may start its broker."""
        return self.owner is not None and self.owner != os.geteuid()

    @property
    def config_dir(self) -> str:
        return self.config.config_dir if self.config else ""

    @property
    def environ(self) -> dict[str, str]:
        return self.environment.all

    @property
    def is_refused(self) -> bool:
        """Tell whether a broker answers, and does not tell this process what it does."""
        return self.silence is not None and "refused" in self.silence.details

    @property
    def is_served(self) -> bool:
        """Tell whether a broker serves this user, whoever may ask it what it does."""
        admitted = self.is_refused and self.silence and self.silence.details["admitted"]
        return self.status is not None or bool(admitted)

    @property
    def full(self) -> tuple[str, int] | None:
        """Return what the broker has no more room for, and how many it has; None while it has."""
        budgets = self.status.get("budgets", ()) if self.status else ()
        for one in budgets:
            if one["name"] in ("connections", "sessions") and one["held"] >= one["max"]:
                return one["name"], one["max"]
        return None

    @property
    def keys(self) -> Keyring:
        """Return the keys that this user knows of the palace's journal."""
        return known_keys(self.paths, self.environ, self.kernel)

    def is_closed(self) -> bool:
        """Tell whether no process has the stores open, as far as this kernel tells."""
        holder = self.kernel.lock_holder(self.paths.lock)
        return holder is None and not list(self.kernel.openers(self.paths.store))

    def tail(self) -> Tail:
        """Return what the journal says of the present, nothing where its files are damaged."""
        segments = list_segments(self.paths.journal, self.kernel, archived=True)
        try:
            return read_tail(segments, self.kernel, self.keys)
        except (KeyError, TypeError, ValueError):
            return Tail()  # palace/doctor/journal.py says what is wrong with it

    def holder_of(self, path: str, *, alone: bool = False) -> Process | None:
        """Return who has a file's lock, as far as this kernel tells; `alone`: without others."""
        pid = self.kernel.lock_holder(path, alone=alone)
        return None if pid is None else self.kernel.process_of(pid)


def gather(paths: Paths, environment: ShimEnvironment) -> Diagnostics:
    """Look at a palace; takes as long as a silent broker may stay silent."""
    kernel = Kernel()
    foreign = find_foreign(paths, kernel, environment.all)  # it says where the lock is
    holder = kernel.lock_holder(paths.lock)
    loaded, wrong = _settings(paths, environment, kernel)
    status, endpoint, silence = (None, "", None) if foreign else _ask(paths, environment)
    return Diagnostics(
        paths=paths,
        environment=environment,
        kernel=kernel,
        foreign=foreign,
        exists=kernel.file_id(paths.root) is not None,
        record=read_record(paths, kernel),
        holder=None if holder is None else kernel.process_of(holder),
        status=status,
        endpoint=endpoint,
        silence=silence,
        config=loaded.config if loaded else None,
        wrong=wrong,
        ignored=tuple(loaded.ignored) if loaded else (),
        user_settings=loaded.user.path if loaded else "",
    )


def _settings(
    paths: Paths, environment: ShimEnvironment, kernel: Kernel
) -> tuple[Loaded | None, ConfigError | None]:
    try:
        return load_settings(paths, environment.all, kernel), None
    except ConfigError as error:
        is_anothers = kernel.file_owner(paths.root) not in (None, os.geteuid())
        return None, None if is_anothers else error  # which are agreed to by that user
    except OSError as error:
        return None, ConfigError(cause_text(error))


def _ask(
    paths: Paths, environment: ShimEnvironment
) -> tuple[dict[str, Any] | None, str, PalaceError | None]:
    try:
        with Control(paths, environment, answer_s=STATUS_S) as control:
            return control.status(), control.path, None
    except PalaceError as error:
        return None, "", error


def name(process: Process, chars_max: int = COMMAND_CHARS) -> str:
    """Name a process for people: pid, command, user, how long it has been there."""
    program, blank, rest = process.title.partition(" ")
    title = f"{os.path.basename(program)}{blank}{rest}" or "a process"
    if len(title) > chars_max:
        title = title[: chars_max - 3] + "..."
    age = f", started {span(process.age_s)} ago" if process.age_s >= 0 else ""
    return f"pid {process.pid} ({title}) of {process.user}{age}"
