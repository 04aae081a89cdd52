"""Writes docs/screens.md from a real run; `just screens` runs it.

The engine, its model, the clients and the broker are real; only the names of the scratch
directory, of Python and of the machine are replaced.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from palace.engine.embedding.model import install_model, is_installed
from tests.support.processes.brokers import make_site, state_of
from tests.support.processes.clients import PALACE, Site, end_brokers, wait_until

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = ROOT / "docs" / "screens.md"
MODEL_HOME = ROOT / ".pytest_cache" / "d" / "model-home"
HEAD = """# Screens

Made from a real run by `just screens`; the names of the scratch directory,
of Python and of the machine are replaced.
"""


def blocks(site: Site, count: int) -> str:
    """Return the last of so many pictures of `palace status --watch`."""
    with subprocess.Popen(
        [*PALACE, "status", "--watch"], env=site.environ(), stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        shown = []
        for _ in range(count):
            shown.append("")
            while (line := watching.stdout.readline()) != "\n":
                shown[-1] += line
        watching.send_signal(signal.SIGINT)
    return shown[-1]


def make_screens(root: Path) -> dict[str, str]:
    """Run a palace with two clients; return what was shown, by the command and the occasion."""
    site = make_site(root, MODEL_HOME)
    screens = {}
    with site.shim() as one, site.shim() as other:
        for client in (one, other):
            client.initialize()
        for number in range(20):
            one.tool("add_drawer", wing="w", room="r", content=f"Paragraph {number} of many.")
            other.tool("search", query=f"paragraph {number}")
        other.call("mempalace_get_drawer", drawer_id="none")
        screens["palace status --watch"] = blocks(site, 2)
        screens["palace doctor"] = site.run("doctor").stdout
        pid = site.record()["pid"]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) == "T", what="it is stopped")
        screens["palace doctor, while a signal has halted the broker"] = site.run("doctor").stdout
        screens["palace status, of the same"] = site.run("status").stdout
        os.kill(pid, signal.SIGCONT)
    site.run("stop", "--hold")
    screens["palace doctor, after palace stop --hold"] = site.run("doctor").stdout
    return screens


def main() -> None:
    if not is_installed(MODEL_HOME):
        install_model(MODEL_HOME)
    with tempfile.TemporaryDirectory(prefix="ada-", dir="/tmp") as scratch:
        root = Path(os.path.realpath(scratch))
        try:
            screens = make_screens(root)
        finally:
            end_brokers(root)
    parts = [HEAD]
    for title, text in screens.items():
        shown = text.replace(str(root / "home"), "/home/ada").replace(str(root), "/home/ada")
        shown = re.sub(r"/tmp/ada-\w*", "/home/ada", shown)  # cut off in the middle of its name
        shown = shown.replace(sys.executable, "python").replace(
            f" on {os.uname().nodename},", " on laptop,"
        )
        parts.append(f"## {title}\n\n```text\n{shown.rstrip()}\n```\n")
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
