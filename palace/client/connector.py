"""Reaching an owner: the driver of the election machine, one attempt at a time.

The driver performs what the machine decides and reports what happened.  It never waits by itself,
so that the relay can serve its client meanwhile: poll `fd()` for `timeout_s()`, then `advance()`.
"""

import errno

from palace.client.children import Children
from palace.client.endpoints import expected_palace_id, is_foreign, named_socket, socket_candidates
from palace.client.failure import failure_of, older_text
from palace.client.handshake import (
    UNSERVED,
    LineBuffer,
    Response,
    check_peer,
    decode_response,
    open_socket,
    receive,
    say,
)
from palace.client.spawn import reason_not_to_spawn, spawn_problem
from palace.protocol import election, wire
from palace.protocol.errors import ConfigError, PalaceError, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from palace.client.guest.fallbacks import Fallbacks
    from palace.settings.site import Site

GREETING_S = 5.0
DIRECT_GREETING_S = 40.0  # a direct broker may wait for mempalace's own lock first
DEADLINE_S = 60.0
COURTESY_S = 2.0
CHILD_END_S = 2.0
SUCCESSION_S = 5.0  # how long one that may not spawn waits for others to replace a dead owner

_BUSY = (errno.EAGAIN, errno.ENOTCONN, errno.EINTR)


class Connector:
    """One shim's way to the owner of one palace, for as many attempts as its life takes.

    After `begin`, `state` is SLEEPING or GREETING until it is CONNECTED (then `sock`, `welcome`
    and `rest` are the caller's) or FAILED (then `error` says why).
    """

    IDLE, SLEEPING, GREETING, CONNECTED, FAILED = range(5)

    def __init__(
        self, site: "Site", *, deadline_s: float = DEADLINE_S, may_direct: bool = True
    ) -> None:
        self._site = site
        self._kernel = site.kernel
        self._paths = site.paths
        self._environment = site.environment
        self._patience_s = deadline_s
        self._may_direct = may_direct
        self._hello: Callable[[], bytes] = bytes
        self._machine: election.Election | None = None
        self._children = Children(site)
        self._wake_s = 0.0
        self._epochs: dict[str, int] = {}  # of the last owner that said welcome, by palace
        self._away = ""  # the palace that the last broker sent us to, for one attempt
        self._older = 0  # epoch of an owner that this attempt has turned away from
        self._fallbacks: Fallbacks | None = None
        self._speak = wire.VERSION
        self._address = ""  # of the socket that was dialled last
        self._incoming = LineBuffer()
        self._asked_to_leave = False
        self._may_spawn = False
        self.direct = False
        self.state = self.IDLE
        self.sock: socket | None = None
        self.welcome: dict[str, str] = {}
        self.error: PalaceError | None = None

    @property
    def rest(self) -> bytes:
        """Return what came behind WELCOME, or what had come before the end."""
        return self._incoming.rest

    @property
    def epoch(self) -> int:
        """Return the epoch of the last owner that said welcome, 0 before the first."""
        return self._epochs.get(self.palace, 0)

    @property
    def palace(self) -> str:
        """Return the palace whose owner said welcome last, "" before the first."""
        return self.welcome.get("palace_id", "")

    @property
    def wanted(self) -> str:
        """Return the palace that this attempt is to reach, "" where it isn't known by name."""
        if self._fallbacks is not None and self._fallbacks.palace_id:
            return self._fallbacks.palace_id
        return expected_palace_id(self._kernel, self._paths)

    def go_to(self, palace_id: str) -> None:
        """Let the next attempt be a guest's, at a palace that has what our own has not."""
        self._away = palace_id

    def begin(self, hello: "Callable[[], bytes]") -> None:
        """Start an attempt; `hello` returns the first line of each connection."""
        self._children.drop()
        self.reap()
        self._hello, self._older = hello, 0
        named = self._environment.broker
        if self._fallbacks is not None and not named and not is_foreign(self._site):
            self._fallbacks.end()  # `palace own` has changed whose palace it is
            self._fallbacks = None
        # Once: whose it is by the next attempt, our own broker has to find out anew.
        away, self._away = self._away, ""
        if named and not named_socket(self._environment):
            self._become_guest()
        elif away and self._fallbacks is None:
            from palace.client.guest.owner import OwnersWay

            self._fallbacks = OwnersWay(self._site, away)
        guest = self._fallbacks is not None
        self._may_spawn = not (self._environment.no_spawn or named or guest)
        now_s = self._kernel.monotonic()
        self._machine = election.Election(
            deadline_s=now_s + self._patience_s,
            random=self._kernel.random,
            may_spawn=self._may_spawn,
            may_direct=self._may_direct and not named and not guest,
            wait_before_spawn_s=self._courtesy_s(),
            others_until_s=now_s + SUCCESSION_S if self.epoch or guest else 0.0,
        )
        self.error = None
        self.direct = False
        self._asked_to_leave = False
        self._happened(election.BEGIN)

    def _become_guest(self) -> None:
        """From here on the broker is reached from afar, and never started from here."""
        if self._fallbacks is None:
            from palace.client.guest.fallbacks import Fallbacks

            self._fallbacks = Fallbacks(self._site)

    def _courtesy_s(self) -> float:
        """Let the host go first where a container shares its palace with it by a mount."""
        try:
            alone = not self._kernel.in_container() or self._is_inside()
        except OSError:  # no descriptor is left to look with, say: the spawn will tell
            alone = False
        return 0.0 if alone else COURTESY_S

    def _is_inside(self) -> bool:
        return self._kernel.mount_of(self._paths.root).point == "/"

    def fd(self) -> int:
        """Return what to poll for reading, -1 where only time will tell."""
        if self.state == self.GREETING and self.sock is not None:
            return self.sock.fileno()
        return self._children.report_fd if self.state == self.SLEEPING else -1

    def timeout_s(self) -> float:
        return max(0.0, self._wake_s - self._kernel.monotonic())

    def advance(self) -> None:
        """Go on: `fd()` became readable, or the time is up."""
        if self.state == self.GREETING:
            self._read_response()
        elif self.state == self.SLEEPING:
            self._wake_up()

    def wait(self) -> None:
        """Block until the attempt is over (commands have nothing else to do)."""
        import select

        while self.state in (self.SLEEPING, self.GREETING):
            poll = select.poll()
            if self.fd() >= 0:
                poll.register(self.fd(), select.POLLIN)
            poll.poll(self.timeout_s() * 1000 + 1)
            self.advance()

    def end(self) -> None:
        """Let go of everything; a direct child is given time to close its store."""
        self._close_sock()
        if self._fallbacks is not None:
            self._fallbacks.end()
        if self._children.watches and self.direct:
            self._children.wait_for_end(DIRECT_GREETING_S)
        self._children.drop()

    # The machine's events and actions.

    def _happened(self, *event: object) -> None:
        assert self._machine is not None
        for action in self._machine.handle(event, self._kernel.monotonic()):
            self._perform(action)

    def _perform(self, action: "tuple[object, ...]") -> None:
        kind = action[0]
        if kind == election.DIAL:
            self._dial()
        elif kind == election.SLEEP:
            self.state = self.SLEEPING
            self._wake_s = self._kernel.monotonic() + float(str(action[1]))
        elif kind == election.SPAWN:
            self._spawn()
        elif kind == election.DIRECT:
            self._go_direct()
        elif kind == election.READY:
            self.state = self.CONNECTED
            if not self.direct:
                self._children.drop()
        else:
            self._fail(str(action[1]), str(action[2]))

    def _wake_up(self) -> None:
        ended = self._children.ended()
        if ended is not None:
            self._happened(election.CHILD_EXITED, *ended)
        else:
            self._happened(election.WOKE)

    def reap(self) -> bool:
        """Reap brokers that this shim has started; True while one of them lives."""
        return self._children.reap()

    # Dialling.

    def _dial(self) -> None:
        if self._fallbacks is not None:
            try:
                self._fallbacks.begin()
            except ConfigError as error:
                self._happened(election.REFUSED, error.name, error.message)
                return
            self._next_candidate(self._fallbacks)
            return
        problem = errno.ENOENT
        for path in socket_candidates(self._site):
            self._address = path
            problem = self._connect(path)
            if problem not in UNSERVED:
                break
            # Over another kernel's mount a live owner's socket is there and looks dead: a shim goes
            # a guest's way then, and questions alone follow the record.
            if problem != errno.ENOENT and is_foreign(self._site):
                break
        # A guest must never spawn: its broker would lock a file that the owner doesn't see locked.
        if problem in UNSERVED and not self._environment.broker and is_foreign(self._site):
            self._become_guest()
            self.begin(self._hello)
        elif problem in (errno.EACCES, errno.EPERM):
            text = (
                f"{self._address} belongs to another user, so the palace can't be reached "
                "through it."
            )
            self._happened(election.REFUSED, "unsafe_palace", text)
        elif problem:
            why = election.BUSY if problem in _BUSY else election.ABSENT
            self._happened(election.DIAL_FAILED, why)

    # A guest's ways, one after the other.

    def _next_candidate(self, fallbacks: "Fallbacks") -> None:
        found = fallbacks.open_next()
        if found is None:
            self._happened(election.DIAL_FAILED, election.ABSENT)
            return
        sock, candidate = found
        sock.setblocking(False)
        self._address = candidate.url
        if self._greet(sock, candidate.patience_s):
            self._candidate_failed(fallbacks, election.ABSENT)

    def _candidate_failed(self, fallbacks: "Fallbacks", why: str) -> None:
        problem = fallbacks.note_failure(silent=why == election.SILENT)
        if problem is not None:
            self._happened(election.REFUSED, problem.name, problem.text)
        else:
            self._next_candidate(fallbacks)

    def _connect(self, path: str) -> int:
        """Connect and say hello; return 0, or the errno that says why not."""
        try:
            sock = open_socket(path)
        except OSError as error:
            return error.errno or errno.EMFILE
        return self._greet(sock, GREETING_S)

    def _greet(self, sock: "socket", patience_s: float) -> int:
        try:
            check_peer(sock, self._paths)
            say(sock, wire.at_version(self._hello(), self._speak))
        except OSError as error:
            sock.close()
            return error.errno or errno.EPIPE
        self.sock = sock
        self._incoming = LineBuffer()
        self.state = self.GREETING
        self._wake_s = self._kernel.monotonic() + patience_s
        return 0

    def _read_response(self) -> None:
        assert self.sock is not None
        data = receive(self.sock)
        if data is None:
            if self.timeout_s() <= 0:
                self._not_greeted(election.SILENT)
            return
        if not data:
            self._not_greeted(election.ABSENT)
            return
        self._incoming.feed(data)
        line = self._incoming.take()
        if line is not None:
            self._greeted(line)

    def _not_greeted(self, why: str) -> None:
        self._kernel.trace("C3.reset" if why == election.ABSENT else "C3.silent")
        self._close_sock()
        if self.direct and self._children.watches:
            ended = self._children.wait_for_end(CHILD_END_S)  # or it would not have hung up
            self.direct = False
            self._happened(election.CHILD_EXITED, *ended)
            return
        if self._fallbacks is not None:
            self._candidate_failed(self._fallbacks, why)
            return
        self._happened(election.DIAL_FAILED, why)

    def _greeted(self, line: bytes) -> None:
        try:
            response = decode_response(line)
        except WireError:
            text = f"what answers at {self._address} is no palace broker"
            self._happened(election.REFUSED, "version_mismatch", text)
            return
        if response.kind == wire.WELCOME:
            self._welcomed(response)
            return
        self._kernel.trace("C3.refused")
        self._close_sock()
        code = response.fields.get("code", "")
        if code in ("draining", "silent"):
            self._happened(election.DIAL_FAILED, election.ABSENT)
        elif code == "busy":
            self._happened(election.DIAL_FAILED, election.BUSY)
        elif code == "version_mismatch" and self._agrees(response):
            return
        else:
            from palace.client.versions import reason_of

            self._happened(election.REFUSED, code, reason_of(response))

    def _agrees(self, response: Response) -> bool:
        """Go on with a broker of another version, or with its successor, where that can be."""
        from palace.client.versions import after_refusal

        may_replace = self._may_spawn and not self._asked_to_leave
        dialled = self._address if may_replace else ""
        self._asked_to_leave, version = after_refusal(response, self._site, dialled)
        if self._asked_to_leave:
            self._happened(election.DIAL_FAILED, election.BUSY)  # it is alive until it has left
            return True
        if version in (0, self._speak):
            return False
        self._speak = version
        self._dial()
        return True

    def _welcomed(self, response: Response) -> None:
        fields, epoch = response.fields, response.epoch
        palace, expected = fields.get("palace_id", ""), self.wanted
        if expected and palace != expected:
            self._close_sock()
            text = (
                f"the broker at {self._address} serves another palace "
                f"({palace}) than {self._paths.root} ({expected})"
            )
            self._happened(election.REFUSED, "wrong_palace", text)
        elif epoch < self._epochs.get(palace, 0):  # it was replaced: its answers are void
            # It may be stopped, and not know yet that it was fenced: dial again, as at silence.
            self._kernel.trace("C3.refused")
            self._older = epoch
            self._close_sock()
            self._happened(election.DIAL_FAILED, election.SILENT)
        else:
            self._epochs[palace] = epoch
            self._kernel.trace("C2.welcome", epoch=epoch)
            self.welcome = fields
            self._happened(election.WELCOMED)

    def _close_sock(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    # Spawning.

    def _spawn(self) -> None:
        reason = reason_not_to_spawn(self._site)
        if reason is not None:
            self._happened(election.REFUSED, reason.name, reason.message)
            return
        try:
            self._children.start()
        except OSError as error:
            self._happened(election.SPAWN_FAILED, spawn_problem(error))
            return
        self._happened(election.SPAWNED)

    def _go_direct(self) -> None:
        try:
            sock = self._children.start_direct()
        except OSError as error:
            self._happened(election.SPAWN_FAILED, spawn_problem(error))
            return
        self.direct = True
        self._address = "its own child's socket"
        sock.setblocking(False)
        if self._greet(sock, DIRECT_GREETING_S):
            self._not_greeted(election.ABSENT)

    # Failing.

    def _fail(self, name: str, text: str) -> None:
        self.state = self.FAILED
        self._close_sock()
        self._children.drop()
        if self._older and text == election.SILENT:
            text = older_text(self._older, self._epochs.get(self.wanted, self.epoch), self._paths)
        if self._fallbacks is not None and name in ("broker_unreachable", "no_spawn"):
            self.error = self._fallbacks.failure(text)
        else:
            self.error = failure_of(name, text, self._site, patience_s=self._patience_s)
