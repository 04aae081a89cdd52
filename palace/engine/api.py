"""What a broker asks of an engine, and the values that pass between them."""

from typing import Protocol

import attrs

from palace.protocol.jsonrpc import Catalogue


@attrs.frozen(kw_only=True)
class Reply:
    """One answered call.  `payload` is encoded JSON, None where stock stays silent.

    `outdated` says that the engine refused because its package was replaced on disk: nothing was
    changed, and a newer engine may answer.
    """

    payload: bytes | None
    outdated: bool = False


class Engine(Protocol):
    """The memory engine.  Every method but `progress` may block: call them in worker threads.

    The broker guarantees that `load` comes first, `close` last, and that calls of the writer lane
    don't overlap with each other.
    """

    def load(self) -> Catalogue:
        """Import and open; raises EngineError with a text that says what to do."""
        ...

    def call(self, message: dict[str, object], *, read_only: bool) -> Reply:
        """Answer one `tools/call` as stock would; never raises for what a client sent."""
        ...

    def progress(self) -> int:
        """Return a number that changes whenever a storage operation begins or ends."""
        ...

    def replaced(self) -> str:
        """Say which installed version differs from the loaded one; "" where none does."""
        ...

    def loading_text(self) -> str:
        """Say what `load` is busy with."""
        ...

    def close(self) -> None:
        """Close the store.  The engine can't be used afterwards."""
        ...
