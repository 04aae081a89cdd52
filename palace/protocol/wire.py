"""What shim and broker say to each other, line by line.

Theory of operation.  Both sides of a connection speak lines of UTF-8 ended by a newline.

- A *header* is `palace/1 KIND key=value ...`; values are percent-encoded, so that a header can
  be read with two splits (the shim can't afford a JSON parser at start-up).
- shim -> broker: one HELLO header, then the client's own JSON-RPC lines, unchanged.  ACK headers
  may come between lines; a client's line that looks like a header gets one space before it.
- broker -> shim: one WELCOME (or REFUSED) header, then for each line of the client a *reply*:
  `ORDINAL JSON`, or `ORDINAL` alone where nothing is to be said to the client.  Headers may come
  between replies (GOODBYE, CLIENT, WORKSPACE, CLAIMS, PROGRESS); a shim passes over those that it
  doesn't know.

Versions: HELLO names the shim's newest.  A broker that doesn't speak it refuses, and says which it
does (`oldest`, `newest`): the shim then says HELLO in the newest that both know.  Where there is
none, the younger side waits for the older to be replaced, never the other way round
(docs/decisions/0012).

`ack upto=N` says that all ordinals below N are settled at the shim, which will never send them
again: what the broker keeps about them can be forgotten.

WELCOME's `died=EPOCH` names an earlier owner that ended without leaving (0: there was none): of the
others a shim that lost its connection knows only that much.

`workspace name=ID` says whom the session acts as (the palace's owner: ""), as soon as that is
known; its shim says so in each HELLO that follows, since the next owner doesn't know it.

`claims events=ID,ID` says for which claimed tasks a session stands (claims.py), and is repeated in
the same way.

`progress ordinal=N text=...` says how a call comes on whose client has asked for that.

A session is named by a digest of its `secret`, a field of HELLO that is never written down: the
name stands in the journal, in logs and traces, and proves nothing there (docs/decisions/0027).

The ordinal counts a session's lines from 0.  It, and never the client's request id, ties a reply
to its line: ids may be reused, missing, or of any type (docs/decisions/0001).

Rule for this file: pure, light (the shim imports it), no state.
"""

from palace.protocol.errors import WireError

VERSION = 1  # what this side would rather speak
OLDEST = 1  # what it still understands
PREFIX = b"palace/"
HEADER_BYTES_MAX = 65_536  # a resend list of 4,096 lines takes 40 kB

# What a peer may say is bounded, each part of it: a number of thousands of digits can be read, but
# not be written again, and would end whatever task tries.
_DIGITS_MAX = 20
NUMBER_MAX = 10**_DIGITS_MAX - 1  # of an ordinal or an epoch
LIST_MAX = 16_384  # lines that are sent again, or that a goodbye names
SESSION_MAX = 128  # characters of a session's name
PROVEN = "h"  # begins the name of a session that is a digest of its secret
_PROOF_DIGITS = 32
TEXT_MAX = 4096  # characters of every other value

WEBSOCKET_PATH = "/palace"  # of the handshake
IDENTITY_DIGITS = 32  # of a uuid, in hexadecimal

HELLO = "hello"
WELCOME = "welcome"
REFUSED = "refused"
GOODBYE = "goodbye"
CLIENT = "client"
PROGRESS = "progress"
WORKSPACE = "workspace"
CLAIMS = "claims"
ACK = "ack"
CONTROL = "control"
ANSWER = "answer"
SERVING = "serving"
FAILED = "failed"

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:,/+@~")


def quote(value: str) -> str:
    """Percent-encode everything but letters, digits and `-_.:,/+@~`."""
    raw = value.encode("utf-8", "surrogatepass")
    if _SAFE.issuperset(raw):
        return value
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)


def unquote(value: str) -> str:
    """Undo `quote`; a broken escape raises WireError."""
    if "%" not in value:
        return value
    head, *rest = value.split("%")
    raw = bytearray(head.encode())
    try:
        for part in rest:
            escape = bytes.fromhex(part[:2])
            if len(escape) != 1:  # nothing follows the sign
                raise ValueError
            raw += escape + part[2:].encode()
        return raw.decode("utf-8", "surrogatepass")
    except (ValueError, UnicodeDecodeError):
        raise WireError(f"broken escape in {value[:80]!r}") from None


def session_name(proof: str) -> str:
    """Return the name of the session whose secret has this digest."""
    return PROVEN + proof


def wants_proof(session: str) -> bool:
    """Tell whether a session's name is the digest of a secret; older shims made one up."""
    digits = session[len(PROVEN) :]
    return (
        session.startswith(PROVEN)
        and len(digits) == _PROOF_DIGITS
        and not digits.strip("0123456789abcdef")
    )


def whole_number(text: "str | bytes", *, most: int = NUMBER_MAX) -> int:
    """Read a number that somebody else has written: ASCII digits alone, at most `most`.

    Raises ValueError, also for what `int` would take: signs, blanks, underscores, other digits.
    """
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
        number = int(text)
        if number <= most:
            return number
    raise ValueError(f"not a number from 0 to {most}: {text[:40]!r}")


def identity_of(data: "bytes | None") -> "str | None":
    """Return the identity in a palace_id file: "" where there is none, None where it is odd."""
    if data is None:
        return ""
    text = data.strip()
    if len(text) != IDENTITY_DIGITS or text.strip(b"0123456789abcdef"):
        return None
    return text.decode("ascii")


def encode_header(kind: str, fields: "dict[str, str]", *, version: int = 0) -> bytes:
    """Return one header line, newline included, in our own version unless another is named."""
    parts = [f"palace/{version or VERSION}", kind]
    parts += [f"{key}={quote(value)}" for key, value in fields.items()]
    return " ".join(parts).encode() + b"\n"


def decode_header(line: bytes) -> "tuple[int, str, dict[str, str]]":
    """Return (version, kind, fields) of a header line; anything else raises WireError."""
    if not line.startswith(PREFIX) or len(line) > HEADER_BYTES_MAX:
        raise WireError(f"not a palace header: {line[:60]!r}")
    try:
        words = line.decode("ascii").split()
        version = whole_number(words[0][len(PREFIX) :])
        kind = words[1]
        pairs = [word.split("=", 1) for word in words[2:]]
        return version, kind, {key: unquote(value) for key, value in pairs}
    except (ValueError, IndexError, UnicodeDecodeError):
        raise WireError(f"broken palace header: {line[:60]!r}") from None


def common_version(oldest: int, newest: int) -> int:
    """Return the newest version that both sides understand, 0 where there is none."""
    best = min(newest, VERSION)
    return best if best >= max(oldest, OLDEST) else 0


def at_version(line: bytes, version: int) -> bytes:
    """Return a header line of ours as it is said in another version."""
    return PREFIX + b"%d" % version + line[line.index(b" ") :]


def encode_reply(ordinal: int, payload: "bytes | None") -> bytes:
    """Return the reply line of one client line; None says that the client gets nothing."""
    if payload is None:
        return b"%d\n" % ordinal
    return b"%d %b\n" % (ordinal, payload)


def decode_reply(line: bytes) -> "tuple[int, bytes]":
    """Split a reply line into ordinal and payload (empty: nothing for the client)."""
    head, _, payload = line.partition(b" ")
    try:
        return whole_number(head), payload
    except ValueError:
        raise WireError(f"not a reply: {line[:60]!r}") from None


def encode_resend(lines: "list[tuple[int, bool]]") -> str:
    """Write the lines that follow HELLO: `ORDINAL:1` where it may have been carried out."""
    return ",".join(f"{ordinal}:{int(maybe_ran)}" for ordinal, maybe_ran in lines)


def decode_resend(text: str) -> "list[tuple[int, bool]]":
    """Undo `encode_resend`; ordinals must rise."""
    if not text:
        return []
    try:
        pairs = [part.split(":") for part in _parts(text)]
        lines = [(whole_number(ordinal), flag == "1") for ordinal, flag in pairs]
    except ValueError:
        raise WireError(f"broken resend list: {text[:80]!r}") from None
    if any(later <= earlier for (earlier, _), (later, _) in zip(lines, lines[1:], strict=False)):
        raise WireError(f"resend list out of order: {text[:80]!r}")
    return lines


def encode_ordinals(ordinals: "list[int]") -> str:
    return ",".join(str(ordinal) for ordinal in ordinals)


def decode_ordinals(text: str) -> "list[int]":
    try:
        return [whole_number(part) for part in _parts(text)] if text else []
    except ValueError:
        raise WireError(f"broken ordinal list: {text[:80]!r}") from None


def number_of(fields: "dict[str, str]", name: str) -> int:
    """Return a number among a header's fields; raises WireError."""
    try:
        return whole_number(fields.get(name, ""))
    except ValueError:
        raise WireError(f"{name} is no number: {fields.get(name, '')[:40]!r}") from None


def decode_read_upto(fields: "dict[str, str]") -> int:
    """Return the last line that a goodbye says was read, -1 for none; raises WireError."""
    text = fields.get("read_upto", "-1")
    try:
        return -1 if text == "-1" else whole_number(text)
    except ValueError:
        raise WireError(f"goodbye's read_upto is no number: {text[:40]!r}") from None


def _parts(text: str) -> "list[str]":
    parts = text.split(",", LIST_MAX)
    if len(parts) > LIST_MAX:
        raise ValueError(f"more than {LIST_MAX} ordinals")
    return parts
