"""The rooms whose code is mutated, the tests that must notice, and how many of the mutants."""

from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
STRICT_RATE = 0.95
RATE = 0.85
# A promise hangs on each of these; the others serve them.
STRICT = frozenset(
    {"broker", "client", "engine/durability", "journal", "ownership", "protocol", "shim"}
)
ROOMS = (
    *("broker", "canary", "cli", "client", "commands", "doctor"),
    *("engine/durability", "engine/embedding", "engine/hosting", "engine/stores"),
    *("journal", "kernel", "mcp_hosts", "memory", "ownership", "plugin", "protocol", "provider"),
    *("settings", "shim", "transport"),
)


@attrs.frozen
class Room:
    """A directory of palace/, whose tests are the directory of that name in tests/."""

    name: str

    @property
    def source(self) -> str:
        return f"palace/{self.name}"

    @property
    def tests(self) -> str:
        return f"tests/{self.name}"

    @property
    def floor(self) -> float:
        """Return the share of mutants that tests must kill."""
        return STRICT_RATE if self.name in STRICT else RATE

    @property
    def workspace(self) -> Path:
        """Return where its mutants and results are kept from run to run."""
        return ROOT / ".mutation" / self.name.replace("/", "-")


def room_of(path: str) -> Room | None:
    """Return the room of a file of palace/, None where it isn't mutated."""
    for name in ROOMS:
        if path.startswith(f"palace/{name}/") and path.endswith(".py"):
            return Room(name)
    return None
