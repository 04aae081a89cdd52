"""What the shim says to its client by itself: each function returns whole lines to write.

Rule for this file: the relay imports it when it first needs it, since relaying needs no JSON.
"""

from palace.kernel.kernel import Kernel
from palace.protocol import jsonrpc
from palace.protocol.errors import PalaceError, TooLarge
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.protocol.oversize import IdScanner


def inline_line(message: object, kernel: Kernel, paths: Paths, *, read_only: bool) -> bytes:
    """Answer `initialize`, `tools/list` or `ping` as the broker would."""
    catalogue = None
    if jsonrpc.method_of(message) != "ping":
        from palace.settings.catalogue import load_catalogue

        catalogue = load_catalogue(kernel.read_hint(paths.catalogue, 1 << 22))
    return _line(jsonrpc.inline_reply(message, catalogue, read_only=read_only))


def failure_line(line: bytes, reason: PalaceError) -> bytes:
    """Answer a line that came to nothing; b"" where its client awaits no reply."""
    try:
        message = jsonrpc.parse(line)
    except (ValueError, RecursionError):
        return _line(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))
    if message is jsonrpc.BLANK or jsonrpc.method_of(message).startswith("notifications/"):
        return b""
    return _line(jsonrpc.failure(jsonrpc.request_id(message), reason))


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
