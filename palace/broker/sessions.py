"""The sessions of one owner: opened, looked up, and forgotten."""

from collections.abc import Callable, Iterator

import attrs

from palace.broker.services import Services
from palace.broker.session import LiveSession
from palace.protocol import jsonrpc, modern
from palace.protocol.budget import Budget
from palace.protocol.jsonrpc import Catalogue

ABANDONED_S = 60.0  # how long a session without a connection keeps its replies


@attrs.define(eq=False, kw_only=True)
class Sessions:
    """All of them, by id; those of HTTP clients, too."""

    services: Services
    budget: Budget = attrs.field(init=False)
    _by_id: dict[str, LiveSession] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.budget = Budget("sessions", self.services.config.sessions_max)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[LiveSession]:
        """Iterate over a copy: a session may go meanwhile."""
        return iter(tuple(self._by_id.values()))

    def __contains__(self, ident: str) -> bool:
        return ident in self._by_id

    def __getitem__(self, ident: str) -> LiveSession:
        return self._by_id[ident]

    def get(self, ident: str) -> LiveSession | None:
        return self._by_id.get(ident)

    @property
    def is_full(self) -> bool:
        return self.budget.held >= self.budget.limit

    @property
    def full_text(self) -> str:
        maximum = self.services.config.sessions_max
        return (
            f"{maximum} sessions are open, as many as may be (sessions_max in palace.toml): end an "
            "agent, or raise it and restart the broker (palace stop)."
        )

    def add(self, session: LiveSession) -> None:
        self._by_id[session.id] = session
        self.budget.take(session.party)

    def forget(self, session: LiveSession) -> None:
        """Forget a session that has nothing to come; its outcomes only if its shim has them all.

        The end of a connection says nothing of that: a shim may have given up waiting for WELCOME.
        """
        self._drop(session)
        if session.machine.is_acknowledged:
            self.services.engine.end_session(session.id)

    def forget_lost(self, now_s: float) -> None:
        """Forget sessions whose client stays away; the journal still knows their outcomes."""
        for session in self:
            lost = session.stream is None and now_s - session.lost_s >= ABANDONED_S
            if lost and not session.machine.calls:
                self._drop(session)

    def _drop(self, session: LiveSession) -> None:
        if self._by_id.get(session.id) is session:  # else it was forgotten before
            del self._by_id[session.id]
            self.budget.give_back(session.party)

    def answer_early(self, catalogue: Callable[[LiveSession], Catalogue | None]) -> None:
        """Answer the lines that came before there was a catalogue."""
        for session in self:
            for ordinal, request in session.machine.take_early():
                reply = modern.inline_reply(
                    request.message, catalogue(session), read_only=session.hello.read_only
                )
                session.reply(ordinal, None if reply is None else jsonrpc.encode(reply))
