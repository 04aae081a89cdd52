"""What the shim says to its client by itself: each function returns whole lines to write.

Rule for this file: the relay imports it when it first needs it, since relaying needs no JSON.
"""

from palace.kernel.kernel import Kernel
from palace.protocol import jsonrpc, modern
from palace.protocol.errors import PalaceError, TooLarge
from palace.protocol.extra_names import METHODS
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.protocol.oversize import IdScanner
    from palace.protocol.tasks import Task


TOLD_BY_CATALOGUE = {"initialize", "tools/list", *METHODS}
UNREADABLE = object()  # stands for the message of a line that is no JSON


def parsed(line: bytes) -> object:
    """Return a line's message, UNREADABLE where it is no JSON."""
    try:
        message: object = jsonrpc.parse(line)
    except (ValueError, RecursionError):
        return UNREADABLE
    return message


def needs_engine(message: object) -> bool:
    if not jsonrpc.is_tool_call(message):
        return False
    return not modern.is_modern(message) or modern.is_well_formed(message)


def inline_line(
    message: object, kernel: Kernel, paths: Paths, *, read_only: bool
) -> "bytes | None":
    """Answer what needs no engine as the broker would; b"" where that says nothing.

    None: it does need one, as extras do where this palace has them.

    A client asks which versions are spoken before it asks anything else, and takes silence for
    "none of mine", so neither that nor the error for an unknown method waits for a broker.
    """
    if message is UNREADABLE:
        return _line(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))
    catalogue = None
    if jsonrpc.method_of(message) in TOLD_BY_CATALOGUE or modern.is_modern(message):
        from palace.settings.catalogue import load_catalogue

        catalogue = load_catalogue(kernel.read_hint(paths.catalogue, 1 << 22))
    reply = modern.inline_reply(message, catalogue, read_only=read_only)
    if reply is jsonrpc.NOT_INLINE:
        return None
    return b"" if reply is None else _line(reply)


def task_line(
    task: "Task | None", ident: object, kernel: Kernel, paths: Paths, *, is_new: bool = False
) -> bytes:
    """Answer a request with a task, handed out or as it is now; without one, that it was heard."""
    from palace.settings.catalogue import load_catalogue

    head = modern.head_of(load_catalogue(kernel.read_hint(paths.catalogue, 1 << 22)))
    if task is None:
        return _line(jsonrpc.result(ident, head))
    return _line(task.created_reply(ident, head) if is_new else task.shown_reply(ident, head))


def client_of(message: object) -> str:
    """Return the client that an `initialize` or a modern request names, "" for anything else."""
    if modern.is_modern(message):
        return modern.client_of(message)
    return jsonrpc.client_of(message) if jsonrpc.method_of(message) == "initialize" else ""


def cancelled_id(message: object) -> "str | None":
    """Return the key of the request that a message cancels, None where it cancels none."""
    return jsonrpc.cancelled_id(message)


def call_id(line: bytes) -> "str | None":
    """Return the key of a tool call's id, None for any other line."""
    message = parsed(line)
    if not needs_engine(message) or jsonrpc.request_id(message) is None:
        return None
    return jsonrpc.id_key(jsonrpc.request_id(message))


def failure_line(line: bytes, reason: PalaceError) -> bytes:
    """Answer a line that came to nothing; b"" where its client awaits no reply."""
    message = parsed(line)
    if message is UNREADABLE:
        return _line(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))
    if message is jsonrpc.BLANK or jsonrpc.method_of(message).startswith("notifications/"):
        return b""
    return _line(jsonrpc.failure(jsonrpc.request_id(message), reason))


def progress_line(line: bytes, waited_s: float, text: str) -> bytes:
    """Tell how a request comes on; b"" where it asks for nothing."""
    token = jsonrpc.progress_token(parsed(line))
    return b"" if token is None else _line(jsonrpc.progress(token, waited_s, text))


def scanner_of(pieces: "list[bytes]") -> "IdScanner":
    """Begin to look for the id of a line that is too long to be kept."""
    from palace.protocol.oversize import IdScanner

    scanner = IdScanner()
    for piece in pieces:
        scanner.feed(piece)
    return scanner


def too_large_line(request_id: object, line_bytes_max: int) -> bytes:
    """Refuse a line that is longer than the broker takes."""
    problem = TooLarge(
        f"A request of more than {line_bytes_max} bytes is not taken (line_bytes_max in "
        "palace.toml). Nothing was done; send it in parts."
    )
    return _line(jsonrpc.failure(request_id, problem))


def _line(reply: object) -> bytes:
    return jsonrpc.encode(reply) + b"\n"
