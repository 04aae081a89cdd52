"""What is served on loopback: /healthz, /mcp, /metrics, and /v1 (palace/broker/http/contract.py).

And /palace/v1/delegations, as /metrics for the palace's owner (palace/broker/http/delegations.py).

`POST /mcp` speaks to three kinds of clients.  Stock's (its command line, its hooks,
`mempalace-mcp`) send one JSON-RPC line without a session and take JSON.  MCP hosts follow the
streamable HTTP transport, in one of two eras: until 2025-11-25 `initialize` opens a session, whose
id they then show; from 2026-07-28 on each request stands for itself, and its headers repeat what
its body says (palace/broker/http/modern.py).  What sets hosts apart is that they accept an event
stream; a reply that takes long comes as one, so that its client sees that the broker lives.

Requests from web pages are refused: by Host, which a page can't choose even where its name was
made to lead here, by Origin, and by the token, which only the palace's user can read.
"""

import hmac
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
import trio

from palace.broker.http import contract, modern
from palace.broker.http.contract import Contract
from palace.broker.http.exchange import EVENTS, JSON, TEXT, Exchange, Gone, Refused
from palace.broker.http.sessions import HttpSession, HttpSessions
from palace.broker.http.tasks import HttpTasks
from palace.broker.http.waiting import answered
from palace.broker.progress import TELL_S
from palace.broker.reporting.metrics import CONTENT_TYPE, metrics_text
from palace.broker.requests import parsed
from palace.broker.state import BrokerState
from palace.ownership.share_book import shares_path
from palace.protocol import jsonrpc
from palace.protocol.budget import HTTP
from palace.protocol.errors import PalaceError
from palace.protocol.modern import TASK_METHODS
from palace.protocol.principals import UNKNOWN_PRINCIPAL
from palace.protocol.request import PARSE_ERROR_REPLY, Request, ToolCall
from palace.protocol.tasks import AFTER_S
from palace.protocol.workspaces import TOKEN_DIGITS, digest_of, is_digits
from palace.settings.environment import is_true
from palace.transport.http import Receive, Scope, Send
from palace.transport.pending import PendingRequest

if TYPE_CHECKING:
    from palace.broker.http.feeds import Feeds
    from palace.broker.http.mesh import MeshPages

MCP, METRICS, DELEGATIONS = "/mcp", "/metrics", "/palace/v1/delegations"
FEED = "/palace/v1/feed"
PLAIN_S = 2.0  # a reply within it comes as plain JSON
BEAT_S = 15.0
RETRY_S = "5"  # what a client is told that comes before the register is read
HOSTS = ("127.0.0.1", "localhost", "[::1]")

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class HttpApp:
    """The ASGI application.  `token` is what clients show."""

    state: BrokerState
    sessions: HttpSessions
    token: str
    port: int
    answers: Counter[int]
    tasks: HttpTasks = attrs.field(init=False)
    contract: Contract = attrs.field(init=False)
    _feeds: "Feeds | None" = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.tasks = HttpTasks(state=self.state)
        self.contract = Contract(state=self.state, sessions=self.sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # which Hypercorn answers with 403
            return
        exchange = Exchange(scope, receive, send, self.answers)
        try:
            await self._route(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except Gone:
            logger.debug("a client hung up in the middle of its request")

    async def serve_unix(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what came to http.sock: the memory contract is all there is.

        Its clients are the owner's by the kernel's word; a token makes them somebody else.
        """
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send, self.answers)
            await self._serve_contract(exchange, self._check_neighbour)
        else:
            await send({"type": "websocket.close"})

    async def _serve_contract(self, exchange: Exchange, check: Callable[[Exchange], None]) -> None:
        """Answer where the contract is all there is."""
        try:
            if exchange.path.startswith(contract.PREFIX) and contract.is_served(self.state):
                await self.contract.serve(exchange, check)
            else:
                await exchange.refuse(Refused(404, f"There is {contract.PREFIX} alone."))
        except Gone:
            logger.debug("a client hung up in the middle of its request")

    def _check_neighbour(self, exchange: Exchange) -> None:
        if exchange.header("origin"):  # no page reaches a socket, but a proxy might
            raise Refused(403, "Pages are not served.")
        if exchange.header("authorization"):
            self._check_shown(exchange)
        exchange.connection.admit()

    async def serve_tls(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what came over TLS, to whoever has a token of its own: the contract, peers, feeds.

        The palace's token is refused: who has read it on the palace's machine, or in what was taken
        from it, has nothing by it from elsewhere.
        """
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send, self.answers)
            pages, feeds = self._pages_of_peers(exchange), self.feeds()
            if pages is not None:
                await self._serve_peer(exchange, pages)
            elif exchange.path == FEED and feeds is not None:
                await self._serve_feed(exchange, feeds)
            else:
                await self._serve_contract(exchange, self._check_scoped)
        else:
            await send({"type": "websocket.close"})

    def _pages_of_peers(self, exchange: Exchange) -> "MeshPages | None":
        """Return what answers a request that peers make, None for any other and without a mesh."""
        if not self.state.mesh.is_served:
            return None
        from palace.broker.http.mesh import MeshPages, is_mesh_path

        pages = MeshPages(state=self.state, sessions=self.sessions, port=self.port)
        return pages if is_mesh_path(exchange.path) else None

    def feeds(self) -> "Feeds | None":
        """Return what is shared with other palaces, None where nothing ever was."""
        services = self.state.services
        directory = services.guests_directory
        if self._feeds is None and directory and services.kernel.file_id(shares_path(directory)):
            from palace.broker.http.feeds import Feeds

            self._feeds = Feeds.of(self.state)
        return self._feeds

    async def _serve_feed(self, exchange: Exchange, feeds: "Feeds") -> None:
        """Answer whoever pulls from here, which shows a share's token."""
        try:
            await feeds.serve(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except Gone:
            logger.debug("a puller hung up in the middle of its page")

    async def _serve_peer(self, exchange: Exchange, pages: "MeshPages") -> None:
        """Answer a peer of another machine's, which shows what peers are given."""
        try:
            if exchange.header("origin"):
                raise Refused(403, "Pages are not served.")
            if not self.state.mesh.is_token(exchange.header("authorization").encode("latin-1")):
                text = "Show the token that peers are given (Authorization: Bearer ...)."
                raise Refused(401, text, www_authenticate="Bearer")
            exchange.connection.admit()
            await pages.serve(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except Gone:
            logger.debug("a peer hung up in the middle of its request")

    def _check_scoped(self, exchange: Exchange) -> None:
        if exchange.header("origin"):
            raise Refused(403, "Pages are not served.")
        shown = exchange.header("authorization").encode("latin-1")
        tree = self.state.services.engine.workspaces()
        digest = _shown_digest(shown)
        if digest and tree is None:
            raise Refused(503, UNKNOWN_PRINCIPAL, retry_after=RETRY_S)
        if tree is None or not self.is_scoped(shown):
            text = (
                "Show a workspace's or a plugin's token (palace token new); no other counts here."
            )
            raise Refused(401, text, www_authenticate="Bearer")
        exchange.token = digest
        exchange.connection.admit()

    async def _route(self, exchange: Exchange) -> None:
        if exchange.path.startswith(contract.PREFIX) and contract.is_served(self.state):
            await self.contract.serve(exchange, self._check_contract)
            return
        pages = self._pages_of_peers(exchange)
        if pages is not None:
            self._check_peer(exchange)
            await pages.serve(exchange)
            return
        self._check_origin(exchange)
        if exchange.path == "/healthz":
            _check_method(exchange, "GET")
            await exchange.answer(200, b"ok\n", TEXT)
            return
        # Before the token: clients probe for OAuth where a path asks for what they can't show.
        if exchange.path not in (MCP, METRICS, DELEGATIONS):
            raise Refused(404, f"There is {MCP}, {METRICS} and /healthz.")
        self._check_token(exchange)
        if exchange.path != MCP:
            if exchange.token:
                raise Refused(403, "Figures are the palace's owner's: show the palace's token.")
            _check_method(exchange, "GET")
        if exchange.path == DELEGATIONS:
            from palace.broker.http.delegations import serve_delegations  # where one asks alone

            await serve_delegations(self.state, self.sessions, exchange)
        elif exchange.path == METRICS:
            await exchange.answer(200, metrics_text(self.state).encode(), CONTENT_TYPE)
        else:
            _check_method(exchange, *modern.methods(exchange))
            await (self._post(exchange) if exchange.method == "POST" else self._delete(exchange))

    # Authentication.

    def is_token(self, shown: bytes) -> bool:
        """Tell whether an Authorization header shows the token."""
        return hmac.compare_digest(shown, f"Bearer {self.token}".encode())

    def is_known(self, shown: bytes) -> bool:
        """Tell whether an Authorization header shows this token, or one of a workspace's."""
        return self.is_token(shown) or self.comes_from_elsewhere(shown)

    def comes_from_elsewhere(self, shown: bytes) -> bool:
        """Tell whether it shows a token that counts over TLS as well."""
        mesh = self.state.mesh
        is_peers = mesh.is_served and mesh.is_token(shown)
        if is_peers or self.is_scoped(shown):
            return True
        feeds = self.feeds()
        return feeds is not None and feeds.is_known(shown)

    def is_scoped(self, shown: bytes) -> bool:
        """Tell whether an Authorization header shows a token that is not the palace's own."""
        tree, digest = self.state.services.engine.workspaces(), _shown_digest(shown)
        return tree is not None and (digest in tree.tokens or digest in tree.plugins)

    def _check_peer(self, exchange: Exchange) -> None:
        """Let in a peer, which a proxy may speak for, or the palace's owner; raises Refused."""
        part = self.state.mesh
        self._check_origin(exchange, part.hosts())
        shown = exchange.header("authorization").encode("latin-1")
        if not (part.is_token(shown) or self.is_token(shown)):
            if self.is_scoped(shown):  # a workspace's, or a program's of the memory contract
                raise Refused(403, "This token is for memories: peers show the mesh's own.")
            text = "Show the token that peers are given (Authorization: Bearer ...): palace mesh"
            raise Refused(401, text, www_authenticate="Bearer")
        exchange.connection.admit()

    def _check_origin(self, exchange: Exchange, more: Iterable[str] = ()) -> None:
        """Refuse web pages: a name that was made to lead here is no loopback address.

        `more` are names under which a proxy is asked.
        """
        hosts = (*HOSTS, *more)
        names = {name for host in hosts for name in (host, f"{host}:{self.port}")}
        if exchange.header("host").lower() not in names:
            raise Refused(403, f"This Host is not served: ask for 127.0.0.1:{self.port}.")
        origin = exchange.header("origin")
        if origin and _host_of(origin) not in {host.strip("[]") for host in HOSTS}:
            raise Refused(403, "Pages of this Origin are not served.")

    def _check_token(self, exchange: Exchange) -> None:
        shown = exchange.header("authorization").encode("latin-1")
        if not self.is_token(shown):
            exchange.token = self._workspace_token(shown)
        exchange.connection.admit()

    def _check_contract(self, exchange: Exchange) -> None:
        self._check_origin(exchange)
        self._check_shown(exchange)
        exchange.connection.admit()

    def _check_shown(self, exchange: Exchange) -> None:
        """Note whose token a request of the contract's shows; raises Refused where it is none."""
        shown = exchange.header("authorization").encode("latin-1")
        tree = self.state.services.engine.workspaces()
        digest = _shown_digest(shown)
        if tree is not None and digest in tree.plugins:
            exchange.token = digest
        elif not self.is_token(shown):
            exchange.token = self._workspace_token(shown)

    def _workspace_token(self, shown: bytes) -> str:
        """Return the digest of a workspace's token; raises Refused where none is shown."""
        digest = _shown_digest(shown)
        tree = self.state.services.engine.workspaces()
        if digest and tree is None:  # a client that is told that it has none gives up for good
            raise Refused(503, UNKNOWN_PRINCIPAL, retry_after=RETRY_S)
        if tree is None or digest not in tree.tokens:
            text = (
                "Show the palace's token (Authorization: Bearer ...): palace status names its "
                "file; or a workspace's, which counts until it is revoked: palace token new."
            )
            raise Refused(401, text, www_authenticate="Bearer")
        return digest

    # The MCP endpoint.

    async def _post(self, exchange: Exchange) -> None:
        if not exchange.accepts(JSON) and not exchange.accepts(EVENTS):
            raise Refused(406, f"Answers are {JSON} or {EVENTS}.")
        body = await exchange.body(self.state.services.config.line_bytes_max, "line_bytes_max")
        if not body.strip():
            await exchange.answer(400, PARSE_ERROR_REPLY)
            return
        request = await parsed(body, HTTP)
        exchange.ident = request.id
        stands_alone = modern.is_asked(exchange, request)
        if stands_alone:
            refusal = modern.refusal(exchange, request, self.state.services.catalogue)
            if refusal is not None:
                await exchange.answer(*refusal)
                return
            if request.modern and request.method in TASK_METHODS and request.id is not None:
                await self._send(exchange, self.tasks.answer(request, exchange.token))
                return
        try:
            if stands_alone:  # no session is named, and none is given
                session = self._open(exchange, lasting=False)
            else:
                session = self._session(exchange, request)
            pending = self.sessions.post(session, request)
        except PalaceError as problem:
            await exchange.answer(200, _failure(request, problem))
            return
        await self._deliver(exchange, session, Posting(request, pending))

    def _session(self, exchange: Exchange, request: Request) -> HttpSession:
        """Return the session that a request belongs to; raises Draining or Busy."""
        self._check_version(exchange, request)
        ident = exchange.header("mcp-session-id")
        if ident:
            return self._named(exchange, ident)
        begins = EVENTS in exchange.header("accept") and request.method == "initialize"
        return self._open(exchange, lasting=begins)

    def _open(self, exchange: Exchange, *, lasting: bool) -> HttpSession:
        return self.sessions.open(
            client=exchange.header("user-agent")[:100],
            read_only=is_true(exchange.header("palace-read-only"), "Palace-Read-Only"),
            lasting=lasting,
            token=exchange.token,
        )

    def _named(self, exchange: Exchange, ident: str) -> HttpSession:
        session = self.sessions.get(ident, exchange.token)
        if session is None:
            raise Refused(404, "This session has ended: begin a new one with initialize.")
        return session

    def _check_version(self, exchange: Exchange, request: Request) -> None:
        version = exchange.header(modern.VERSION)
        catalogue = self.state.services.catalogue
        if request.method == "initialize" or not version or catalogue is None:
            return  # a handshake agrees upon a version, whatever its header wishes for
        if version not in catalogue.protocol_versions:
            raise modern.unsupported(version, catalogue)

    async def _delete(self, exchange: Exchange) -> None:
        ident = exchange.header("mcp-session-id")
        if not ident:
            raise Refused(400, "Name the session to end: Mcp-Session-Id.")
        self.sessions.end(self._named(exchange, ident))
        await exchange.answer(204)

    # Replies.

    async def _deliver(self, exchange: Exchange, session: HttpSession, posting: "Posting") -> None:
        """Send the reply as soon as there is one, in a way that its client takes."""
        headers = {}
        if session.lasting and not exchange.header("mcp-session-id"):
            headers["mcp_session_id"] = session.ident
        try:
            if await answered(exchange, posting.pending, posting.patience_s(exchange)):
                payload = posting.payload()
                status = 400 if payload == PARSE_ERROR_REPLY else 200 if payload else 202
                await self._send(exchange, payload, status, **headers)
            elif posting.may_be_task:
                handle = self.tasks.begin(session, posting.pending, posting.request)
                await self._send(exchange, handle)
                return
            else:
                await exchange.start_events(x_accel_buffering="no", **headers)
                while not await answered(exchange, posting.pending, posting.beat_s):
                    await self._show_life(exchange, posting)
                await exchange.last_event(posting.payload())
        except Gone:
            if not session.is_task:
                self.sessions.give_up(session, posting.pending)
            raise
        self.sessions.settle(session)

    async def _send(
        self, exchange: Exchange, payload: bytes, status: int = 200, **headers: str
    ) -> None:
        """Send a reply that is there, in a way that its client takes."""
        if exchange.accepts(JSON):
            await exchange.answer(status, payload, **headers)
        else:
            await exchange.start_events(x_accel_buffering="no", **headers)
            await exchange.last_event(payload)

    async def _show_life(self, exchange: Exchange, posting: "Posting") -> None:
        token, text = posting.progress_token, posting.pending.progress
        if token is None or not text:
            await exchange.beat()
            return
        waited_s = trio.current_time() - posting.since_s
        await exchange.event(jsonrpc.encode(jsonrpc.progress(token, waited_s, text)))


@attrs.frozen(eq=False)
class Posting:
    """A request, and the reply that it waits for."""

    request: Request
    pending: PendingRequest
    since_s: float = attrs.field(factory=trio.current_time)

    @property
    def progress_token(self) -> str | int | None:
        return self.request.progress_token if isinstance(self.request, ToolCall) else None

    @property
    def may_be_task(self) -> bool:
        """Tell whether its client takes a handle in place of the reply."""
        return isinstance(self.request, ToolCall) and self.request.may_be_task

    def patience_s(self, exchange: Exchange) -> float:
        """How long to wait for a whole reply before anything is sent."""
        if self.may_be_task:
            return AFTER_S
        if not exchange.accepts(JSON):
            return 0.0
        return PLAIN_S if EVENTS in exchange.header("accept") else float("inf")

    @property
    def beat_s(self) -> float:
        """How often its client hears that it is under way."""
        return BEAT_S if self.progress_token is None else TELL_S

    def payload(self) -> bytes:
        """Return the reply; call it once it has come."""
        problem = self.pending.problem
        return self.pending.payload if problem is None else _failure(self.request, problem)


def _failure(request: Request, problem: PalaceError) -> bytes:
    """Return the reply that tells of one of our own errors, nothing where none is expected."""
    if not request.expects_reply:
        return b""
    return jsonrpc.encode(jsonrpc.failure(request.id, problem))


def _shown_digest(shown: bytes) -> str:
    """Return what is kept of the token that an Authorization header shows, "" for no such token.

    Digests are compared in no constant time, since nobody can choose one digit by digit.
    """
    kind, _, token = shown.decode("latin-1").partition(" ")
    is_one = kind == "Bearer" and is_digits(token, TOKEN_DIGITS, TOKEN_DIGITS)
    return digest_of(token) if is_one else ""


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _check_method(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        raise Refused(405, f"{exchange.path} takes {', '.join(methods)}.", allow=", ".join(methods))
