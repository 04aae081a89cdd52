"""Which MCP hosts start palace, which start stock beside it, and which files can't be read."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import OK, WARNING, Finding
from palace.mcp_hosts.listing import state_of
from palace.mcp_hosts.table import NAMES
from palace.mcp_hosts.target import find_target


def check_hosts(found: Diagnostics) -> Iterator[Finding]:
    """Yield what `palace install --list` shows of this user's hosts."""
    ours = []
    for host in NAMES:
        target = find_target(host, found.environ)
        state = state_of(target)
        if state == "installed":
            ours.append(host)
        elif state.startswith("stock"):
            yield Finding(
                level=WARNING,
                code="stock_entry",
                text=f"{target.host.title} starts a mempalace server other than palace "
                f"({target.path}), which can't write beside a broker.",
                remedy=f"Replace it with palace: palace install {host} --replace",
            )
        elif state.startswith("can't be"):
            yield Finding(
                level=WARNING,
                code="host_file",
                text=f"{target.path}, of {target.host.title}, {state}: that host may not start "
                "palace either.",
                remedy="Correct the file, then: palace install --list",
            )
    yield Finding(
        level=OK, code="hosts", text=", ".join(ours) or "palace is installed in none of them"
    )
