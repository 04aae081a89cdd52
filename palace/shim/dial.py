"""`palace dial`: a broker's socket as standard input and output, for a shim that comes over ssh."""

import os
import select
from _socket import SHUT_WR, socket
from contextlib import closing

from palace.client.endpoints import published_socket
from palace.client.handshake import READ_BYTES, check_peer, open_socket, receive
from palace.kernel.kernel import Kernel
from palace.protocol.broker_record import BrokerRecord
from palace.protocol.errors import BrokerUnreachable
from palace.settings.site import Site
from palace.shim.ensure import run_ensured

PARENT_MS = 5000.0  # how often to look whether the ssh session that started this has ended
USAGE = """usage: palace dial [--palace DIR]

Makes sure that the palace's broker runs, and carries bytes between it and standard input and
output until one of them ends. Shims on other machines run it over ssh, where sockets can't be
forwarded. Exit codes: docs/reference/exit-codes.md
"""


def main(arguments: "list[str]") -> int:
    """Run the command; return its exit code."""
    return run_ensured("dial", USAGE, arguments, _carry)


def _carry(site: Site, record: BrokerRecord) -> None:
    path = published_socket(record)
    try:
        broker = open_socket(path)
        check_peer(broker, site.paths)
    except OSError as error:
        raise BrokerUnreachable(f"{path}: {error.strerror}. Ask again.") from None
    with closing(broker):
        broker.setblocking(True)
        near_open, parent = True, site.kernel.parent_pid()
        while True:
            poll = select.poll()
            poll.register(broker, select.POLLIN)
            if near_open:
                poll.register(0, select.POLLIN)
            ready = dict(poll.poll(PARENT_MS if near_open else None))
            if 0 in ready:
                near_open = _to_broker(broker)
            elif near_open and site.kernel.parent_pid() != parent:
                near_open = _end_near(broker)  # another process may hold our input open for ever
            if broker.fileno() in ready and not _from_broker(broker, site.kernel):
                return


def _to_broker(broker: socket) -> bool:
    data = os.read(0, READ_BYTES)
    try:
        broker.sendall(data) if data else broker.shutdown(SHUT_WR)
    except OSError:
        return False  # it has hung up: what it said before is still to be read
    return bool(data)


def _end_near(broker: socket) -> bool:
    try:
        broker.shutdown(SHUT_WR)
    except OSError:
        return False
    return False


def _from_broker(broker: socket, kernel: Kernel) -> bool:
    data = receive(broker)
    if data is None:
        return True
    kernel.write_all(1, data)
    return bool(data)
