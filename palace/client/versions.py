"""A broker that speaks another protocol (docs/decisions/0012).  Loaded by shims that met one."""

import socket

from palace.protocol import wire

ANSWER_S = 5.0


def _number(fields: "dict[str, str]", name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.isdigit() else 0


def after_refusal(fields: "dict[str, str]", path: str, *, ask: bool) -> "tuple[bool, int]":
    """Return whether the broker at `path` makes room for a younger one, and what both can speak.

    `ask` says that it may be asked to, which only an older one is.
    """
    newest = _number(fields, "newest")
    version = wire.common_version(_number(fields, "oldest"), newest) if newest else 0
    is_older = 0 < newest < wire.OLDEST
    return ask and is_older and _leaves(path, newest), version


def _leaves(path: str, version: int) -> bool:
    header = wire.encode_header(wire.CONTROL, {"ask": "upgrade"}, version=version)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
            sock.sendall(header)
            answer = sock.recv(4096)
        except OSError:
            return False
    return answer.partition(b" ")[2].startswith(wire.ANSWER.encode())
