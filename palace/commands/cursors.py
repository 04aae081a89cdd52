"""Where somebody has stopped reading a palace's journal: `palace history --cursor NAME`.

Kept in the user's state directory, by the palace's path: a reader's own, and nothing of it is in
the palace, whose journal is read without changing anything there.
"""

import json
import os
import re
from collections.abc import Mapping

import attrs

from palace.journal.following import Position
from palace.journal.schema import NAME_MAX, SEQ_MAX
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json, is_number, is_text
from palace.protocol.errors import ConfigError
from palace.settings.paths import Paths, path_key, state_dir

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBERS = ("seq", "epoch", "first", "offset")
_TEXTS = ("writer", "origin")


@attrs.frozen
class Cursor:
    """One name's place; durable once `keep` has returned.  Two readers need two names."""

    path: str
    kernel: Kernel

    def position(self) -> Position | None:
        """Return what was read last, None for nothing; raises ConfigError for another file."""
        data = self.kernel.read_file(self.path)
        if data is None:
            return None
        try:
            told = decode_json(data)
            numbers = {name: told[name] for name in _NUMBERS}
            texts = {name: told[name] for name in _TEXTS}
            is_right = all(is_number(number, SEQ_MAX) for number in numbers.values())
            if not is_right or not all(is_text(text, NAME_MAX) for text in texts.values()):
                raise ValueError("another shape")
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{self.path} is no cursor of palace's. Remove it, to read from the beginning."
            ) from None
        return Position(**texts, **numbers)

    def keep(self, position: Position | None) -> None:
        if position is None or position == self.position():
            return
        os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
        told = {**attrs.asdict(position), "read_at": self.kernel.utc_text()}
        self.kernel.write_durable(self.path, json.dumps(told).encode() + b"\n")


def cursor_of(name: str, paths: Paths, environ: Mapping[str, str], kernel: Kernel) -> Cursor:
    """Return the cursor of this name, for this palace; raises ConfigError for no name."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no cursor's name: 1 to 64 letters, digits, dots, dashes and underscores, "
            "a letter or a digit first."
        )
    return Cursor(f"{state_dir(environ)}/cursors/{path_key(paths.root)}/{name}.json", kernel)
