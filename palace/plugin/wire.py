"""Requests to the server, each bounded in every way, whatever it does.

A loop of its own, in a thread of its own, which begins with the first request: what a server does
with its connections never touches the broker's loop.  Whoever asks waits in their own thread.

No redirect is followed and no proxy of the environment is used, so that nothing is sent to where
the settings don't say.  A connection serves one request: one that was kept could be half dead, and
nobody would know whether the request has arrived.
"""

import logging
import os
import ssl
import threading

import attrs
import httpx
import trio

from palace.kernel.odd_files import open_regular
from palace.protocol.plugin_address import Address

CONNECT_S = 2.0
TOTAL_S = 5.0
ANSWER_BYTES_MAX = 4 << 20
TOKEN_BYTES_MAX = 4096
JSON = "application/json"
NOT_TRUSTED = (
    "its certificate isn't trusted, or is another host's; memory_plugin_certificate names the file "
    "of whom to trust"
)

logger = logging.getLogger("palace.plugin")


class Unanswered(Exception):
    """The server could not be asked, or its answer could not be read; the text says why."""


@attrs.frozen
class Answer:
    status: int
    body: bytes


@attrs.define(eq=False, kw_only=True)
class Wire:
    """Asks one server.  Threads share one; `close` ends its thread."""

    address: Address
    token_file: str = ""
    certificate: str = ""
    total_s: float = TOTAL_S
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _ready: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None
    _token: trio.lowlevel.TrioToken | None = None
    _over: trio.Event | None = None
    _client: httpx.AsyncClient | None = None
    _problem: str = ""  # why there is no loop

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request and return the answer; blocks for `total_s` at most.

        Raises Unanswered; what was asked for may have been done all the same.
        """
        headers = {"accept": JSON, "accept-encoding": "identity"}
        if body is not None:
            headers["content-type"] = JSON
        shown = self._shown_token()
        if shown:
            headers["authorization"] = f"Bearer {shown}"
        self._begin()
        try:
            return trio.from_thread.run(
                self._ask, method, path, body, headers, trio_token=self._token
            )
        except trio.RunFinishedError:
            raise Unanswered("this broker is leaving") from None

    def close(self) -> None:
        """End the thread; what is under way ends unanswered."""
        with self._lock:
            if self._token is not None and self._over is not None:
                try:
                    self._token.run_sync_soon(self._over.set)
                except trio.RunFinishedError:
                    pass
                self._thread = None

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._ready.clear()
                self._thread = threading.Thread(target=self._run, name="palace-plugin", daemon=True)
                self._thread.start()
            # Others wait for the lock meanwhile, so nothing may let this last.
            if not self._ready.wait(TOTAL_S):
                raise Unanswered(f"what asks it did not begin within {TOTAL_S:g} s")
            if self._problem:  # it is tried again: the file may have been put right
                self._thread = None
                raise Unanswered(self._problem)

    def _shown_token(self) -> str:
        """Return the token, read each time: who replaces it need not restart anything."""
        if not self.token_file:
            return ""
        if not self.address.is_private:
            raise Unanswered("a token is not sent in the clear: use https")
        try:
            with open_regular(self.token_file) as file:
                found = os.fstat(file.fileno())
                raw = file.read(TOKEN_BYTES_MAX)
        except OSError as error:
            raise Unanswered(f"memory_plugin_token_file can't be read: {error.strerror}") from None
        if found.st_mode & 0o077:
            raise Unanswered("memory_plugin_token_file can be read by others: chmod 600")
        token = raw.decode("ascii", "replace").strip()
        if not token or not token.isprintable() or " " in token or not token.isascii():
            raise Unanswered("memory_plugin_token_file holds no token")
        return token

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except Exception:
            logger.exception("what asks the memory plugin has ended")
            self._problem = "what asks it can't begin: see the broker's log"
        finally:
            self._ready.set()

    # In the loop.

    async def _serve(self) -> None:
        try:
            self._client, self._problem = self._new_client(), ""
        except OSError as error:  # as all of ssl's are
            self._problem = f"memory_plugin_certificate can't be used: {error.strerror or error}"
            return
        self._over = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._ready.set()
        async with self._client:
            await self._over.wait()

    def _new_client(self) -> httpx.AsyncClient:
        verify: ssl.SSLContext | bool = False
        if self.address.url.startswith("https:"):
            verify = ssl.create_default_context(cafile=self.certificate or None)
        transport = httpx.AsyncHTTPTransport(
            uds=self.address.socket or None,
            verify=verify,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        return httpx.AsyncClient(
            transport=transport,
            base_url=self.address.url,
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(self.total_s, connect=min(CONNECT_S, self.total_s)),
        )

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        with trio.move_on_after(self.total_s):
            try:
                return await self._answered(method, path, body, headers)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                raise Unanswered(_cause(error)) from None
        raise Unanswered(f"it did not answer within {self.total_s:g} s")

    async def _answered(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        assert self._client is not None, "it is made before anybody asks"
        asked = self._client.stream(method, path, content=body, headers=headers)
        async with asked as answer:
            status = answer.status_code
            if not 200 <= status < 300 and not 400 <= status < 600:
                raise Unanswered(f"it answered with the status {status}, which means nothing here")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise Unanswered("it compressed its answer unasked")
            raw = bytearray()
            # Left by a cancellation: an exception of ours would leave what it reads from half run.
            with trio.CancelScope() as reading:
                async for piece in answer.aiter_raw():
                    raw += piece
                    if len(raw) > ANSWER_BYTES_MAX:
                        reading.cancel()
            if len(raw) > ANSWER_BYTES_MAX:
                raise Unanswered(f"its answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")
            if raw and answer.headers.get("content-type", "").partition(";")[0].strip() != JSON:
                raise Unanswered("its answer is no JSON")
            return Answer(status, bytes(raw))


def _cause(error: Exception) -> str:
    """Say what is wrong in words of ours: a server's own could be anything."""
    if isinstance(error, httpx.ConnectTimeout):
        return "it can't be reached in time"
    if isinstance(error, httpx.ConnectError):
        return NOT_TRUSTED if _is_distrust(error) else "it can't be reached"
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    return f"its answer can't be read ({type(error).__name__})"


def _is_distrust(error: BaseException | None) -> bool:
    """Tell whether an error comes of a certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
