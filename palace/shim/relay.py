"""`palace shim`: one MCP client's stdio, relayed to whoever owns the palace.

It relays lines and counts them; it never interprets a tool.  While no broker is connected it
answers `initialize`, `tools/list` and `ping` from a snapshot, so that a host never sees a start
or a takeover.  It survives every broker, ends with its client's stdin, and leaves nothing behind.
"""

import os
import select

from palace.client.connector import Connector
from palace.client.endpoints import client_fields
from palace.client.handshake import receive
from palace.kernel.factory import kernel_for
from palace.kernel.output import remark, say
from palace.protocol import wire
from palace.protocol.errors import ConfigError, PalaceError, WireError
from palace.protocol.ledger import Ledger
from palace.protocol.proof import proof_of
from palace.protocol.sent_to import SentTo
from palace.settings.environment import read_environment
from palace.settings.paths import find_palace
from palace.settings.site import Site
from palace.shim.arguments import parse_arguments
from palace.shim.connection import Connection
from palace.shim.input_lines import CHUNK, LINE_BYTES_MAX, STDIN, STDOUT, ClientGone, InputLines
from palace.shim.outcomes import suspected, unanswered
from palace.shim.progress import ProgressNotes
from palace.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.protocol.oversize import IdScanner
    from palace.shim.unnamed import Backlog

FIRST_WELCOME_S = 0.25  # a running broker answers in 1 ms; a stopped one must not hold up stdio
LEDGER_BYTES_MAX = 67_108_864
LEDGER_LINES_MAX = 2048
REAP_MS = 200.0
PARENT_MS = 5000.0  # how often to look for the parent where the kernel doesn't tell of its end
UNASKED_MAX = 3
LOCAL_BYTES_MAX = 65_536  # a longer line is no ping
DISCOVER = b"server/discover"


class Relay:
    """One shim life.  `fields` are what its HELLO says besides."""

    def __init__(
        self,
        site: Site,
        backlog: "Backlog | None" = None,
        fields: "dict[str, str] | None" = None,
    ) -> None:
        self._kernel = site.kernel
        self._paths = site.paths
        self._environment = site.environment
        self._secret = site.kernel.token()
        self._session = wire.session_name(proof_of(self._secret))
        self._client = backlog.client if backlog else ""
        self._workspace: str | None = None  # whom the broker says that this session acts as
        self._backlog = backlog
        self._client_fields = client_fields(site.kernel, site.environment) | (fields or {})
        self._ledger = Ledger()
        self._sent_to = SentTo()
        self._progress = ProgressNotes(site.kernel, self._ledger)
        self._tasks = Tasks(site, self._ledger, self._progress, self._accept)
        self._connector = Connector(site)
        self._connection: Connection | None = None
        self._unasked = 0  # connections lost since the last reply
        self._lost_in = ("", 0)  # palace and epoch of a connection that ended without a goodbye
        self._lost_child = False  # it was our own child's, to which nothing else leads
        self._input = backlog.input if backlog else InputLines()
        self._stdin_open = True
        self._promised: list[int] = []  # what the last hello said would follow it
        self._promised_next = 0
        self._poll = select.poll()
        self._awaited: tuple[object, ...] = ()
        self._parent = 0  # whose end is the client's, too; 0 until the client has said something
        self._parent_fd = -1

    def run(self) -> None:
        """Relay until the client has closed stdin and everything it asked is answered."""
        early = self._backlog.lines if self._backlog else self._answer_discovery()
        self._begin()
        self._await_first_welcome()
        try:
            for line in early:
                self._accept(line)
            self._send()
            while self._stdin_open or len(self._ledger):
                self._step()
        finally:
            if self._connection is not None:
                self._connection.close()
            self._connector.end()

    def _answer_discovery(self) -> "list[bytes | IdScanner]":
        """Say which versions are spoken, if that is asked already; return all other lines.

        What is needed to reach a broker takes as long to import as an interpreter to start.
        """
        poll = select.poll()
        poll.register(STDIN, select.POLLIN)
        lines: "list[bytes | IdScanner]" = []
        if poll.poll(0) and (data := self._read()):
            for line in self._input.feed(data):
                if not isinstance(line, bytes) or DISCOVER not in line:
                    lines.append(line)
                elif not self._answer_locally(ordinal := self._ledger.accept(line), line):
                    self._progress.watch(ordinal, line)
        return lines

    # Connecting.

    def _begin(self) -> None:
        self._connector.begin(self._hello)
        self._look_at_connector()

    def _hello(self) -> bytes:
        fields = {
            "session": self._session,
            "secret": self._secret,
            "palace_id": self._connector.wanted,
            "next": str(self._ledger.next_ordinal),
            "epoch": str(self._ledger.epoch_of_lines(self._connector.epoch)),
            **self._client_fields,
        }
        resend = self._ledger.resend_list()
        self._promised = [ordinal for ordinal, _ in resend]
        self._promised_next = self._ledger.next_ordinal
        if resend:
            fields["resend"] = wire.encode_resend(resend)
            elsewhere = self._sent_to.than(self._connector.wanted, self._ledger.may_have_run)
            if elsewhere:
                fields["elsewhere"] = wire.encode_ordinals(elsewhere)
        if self._client:
            fields["client"] = self._client
        if self._workspace is not None:
            fields["workspace"] = self._workspace
        self._kernel.trace("C.dial", session=self._session)  # before its HELLO can be read
        return wire.encode_header(wire.HELLO, fields)

    def _await_first_welcome(self) -> None:
        deadline_s = self._kernel.monotonic() + FIRST_WELCOME_S
        while self._connector.state == Connector.GREETING:
            left_s = deadline_s - self._kernel.monotonic()
            if left_s <= 0:
                return
            poll = select.poll()
            poll.register(self._connector.fd(), select.POLLIN)
            poll.poll(left_s * 1000)
            self._connector.advance()
            self._look_at_connector()

    def _look_at_connector(self) -> None:
        connector = self._connector
        if connector.state == Connector.CONNECTED and self._connection is None:
            self._connected()
        elif connector.state == Connector.FAILED and connector.error is not None:
            self._fail_all(connector.error)
            connector.state = Connector.IDLE

    def _connected(self) -> None:
        sock, self._connector.sock = self._connector.sock, None
        assert sock is not None
        self._connector.state = Connector.IDLE
        connection = self._connection = Connection(sock, self._ledger)
        try:
            limit = wire.whole_number(self._connector.welcome.get("line_bytes_max", ""))
        except ValueError:
            limit = LINE_BYTES_MAX
        self._input.line_bytes_max = limit
        lost_at, epoch = self._lost_in
        if lost_at == self._connector.palace:
            if self._is_dead(epoch):
                self._give_up_poison()
            self._lost_in = ("", 0)
        lines = dict(self._ledger.outstanding())
        for ordinal in (*self._promised, *range(self._promised_next, self._ledger.next_ordinal)):
            lines.setdefault(ordinal, b"")  # answered here meanwhile: both sides count it
        for ordinal, line in sorted(lines.items()):
            connection.queue(ordinal, line)
        self._send()
        if not self._understood(self._connector.rest):
            self._lost()

    def _lost(self) -> None:
        """The connection has ended; what is unsettled wants a new one, and so do claimed tasks."""
        assert self._connection is not None
        self._kernel.trace("C4.lost")
        is_parting = self._connection.state == Connection.PARTING
        self._connection.close()
        self._connection = None
        for ordinal, line in self._ledger.outstanding():
            self._answer_locally(ordinal, line)
        self._sent_to.note(self._ledger.may_have_run, self._connector.palace)
        # A broker that said goodbye was not killed by what it was asked.
        if not is_parting:
            self._lost_in = (self._connector.palace, self._connector.epoch)
        self._lost_child = self._connector.direct
        self._unasked += 1  # each may die in opening what this one did
        has_claims = "claims" in self._client_fields and self._unasked <= UNASKED_MAX
        if len(self._ledger) or (has_claims and not is_parting):
            self._begin()

    def _is_dead(self, epoch: int) -> bool:
        """Tell whether an owner is known to have died, rather than its connection alone.

        Its successor knows from what the dead left behind; an older one doesn't say.
        """
        if not epoch or self._connector.epoch <= epoch:
            return False
        died = self._connector.welcome.get("died")
        return died is None or self._lost_child or died == str(epoch)

    # One turn of the loop.

    def _step(self) -> None:
        reading = self._stdin_open and self._has_room()
        ready = dict(
            self._poll_for(reading=reading).poll(self._tasks.timeout_ms(self._timeout_ms()))
        )
        if not self._stdin_open and ready.get(STDOUT):
            raise ClientGone
        if self._connection is not None:
            self._serve_connection(ready.get(self._connection.sock.fileno(), 0))
        elif self._connector.state in (Connector.SLEEPING, Connector.GREETING):
            if self._connector.timeout_s() <= 0 or self._connector.fd() in ready:
                self._connector.advance()
            self._look_at_connector()
            self._write(self._progress.seeking())
        self._write(self._tasks.begin_due())
        if reading and STDIN in ready:
            self._read_stdin()
        elif self._parent and self._has_lost_parent(ready):
            self._end_of_input()  # all that the client wrote has been read by now

    def _poll_for(self, *, reading: bool) -> select.poll:
        """Return a poll object for what is awaited now; most turns await the same as the last."""
        if self._connection is not None:
            other = self._connection.sock.fileno()
            events = select.POLLIN | (select.POLLOUT if self._connection.unsent else 0)
        else:
            other, events = self._connector.fd(), select.POLLIN
        awaited = (reading, self._stdin_open, other, events, self._parent_fd)
        if awaited != self._awaited:
            self._awaited = awaited
            self._poll = select.poll()
            if reading:
                self._poll.register(STDIN, select.POLLIN)
            elif not self._stdin_open:
                self._poll.register(STDOUT, 0)  # only its end: a client that is gone reads no reply
            for fd, wanted in ((other, events), (self._parent_fd, select.POLLIN)):
                if fd >= 0:
                    self._poll.register(fd, wanted)
        return self._poll

    def _timeout_ms(self) -> "float | None":
        if self._connector.state in (Connector.SLEEPING, Connector.GREETING):
            return self._progress.timeout_s(self._connector.timeout_s()) * 1000 + 1
        if self._connector.reap():
            return REAP_MS  # what has started a broker must not stay in the process table
        return PARENT_MS if self._parent and self._parent_fd < 0 else None

    def _has_room(self) -> bool:
        ledger = self._ledger
        return ledger.bytes < LEDGER_BYTES_MAX and len(ledger) < LEDGER_LINES_MAX

    def _serve_connection(self, events: int) -> None:
        assert self._connection is not None
        if events & select.POLLOUT:
            self._send()
        if events & ~select.POLLOUT:
            data = receive(self._connection.sock)
            if data is not None and (not data or not self._understood(data)):
                self._lost()

    # From the broker.

    def _understood(self, data: bytes) -> bool:
        """Take what the broker said; False where it speaks the protocol no longer."""
        try:
            self._replies(data)
        except (WireError, ValueError):
            return False
        return True

    def _replies(self, data: bytes) -> None:
        assert self._connection is not None
        out = []
        try:
            for line in self._connection.split(data):
                if line.startswith(wire.PREFIX):
                    self._header(line)
                    continue
                ordinal, payload = wire.decode_reply(line)
                if self._ledger.settle(ordinal) and (kept := self._tasks.kept(ordinal, payload)):
                    out.append(kept)
        finally:  # what was settled before a broken line is never sent again
            if out:
                self._unasked = 0
                out.append(b"")
                self._write(b"\n".join(out))
        self._connection.acknowledge()

    def _header(self, line: bytes) -> None:
        _, kind, fields = wire.decode_header(line)
        if kind == wire.CLIENT:
            self._client = fields.get("client", "")
        elif kind == wire.WORKSPACE:
            self._workspace = fields.get("name", "")
        elif kind == wire.CLAIMS:
            self._client_fields["claims"] = fields.get("events", "")
        elif kind == wire.PROGRESS:
            ordinal, text = wire.number_of(fields, "ordinal"), fields.get("text", "")
            if not self._tasks.note(ordinal, text):
                self._write(self._progress.note(ordinal, text))
        elif kind == wire.GOODBYE:
            unrun = wire.decode_ordinals(fields.get("unrun", ""))
            self._ledger.goodbye(wire.decode_read_upto(fields), unrun)
            self._connector.go_to(fields.get("away", ""))
            self._kernel.trace("C.goodbye")
            assert self._connection is not None
            self._connection.part()

    # From the client.

    def _read_stdin(self) -> None:
        data = self._read()
        if not data:
            self._end_of_input()
            return
        for line in self._input.feed(data):
            self._accept(line)
        self._send()

    def _read(self) -> bytes:
        """Return what the client has written, b"" at its end."""
        try:
            data = os.read(STDIN, CHUNK)
        except OSError:
            return b""  # an orphaned terminal: the client is gone
        if data and not self._parent:
            self._watch_parent()
        return data

    def _watch_parent(self) -> None:
        """Take the parent's end for the client's: some other child may hold our input's other end.

        Only from the client's first words on: a launcher that has ended by then is not the client.
        """
        self._parent = self._kernel.parent_pid()
        self._parent_fd = self._kernel.watch_parent()

    def _has_lost_parent(self, ready: "dict[int, int]") -> bool:
        if self._parent_fd >= 0 and self._parent_fd not in ready:
            return False  # the kernel would have told
        return self._kernel.parent_pid() != self._parent

    def _end_of_input(self) -> None:
        self._stdin_open = False
        self._parent = 0
        if self._parent_fd >= 0:
            self._kernel.close(self._parent_fd)
            self._parent_fd = -1
        self._kernel.trace("C.leave")  # before the broker can see the end and hang up
        for line in self._input.end():
            self._accept(line)
        self._send()

    def _send(self) -> None:
        if self._connection is not None and (self._connection.unsent or not self._stdin_open):
            self._connection.send(no_more=not self._stdin_open)

    def _accept(self, line: "bytes | IdScanner") -> None:
        if not isinstance(line, bytes):
            self._refuse_too_large(line)
            return
        if line.startswith(wire.PREFIX):
            line = b" " + line  # it would be taken for a header; it is no JSON either way
        if told := self._tasks.answer(line):
            self._write(told)
            return
        ordinal = self._ledger.accept(line)
        self._progress.watch(ordinal, line)
        self._tasks.watch(ordinal, line)
        connection = self._connection
        if connection is not None and connection.state != Connection.PARTING:
            connection.queue(ordinal, line)
        elif self._answer_locally(ordinal, line):
            return
        elif connection is None and self._connector.state == Connector.IDLE:
            self._begin()

    # What the shim answers by itself.

    def _answer_locally(self, ordinal: int, line: bytes) -> bool:
        """Answer what needs no engine; False where the line has to wait for a broker."""
        if len(line) > LOCAL_BYTES_MAX:
            return False
        from palace.shim import local_answers

        message = local_answers.parsed(line)
        if local_answers.needs_engine(message):
            return False
        if not self._cancel_waiting(local_answers.cancelled_id(message)):
            return False
        self._client = local_answers.client_of(message) or self._client
        read_only = self._environment.read_only
        answer = local_answers.inline_line(message, self._kernel, self._paths, read_only=read_only)
        if answer is None:
            return False
        self._ledger.settle(ordinal)
        self._write(answer)
        return True

    def _cancel_waiting(self, cancelled: "str | None") -> bool:
        """Forget the call that is cancelled; False where a broker, which may run it, must know."""
        if cancelled is None:
            return True
        from palace.shim.local_answers import call_id

        for ordinal, line in self._ledger.outstanding():
            if call_id(line) == cancelled:
                if self._ledger.maybe_ran(ordinal):
                    return False
                self._ledger.settle(ordinal)
        return True

    def _fail_all(self, problem: PalaceError) -> None:
        """No owner can be had: answer what waits with the reason; the next request tries again."""
        remark(f"palace shim: {problem.message}")
        for ordinal, line in self._ledger.outstanding():
            reason = unanswered(problem, maybe_ran=self._ledger.maybe_ran(ordinal))
            self._ledger.settle(ordinal)
            self._say_failure(ordinal, line, reason)

    def _give_up_poison(self) -> None:
        """Answer lines that were unanswered at so many deaths that they may be the cause."""
        lost = self._ledger.died()
        for ordinal in lost:
            line = self._ledger.line(ordinal)
            self._ledger.settle(ordinal)
            self._say_failure(ordinal, line, suspected(len(lost), self._paths.log))

    def _say_failure(self, ordinal: int, line: bytes, reason: PalaceError) -> None:
        from palace.shim.local_answers import failure_line

        self._write(self._tasks.kept(ordinal, failure_line(line, reason)))

    def _write(self, data: bytes) -> None:
        """Write to the client, waiting as long as it takes; raises ClientGone when it has left."""
        if not data:
            return
        try:
            self._kernel.write_all(STDOUT, data)
        except OSError:
            raise ClientGone from None

    def _refuse_too_large(self, scanner: "IdScanner") -> None:
        from palace.shim.local_answers import too_large_line

        self._write(too_large_line(scanner.request_id(), self._input.line_bytes_max))


def find_site(palace: str) -> Site:
    """Return what a shim works with; raises ConfigError where its settings name no palace."""
    environment = read_environment()
    paths = find_palace(palace, environment.all)
    return Site(kernel_for(environment.trace), paths, environment)


def main(arguments: "list[str]", fields: "dict[str, str] | None" = None) -> int:
    """Run the shim, whose HELLO says `fields` besides; return its exit code."""
    if "--help" in arguments or "-h" in arguments:
        from palace.shim.usage import USAGE

        say(USAGE, end="")
        return 0
    try:
        given = parse_arguments(arguments)
        backlog = None
        try:
            site = find_site(given)
        except ConfigError as error:
            from palace.shim.unnamed import wait_for_palace

            site, backlog = wait_for_palace(lambda: find_site(given), error)
        Relay(site, backlog, fields).run()
    except PalaceError as error:
        remark(f"palace shim: {error.message}")
        return error.exit_code
    except ClientGone:
        # What is still buffered nowhere can't be flushed: leave as stock does, with 0.
        return 0
    except KeyboardInterrupt:
        return 130
    return 0
