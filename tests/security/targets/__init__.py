"""What is fuzzed: one module a target, each with `one` and with the modules that it drives.

`one(data)` makes an input of the bytes, hands it to palace, and raises where an invariant is
broken: another error than those that are declared came out, work grew out of proportion, something
outside of the given directory was touched, or what was accepted doesn't come back as it was.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

CORPUS = Path(__file__).parent.parent / "corpus"
NAMES = (
    *("wire", "journal", "records", "settings", "hosts", "backups"),
    *("modern", "memories", "register", "feed"),
    *("connection", "http", "websocket"),
)


def load(name: str) -> ModuleType:
    """Return a target's module: `one`, and `DRIVES`, the modules whose coverage counts."""
    return import_module(f"{__name__}.{name}")


def corpus(name: str) -> list[bytes]:
    """Return the inputs that are kept in the tree, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
