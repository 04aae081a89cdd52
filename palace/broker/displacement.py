"""Noticing that the palace's directory is not where it was, and saving what it held.

Another program may rename the directory away and put another one in its place, or remove it.  The
owner's lock, journal and stores are then those of a directory that nobody will look for, or that
is about to be removed.  So an owner compares the directory with the one that it took, before each
reply that says that something was stored, and at each tick of its clock:

| what has become of its directory | what the owner does |
|---|---|
| it lies elsewhere, whole | it notes where, and leaves as at a stop |
| it is gone, or about to be | it saves the journal where the next owner looks for it, and ends |
| another copy's files were put into it | the same |

Between noticing and the end no reply leaves: clients send again what they have no reply to, and the
next owner, which takes up the saved journal, knows whether it was done.
"""

import logging
import os
import shutil

import attrs

from palace.broker.services import Services
from palace.kernel.kernel import Kernel
from palace.ownership.lock import check_in_place
from palace.ownership.served import REPLACED, Memory, holds, is_empty
from palace.protocol.errors import ConfigError
from palace.protocol.lifecycle import EngineState, Lifecycle
from palace.settings.paths import Paths
from palace.settings.user_settings import read_settings

NOTE_S = 1.0
LOOK_S = 0.02

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False, kw_only=True)
class Displacement:
    """Watches one owner's directory; `begin` before any connection is accepted."""

    services: Services
    lifecycle: Lifecycle
    _ids: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    _root_fd: int = -1
    _settings: bytes | None = None
    _noted_s: float = 0.0
    _looked_s: float = -LOOK_S
    is_whole: bool = False  # it lies elsewhere with all that it held
    _was_displaced: bool = False

    @property
    def _paths(self) -> Paths:
        return self.services.ownership.paths

    @property
    def _kernel(self) -> Kernel:
        return self.services.kernel

    @property
    def _memory(self) -> Memory | None:
        return self.services.ownership.memory

    def begin(self) -> None:
        """Remember what the directory is, and keep it open, so that its new name can be asked.

        Raises LockReplaced where it is not the one whose lock this owner holds, as far as that lies
        in it: then nothing of the palace's is here to be watched.
        """
        self._root_fd = self._kernel.open_directory(self._paths.root)
        self._learn(self._paths.root)
        check_in_place(self.services.ownership, self._kernel)

    def _learn(self, path: str) -> None:
        found = self._kernel.file_id(path)
        if found is not None:
            self._ids[path] = found

    def is_displaced(self) -> bool:
        """Tell whether the palace or its journal is not the directory that this owner took.

        Or whether its journal isn't: another copy's files may have been put into the directory.
        """
        try:
            if any(self._kernel.file_id(path) != was for path, was in self._ids.items()):
                return True
        except OSError:  # not even a stat is allowed: this is no place to answer from
            return True
        return not self.services.engine.is_in_place()

    def has_been_displaced(self, *, lately: bool = False) -> bool:
        """Tell whether it is displaced, or was when this was asked before.

        `lately`: what was found within `LOOK_S` will do, for a reply that promises nothing.
        """
        if not self._was_displaced:
            now_s = self._kernel.monotonic()
            if not (lately and now_s - self._looked_s < LOOK_S):
                self._was_displaced = self.is_displaced()
                self._looked_s = now_s
        return self._was_displaced

    def tick(self, now_s: float) -> None:
        """Note how far the journal has come, and what the settings are, now and then."""
        if self._paths.journal not in self._ids and self.lifecycle.engine is EngineState.READY:
            self._learn(self._paths.journal)
        if now_s - self._noted_s >= NOTE_S:
            self._noted_s = now_s
            self._note_settings()
            self.note_seq()

    def _note_settings(self) -> None:
        try:
            settings = read_settings(self._paths.settings, self._kernel)
        except ConfigError:
            return  # nothing that a broker could be started with
        if not self.is_displaced():  # else it may be another directory's
            self._settings = settings

    def note_first_promise(self) -> None:
        """Note that the palace holds something, before the first reply that promises it.

        The tick may come too late: an owner that is killed before it would leave the note of one
        whose palace held nothing, which isn't missed when it is moved.
        """
        if self._memory is not None and is_empty(self._memory.served):
            self.note_seq()

    def note_seq(self) -> None:
        """Note how far the journal has come, here or where the directory lies now, whole."""
        status = self.services.engine.status()
        root = self.whole_elsewhere() if self.is_displaced() else self._paths.root
        if self._memory is None or not root:
            return
        if "durable_seq" in status:
            self._memory.note_seq(status["durable_seq"])
        elif self.lifecycle.engine is EngineState.READY:
            is_elsewhere = status.get("journal", "off") != "off"  # another backend keeps them
            if is_elsewhere or os.path.exists(Paths(root).store):
                self._memory.note_unjournalled()

    def whole_elsewhere(self) -> str:
        """Return where the directory lies now with all that it held, "" for nowhere that lasts."""
        root = self._kernel.path_of(self._root_fd)
        if not root or root == self._paths.root + REPLACED:
            return ""
        if root == self._paths.root and not self.services.engine.is_in_place():
            return ""  # the same directory, with another journal's files in it
        moved = Paths(root)
        wanted = {moved.journal: self._ids.get(self._paths.journal)}
        there = all(
            was is None or self._kernel.file_id(path) == was for path, was in wanted.items()
        )
        return (
            root if there and holds(root, self.services.ownership.palace_id, self._kernel) else ""
        )

    def note_moved(self, root: str) -> None:
        self.is_whole = True
        self.note_seq()  # what the last tick didn't know: a palace that held nothing isn't missed
        if self._memory is not None:
            self._memory.note_moved(root)

    def save(self) -> None:
        """Save what the directory held where the next owner looks; raises OSError.

        Blocks for as long as copying the journal takes; nothing can be journalled afterwards.
        """
        if self._memory is None:
            return
        target = self._memory.save_path
        making = f"{target}.making"
        shutil.rmtree(making, ignore_errors=True)
        os.makedirs(making, 0o700)
        if not self.services.engine.save(f"{making}/journal"):
            shutil.rmtree(making, ignore_errors=True)
            return  # without a journal nothing is promised
        self._memory.note_seq(self.services.engine.status().get("durable_seq", 0))
        ownership, there = self.services.ownership, Paths(making)
        self._kernel.write_durable(there.palace_id, f"{ownership.palace_id}\n".encode())
        self._kernel.write_durable(there.epoch, f"{ownership.epoch}\n".encode())
        if self._settings is not None:
            self._kernel.write_durable(there.settings, self._settings)
        self._kernel.rename(making, target)
        self._kernel.sync_directory(os.path.dirname(target))
        self._memory.note_saved(target)
        logger.error(
            "%s was removed or replaced by another program: its journal is saved in %s, and the "
            "next broker takes it up",
            self._paths.root,
            target,
        )
