"""Headers, replies, lists, HELLOs and lines, as broker and shim read them from a stranger."""

import json
import re
from collections.abc import Callable

from palace.protocol import jsonrpc, wire
from palace.protocol.errors import WireError
from palace.protocol.oversize import IdScanner
from palace.protocol.proof import proof_of
from palace.protocol.request import TOO_MUCH, UNREADABLE, Request, ToolCall, read_request
from palace.protocol.session import Fate, Hello, Session
from palace.protocol.weight import VALUES_MAX, has_too_many_values, is_light
from palace.settings.catalogue import load_catalogue
from palace.transport.lines import LineSplitter
from tests.security.source import Source, steps_at_most

DRIVES = (
    "palace.protocol.wire",
    "palace.protocol.session",
    "palace.protocol.request",
    "palace.protocol.jsonrpc",
    "palace.protocol.oversize",
    "palace.protocol.weight",
    "palace.transport.lines",
)
LINE_MAX = 2000
STEPS = 400_000  # a line of 2,000 levels takes half of them; one that is read twice takes more
CATALOGUE = load_catalogue(None)
_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")


def one(data: bytes) -> None:
    source = Source(data)
    part = source.pick(PARTS)
    with steps_at_most(STEPS):
        part(source)


def _header(source: Source) -> None:
    line = source.pick((b"", b"palace/1 hello ", b"palace/1 goodbye unrun=")) + source.rest()
    try:
        version, kind, fields = wire.decode_header(line)
    except WireError:
        return
    assert 0 <= version <= wire.NUMBER_MAX
    # What is no escape is refused, so that nobody reads a value that was not written.
    for word in line.decode().split()[2:]:
        assert _ESCAPED.fullmatch(word.partition("=")[2]), word
    again = wire.encode_header(kind, fields, version=version)
    if version and len(again) <= wire.HEADER_BYTES_MAX:
        assert wire.decode_header(again.rstrip(b"\n")) == (version, kind, fields)


def _reply(source: Source) -> None:
    line = source.rest().replace(b"\n", b"")
    try:
        ordinal, payload = wire.decode_reply(line)
    except WireError:
        return
    assert wire.decode_reply(wire.encode_reply(ordinal, payload or None)[:-1]) == (ordinal, payload)
    assert len(b"%d" % ordinal) <= 20


def _lists(source: Source) -> None:
    text = source.rest().decode("utf-8", "replace")
    try:
        lines = wire.decode_resend(text)
        assert wire.decode_resend(wire.encode_resend(lines)) == lines
        assert len(lines) <= wire.LIST_MAX
        assert lines == sorted(lines)
    except WireError:
        pass
    try:
        ordinals = wire.decode_ordinals(text)
        assert wire.decode_ordinals(wire.encode_ordinals(ordinals)) == ordinals
        assert len(ordinals) <= wire.LIST_MAX
    except WireError:
        pass


def _number(source: Source) -> None:
    raw = source.rest()
    for text in (raw, raw.decode("utf-8", "replace")):
        try:
            number = wire.whole_number(text)
        except ValueError:
            continue
        assert re.fullmatch(r"[0-9]{1,20}", raw.decode()), raw
        assert number == int(raw)
    identity = wire.identity_of(raw)
    assert not identity or re.fullmatch(r"[0-9a-f]{32}", identity)


def _hello(source: Source) -> None:
    names = ("session", "secret", "palace_id", "client", "resend", "next", "epoch", "cwd", "place")
    fields = {"session": "s"}
    for _ in range(source.below(8)):
        fields[source.pick(names)] = source.text()
    if source.byte() % 2:
        fields["resend"] = source.pick(("1:0,2:1,7:1", "0:1,0:0", "5:1,4:1", "3:1"))
    try:
        hello = Hello.read(fields)
    except WireError:
        return
    assert 0 < len(hello.session) <= wire.SESSION_MAX
    assert max(hello.next_ordinal, hello.epoch) <= wire.NUMBER_MAX
    assert all(len(text) <= wire.TEXT_MAX for text in (hello.cwd, hello.place, hello.secret))
    assert len(proof_of(hello.secret)) <= wire.SESSION_MAX
    _drive(Session(), hello, source)


def _drive(session: Session, hello: Hello, source: Source) -> None:
    """Let a session meet lines, acks, answers and another HELLO, in any order."""
    session.connect(hello)
    ordinals: set[int] = set()
    for _ in range(source.below(40)):
        step = source.below(5)
        if step == 0:
            try:
                session.acknowledge(source.below(20))
            except WireError:
                continue
        elif step == 1 and session.calls:
            ordinal = source.pick(sorted(session.calls))
            session.settle(ordinal)
            session.answer(ordinal, source.raw() or None, reachable=source.byte() % 2 == 0)
        elif step == 2:
            session.connect(hello)
        else:
            _take(session, source, ordinals)
        assert session.acknowledged <= max(session.next_ordinal, 20)
    goodbye = session.say_goodbye("x", [])
    said = wire.encode_header(wire.GOODBYE, goodbye.fields())
    _, _, fields = wire.decode_header(said[:-1])
    assert wire.decode_read_upto(fields) == goodbye.read_upto
    assert tuple(wire.decode_ordinals(fields["unrun"])) == goodbye.unrun


def _take(session: Session, source: Source, ordinals: set[int]) -> None:
    arrival = session.take_line()
    assert arrival.ordinal >= 0
    if arrival.fate is Fate.HANDLE and arrival.ordinal not in session.calls:
        ordinals.add(arrival.ordinal)
        call = ToolCall(message={}, id=source.byte())
        session.begin_offer(arrival)
        session.end_offer(arrival.ordinal)
        session.admit(arrival.ordinal, call)


def _line(source: Source) -> None:
    line = _message(source) if source.byte() % 2 else source.rest()
    request = read_request(line)
    assert isinstance(request, Request)
    if request.message in (UNREADABLE, TOO_MUCH):
        return
    # All that a broker does with it before it has a place in a queue.
    jsonrpc.client_of(request.message)
    jsonrpc.cancelled_id(request.message)
    jsonrpc.id_key(request.id)
    reply = jsonrpc.inline_reply(request.message, CATALOGUE, read_only=source.byte() % 2 == 0)
    if reply is not None and reply is not jsonrpc.NOT_INLINE:
        jsonrpc.encode(reply)
    if isinstance(request, ToolCall):
        jsonrpc.encode(jsonrpc.failure(request.id, WireError("no")))
    _same_id(line, request)


def _message(source: Source) -> bytes:
    method = source.pick(
        ("tools/call", "initialize", "ping", "tools/list", "x", "notifications/cancelled")
    )
    message = {"jsonrpc": "2.0", "id": source.json(), "method": method, "params": source.json()}
    if source.byte() % 2:
        message["params"] = {
            "name": source.pick(("mempalace_add_drawer", "mempalace_search", "mempalace_mine", "")),
            "arguments": source.json(),
            "requestId": source.json(1),
            "clientInfo": source.json(2),
            "_meta": {"progressToken": source.json(1)},
        }
    try:
        return json.dumps(message, ensure_ascii=source.byte() % 2 == 0).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return b"[" * 3000


def _same_id(line: bytes, request: Request) -> None:
    """A line that is too long is answered under the id that parsing would have found."""
    if not isinstance(request.message, dict) or line.count(b'"id"') != 1:
        return
    scanner = IdScanner()
    for start in range(0, len(line), 7):
        scanner.feed(line[start : start + 7])
    found = scanner.request_id()
    if len(line) < 4000 and isinstance(request.id, str | int):
        assert found == request.id, (found, request.id)


def _weight(source: Source) -> None:
    piece = source.pick((b"[", b"0,", b'"', b'\\"', b'"a":', b"{", b'"\\\\",', b" "))
    line = source.raw() + piece * source.pick((1, 9, 300, 300, 9, 40_000)) + source.raw()
    light, many = is_light(line), has_too_many_values(line)
    if many and not light:
        assert read_request(line).message in (TOO_MUCH, UNREADABLE)
    text = line.decode("utf-8", "replace")
    try:
        values = _count(json.loads(text))
    except (ValueError, RecursionError):
        return
    assert many or values <= 2 * VALUES_MAX


def _count(value: object) -> int:
    waiting, count = [value], 0
    while waiting:
        inner = waiting.pop()
        count += 1
        if isinstance(inner, dict):
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner
    return count


def _split(source: Source) -> None:
    """Lines come out as they went in, wherever the pieces end, and none is longer than allowed."""
    splitter, fed, found = LineSplitter(LINE_MAX), b"", []
    while source:
        piece = source.raw() * source.pick((1, 1, 1, 20))
        fed += piece
        try:
            found += splitter.feed(piece)
        except WireError:
            assert max(map(len, fed.split(b"\n"))) > LINE_MAX
            return
        assert splitter.held <= LINE_MAX
    assert found == fed.split(b"\n")[:-1]


PARTS: tuple[Callable[[Source], None], ...] = (
    *(_header, _reply, _lists, _number, _hello, _line, _weight, _split),
)
