"""What a broker asks of an engine, and the values that pass between them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from palace.engine.batch import Batch
from palace.engine.embedding.supply import ModelState
from palace.protocol.errors import PalaceError
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.principals import OWNER, Principal
from palace.protocol.request import ToolCall
from palace.protocol.resolver import Tree
from palace.protocol.tools import Tool

# Called from another thread: None says that it is durable, an error why it can't be.
DurableCallback = Callable[[PalaceError | None], None]


def goes_on() -> bool:
    """Tell that a call need not end before it is done."""
    return False


@attrs.define(kw_only=True)  # as Request: each call makes one
class Call:
    """One `tools/call` of a session.

    (`session`, `ordinal`) is its idempotency key.  `maybe_ran` says that an earlier owner may have
    begun it, `elsewhere` that this was another palace's; `epoch` is that of the session's last
    owner, 0 if unknown.  `client` is what the session's client calls itself, "" where it doesn't.
    `party` is whose the session is, as far as shares of what all use are concerned.  `batch` is
    what `Engine.batch` made for it and the calls that run with it.  `principal` is whom the session
    acts as, None where that can't be known now: the call is refused then.  `is_stopping` tells, in
    any thread, whether it is to end before it is done, where it can do so without anything half
    done.
    """

    request: ToolCall
    session: str = ""
    ordinal: int = 0
    read_only: bool = False
    maybe_ran: bool = False
    elsewhere: bool = False
    epoch: int = 0
    client: str = ""
    party: str = ""
    batch: Batch[Any] | None = None
    principal: Principal | None = OWNER
    is_stopping: Callable[[], bool] = goes_on

    @property
    def key(self) -> str:
        return f"{self.session}:{self.ordinal}"

    @property
    def message(self) -> dict[str, Any]:
        """Return the call as stock takes it."""
        assert isinstance(self.request.message, dict), "a tool call is an object"
        return self.request.message

    @property
    def tool(self) -> Tool:
        return self.request.tool


@attrs.frozen(kw_only=True)
class Reply:
    """One answered call.  `payload` is encoded JSON, None where stock stays silent.

    `outdated` says that the engine refused because its package was replaced on disk: nothing was
    changed, and a newer engine may answer.  `reopen` says why the stores must be opened again
    before this can be answered, "" where they needn't: nothing was done, and the next owner
    answers.  A reply with a `seq` may leave only when the engine says that this much of its journal
    is durable.  `stuck` says that the engine can't go on unless the palace is opened again: the
    owner must make room for another.
    """

    payload: bytes | None
    outdated: bool = False
    reopen: str = ""
    seq: int = 0
    stuck: bool = False


class Engine(Protocol):
    """The memory engine.  What may block is to be called in worker threads.

    The broker guarantees that `load` comes first, `close` last, and that calls of the writer lane
    don't overlap with each other, but for those of one batch: calls of different sessions and with
    different group keys.  What a batch does and answers equals some order of its calls.
    """

    def load(self) -> Catalogue:
        """Import and open; raises EngineError with a text that says what to do.  Blocks."""
        ...

    def call(self, call: Call) -> Reply:
        """Answer one call as stock would; never raises for what a client sent.  Blocks."""
        ...

    def batch(self, messages: Sequence[dict[str, Any]]) -> Batch[Any] | None:
        """Return what calls with these messages, started at once, meet in.

        None: this engine runs each alone.  Doesn't block.
        """
        ...

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        """Call back, from another thread, once `seq` is durable or can't be; any thread may ask."""
        ...

    def acknowledge(self, session: str, upto: int) -> None:
        """Forget the recorded replies of a session below an ordinal: it has them."""
        ...

    def end_session(self, session: str) -> None:
        """Forget a session that will never come again."""
        ...

    def recorded(self, session: str, ordinal: int, workspace: str) -> bytes | None:
        """Return the recorded reply of a change, whichever owner made it; None where none is.

        `workspace` is for whom it has to have been made, "" for the palace's owner.
        """
        ...

    def resumes(self) -> bool:
        """Tell whether the next owner can decide what has become of a change that is cut off."""
        ...

    def leave(self) -> None:
        """Journal that the owner was told to leave: what it cuts off is not to blame.  Blocks.

        Raises JournalFailed.
        """
        ...

    def adopt(self) -> int:
        """Journal what other programs wrote beside this owner; return how much.  Blocks.

        Raises EngineError and sqlite3.Error.
        """
        ...

    def adopts(self) -> bool:
        """Tell whether memories are being journalled that no journal has known."""
        ...

    def is_in_place(self) -> bool:
        """Tell whether the journal's files are those that were opened; True where there is none."""
        ...

    def save(self, target: str) -> bool:
        """Copy the journal into a new directory, though its own was replaced; False: there is none.

        Blocks, and every change that is made from then on waits for ever.  Raises OSError.
        """
        ...

    def workspaces(self) -> Tree | None:
        """Return the workspaces as they are now, None where they can't be known; any thread."""
        ...

    def pulls(self) -> bool:
        """Tell whether this palace pulls from others, and it is known; any thread may ask."""
        ...

    def status(self) -> dict[str, Any]:
        """Return what `palace status` shows of the engine's journal, JSON-ready."""
        ...

    def search_fingerprint(self) -> str:
        """Return stock's digest of the settings that its searches depend on."""
        ...

    def progress(self) -> int:
        """Return a number that changes whenever a storage operation begins or ends."""
        ...

    def replaced(self) -> str:
        """Say which installed version another owner would serve with; "" for none.  Blocks."""
        ...

    def outlives(self) -> str:
        """Say why this engine goes on although its package was replaced; "" where it was not."""
        ...

    def loading_text(self) -> str:
        """Say what `load` is busy with."""
        ...

    def put_back_s(self, party: str) -> float:
        """Return how much later than others a party's next change is due; any thread may ask."""
        ...

    def model(self) -> ModelState:
        """Say whether the embedding model is there; calls that need it wait while it is pending."""
        ...

    def searches(self) -> frozenset[str]:
        """Return by what memories are found, as the memory contract calls it; any thread may ask.

        "embedding" is their meaning, "fts" their words.
        """
        ...

    def close(self) -> None:
        """Close the store.  The engine can't be used afterwards.  Blocks."""
        ...
