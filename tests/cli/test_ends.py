"""How every command ends where it can't do its work: told in a line, without a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from palace.cli.app import ALIASES, COMMANDS
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.clients import PALACE

PEER = ("--cwd=/", "--runtime=codex", "--personality=p")
# What each command needs to get as far as its work.
ARGUMENTS = {
    "backup": ("b",),
    "restore": ("b",),
    "purge": ("id",),
    "move-store": ("chroma",),
    "set-embedder": ("minilm",),
    "install": ("--list",),
    "uninstall": ("cursor",),
    "service": ("status",),
    "own": ("--here",),
    "provision-peer": PEER,
    "unprovision-peer": PEER,
}
EVERY = sorted([*COMMANDS, *ALIASES])
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "mempalace_status"}}


@pytest.fixture
def nameless() -> list[str]:
    """A command that runs another as a user without a name, without a home."""
    need_root()  # where user namespaces are closed to others
    need_command("unshare")
    return [
        *("unshare", "--user", "--map-user=54321", "--map-group=54321"),
        *("env", "-i", "PATH=/usr/bin:/bin"),
    ]


@pytest.mark.parametrize("given", [(), ("--palace", "q/palace")], ids=["found", "named"])
@pytest.mark.parametrize("name", EVERY)
def test_without_a_home_and_a_name_each_says_so_in_a_line(
    name: str, given: tuple[str, ...], nameless: list[str], tmp_path: Path
) -> None:
    if given and name in ("install", "uninstall", "list", "model", "try"):
        pytest.skip("it takes no palace")
    (tmp_path / "q").mkdir()
    done = subprocess.run(
        [*nameless, *PALACE, name, *ARGUMENTS.get(name, ()), *given],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 65, 66, 69, 77, 78, 82), done.stdout + done.stderr
    if done.returncode == 78:
        assert "HOME is not set" in done.stderr
        assert "Set HOME=DIR" in done.stderr
        assert done.stderr.count("\n") == 1
    if name in ("serve", "start", "ensure") or not given:
        assert done.returncode == 78 or name == "shim"


def test_a_shim_without_a_palace_tells_its_client_until_the_settings_are_mended(
    tmp_path: Path,
) -> None:
    config = tmp_path / ".mempalace" / "config.json"
    config.parent.mkdir()
    config.write_text('{"palace_path": "')
    with subprocess.Popen(
        [*PALACE, "shim"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PALACE_NO_SPAWN": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as shim:
        assert shim.stdin is not None
        assert shim.stdout is not None

        def ask(message: object) -> dict[str, dict[str, str]]:
            shim.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            return json.loads(shim.stdout.readline())  # type: ignore[union-attr]

        begun = ask(INITIALIZE)
        methods = ("server/discover", "resources/list", "ping", "no/such")
        others = [ask({"jsonrpc": "2.0", "id": 7, "method": method}) for method in methods]
        refused = ask(CALL)
        config.write_text(json.dumps({"palace_path": f"{tmp_path}/big"}))
        mended = ask(CALL)
        shim.stdin.close()
        end = shim.wait(60)

    assert begun["result"]["serverInfo"]
    codes = [other["error"]["code"] if "error" in other else 0 for other in others]
    assert codes == [-32601, -32601, 0, -32601]
    assert f"{config} can't be understood: it is not JSON" in refused["error"]["message"]
    assert f"No broker runs for {tmp_path}/big" in mended["error"]["message"]
    assert end == 0


def test_a_shim_whose_client_leaves_before_exits_with_the_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PALACE, "shim"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "MEMPALACE_PATH": "$HOME/p"},
        input=json.dumps(CALL),  # half a line, which stock answers, too
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 78
    assert "$HOME was not expanded" in json.loads(done.stdout)["error"]["message"]
    assert done.stderr.count("was not expanded") == 1


@pytest.mark.parametrize("stream", ["stdout", "both"])
@pytest.mark.parametrize(
    "name",
    [
        *sorted({*EVERY} - {"try", "model"}),  # which do their work whoever reads
        *("--help", "--version", "history --help", "shim --help", "model --wheel none"),
    ],
)
def test_a_reader_that_has_had_enough_is_no_fault(name: str, stream: str, tmp_path: Path) -> None:
    """`palace ... | head -0`."""
    (tmp_path / "p" / "journal").mkdir(parents=True, mode=0o700)
    (tmp_path / "p").chmod(0o700)
    lines = "no record\n" * 20_000  # more than a pipe and Python's buffer hold
    (tmp_path / "p" / "journal" / f"{5:020}.jsonl").write_text(lines)
    (tmp_path / "p" / "broker.log").write_text(lines)
    (tmp_path / "p" / "broker.hold").touch()  # so that none stays
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PALACE, *name.split(), *ARGUMENTS.get(name, ())],
            env={
                "HOME": str(tmp_path),
                "PATH": "/usr/bin:/bin",
                "PALACE_NO_SPAWN": "1",
                "MEMPALACE_PATH": str(tmp_path / "p"),
            },
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing if stream == "both" else subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)

    assert "pipe" not in (done.stderr or "").lower()
    assert "Traceback" not in (done.stderr or "")
    assert done.returncode not in (120, 74), sys.argv  # Python's own complaint, and an I/O error


@pytest.mark.parametrize("name", ["--version", "shim --help", "ensure --help", "status --json"])
def test_output_that_was_closed_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    """`palace ... >&-`."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PALACE, *name.split()],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "MEMPALACE_PATH": str(tmp_path / "p")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 74
    assert done.stderr == f"palace {name.split(maxsplit=1)[0]}: standard output: it is closed.\n"
