"""A shim whose settings name no palace: its client is told with each call, until they are mended.

A host that sees its server die at the start shows that to nobody; an agent reads what its call
was answered.  Rule for this file: loaded only by such a shim.
"""

import os
import sys

from palace.kernel.kernel import Kernel
from palace.kernel.output import remark
from palace.protocol.errors import ConfigError
from palace.settings.environment import read_environment
from palace.settings.paths import Paths
from palace.shim.input_lines import CHUNK, STDIN, STDOUT, ClientGone, InputLines
from palace.shim.local_answers import (
    client_of,
    failure_line,
    inline_line,
    needs_engine,
    parsed,
    too_large_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from palace.protocol.oversize import IdScanner
    from palace.settings.site import Site

_NOWHERE = Paths(os.devnull)  # no palace: its files are in no directory


class Backlog:
    """What a shim has read by the time that it knows its palace: lines that wait for an answer."""

    def __init__(self) -> None:
        self.client = ""
        self.input = InputLines()
        self.lines: list[bytes | IdScanner] = []


def wait_for_palace(find: "Callable[[], Site]", problem: ConfigError) -> "tuple[Site, Backlog]":
    """Answer the client until `find` finds a palace, which each call tries again.

    Exits where the client has closed its end before; raises ClientGone where it reads no more.
    """
    remark(f"palace shim: {problem.message}")
    code = problem.exit_code
    kernel, backlog, is_open = Kernel(), Backlog(), True
    while is_open:
        data = os.read(STDIN, CHUNK)
        is_open = bool(data)
        backlog.lines += backlog.input.feed(data) if is_open else backlog.input.end()
        while backlog.lines:
            line = backlog.lines[0]
            if not (isinstance(line, bytes) and _answered(line, kernel, backlog)):
                try:
                    return find(), backlog
                except ConfigError as error:
                    _write(kernel, _refusal(line, error))
            del backlog.lines[0]
    sys.exit(code)


def _answered(line: bytes, kernel: Kernel, backlog: Backlog) -> bool:
    """Answer what needs no palace, an unknown method included; False where the line needs one."""
    message = parsed(line)
    if needs_engine(message):
        return False
    backlog.client = client_of(message) or backlog.client
    answer = inline_line(message, kernel, _NOWHERE, read_only=_is_read_only())
    _write(kernel, answer or b"")  # no extras: nothing is known of the palace
    return True


def _is_read_only() -> bool:
    """Tell whether the session may change nothing, as one whose switch can't be understood."""
    try:
        return read_environment().read_only
    except ConfigError:
        return True


def _refusal(line: "bytes | IdScanner", problem: ConfigError) -> bytes:
    if isinstance(line, bytes):
        return failure_line(line, problem)
    return too_large_line(line.request_id(), InputLines().line_bytes_max)


def _write(kernel: Kernel, data: bytes) -> None:
    try:
        kernel.write_all(STDOUT, data)
    except OSError:
        raise ClientGone from None
