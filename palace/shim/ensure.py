"""`palace ensure`: make sure that a broker runs here, and print its record as one JSON line.

It is what a container runs over ssh: it elects on the machine where flock works, says where the
broker is, and leaves nothing of itself behind.
"""

import json

from palace.client.connector import DEADLINE_S, Connector
from palace.client.endpoints import named_socket, probe_hello
from palace.kernel.factory import kernel_for
from palace.kernel.kernel import Kernel
from palace.kernel.output import complain, say
from palace.protocol.broker_record import BrokerRecord, decode_broker_record
from palace.protocol.errors import BrokerUnreachable, ConfigError, PalaceError
from palace.settings.environment import ShimEnvironment, read_environment
from palace.settings.paths import Paths, find_palace
from palace.settings.site import Site
from palace.shim.arguments import parse_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = """usage: palace ensure [--palace DIR]

Starts the palace's broker unless one runs, and prints its record (without the token) as one line
of JSON. Running it again changes nothing. Exit codes: docs/reference/exit-codes.md
"""


def ensure(
    paths: Paths, environment: ShimEnvironment, *, deadline_s: float = DEADLINE_S
) -> BrokerRecord:
    """Return the record of a broker that has answered; raises PalaceError."""
    if environment.broker and not named_socket(environment):
        raise ConfigError(
            f"MEMPALACE_BROKER={environment.broker!r} names a broker of another machine, which is "
            "started there, or by the next request over ssh. Unset it to start one here."
        )
    kernel = kernel_for(environment.trace)
    connector = Connector(Site(kernel, paths, environment), deadline_s=deadline_s, may_direct=False)
    session = kernel.token()

    def hello() -> bytes:
        kernel.trace("C.dial", session=session)
        return probe_hello(kernel, paths, session)

    connector.begin(hello)
    connector.wait()
    welcome, error = connector.welcome, connector.error
    connector.end()
    if error is not None:
        raise error
    record = decode_broker_record(kernel.read_hint(paths.record))
    if record is None and not _may_read(kernel, paths.record):
        raise BrokerUnreachable(
            f"A broker serves {paths.root}, and you. {paths.record}, which says how it is reached, "
            "is for its owner alone: use palace shim, which needs no more.",
            admitted=True,
        )
    if record is None or record.incarnation != welcome.get("incarnation"):
        raise BrokerUnreachable("The broker answered and left at once. Ask again.")
    return record


def _may_read(kernel: Kernel, path: str) -> bool:
    try:
        kernel.close(kernel.open_read(path))
    except PermissionError:
        return False
    except OSError:
        pass  # it isn't there: whoever wrote it has left
    return True


def run_ensured(
    command: str, usage: str, arguments: "list[str]", use: "Callable[[Site, BrokerRecord], None]"
) -> int:
    """Run a command that needs a broker and uses its record; return its exit code."""
    if "--help" in arguments or "-h" in arguments:
        say(usage, end="")
        return 0
    try:
        given = parse_arguments(arguments, usage)
        environment = read_environment()
        paths = find_palace(given, environment.all)
        use(Site(Kernel(), paths, environment), ensure(paths, environment))
    except PalaceError as error:
        complain(f"palace {command}: {error.message}")
        return error.exit_code
    return 0


def main(arguments: "list[str]") -> int:
    """Run the command; return its exit code."""

    def show(_site: Site, record: BrokerRecord) -> None:
        say(json.dumps(record.public_dict()), flush=True)

    return run_ensured("ensure", USAGE, arguments, show)
