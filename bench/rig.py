"""What the measurements stand on: a scratch home, an installed palace, servers; all of it ends."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from bench.lean import ADD, NO_OP, Broken, Lean
from bench.report import machine

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
MODEL = ".cache/chroma/onnx_models/all-MiniLM-L6-v2/onnx/model.onnx"
READY_S = 60.0
STOP_S = 15.0
# As short as a console script can be; pip's also imports `re`, which stock's and palace's pay for.
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"


@attrs.frozen(kw_only=True)
class Contender:
    """A stdio command that is measured; `server_pid` answers behind it (0: nobody does)."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    log: Path
    server_pid: int = 0
    speaks_mcp: bool = True

    def start(self) -> Lean:
        return Lean(self.argv, self.environ, self.log)


@contextmanager
def open_scratch(model_home: Path) -> Iterator[Path]:
    """Yield a directory with a `home` in it that has the embedding model; remove it at the end."""
    if not (model_home / MODEL).is_file():
        raise Broken(f"{model_home / MODEL} is missing: name a --model-home that has the model")
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="palace-bench-")))
    try:
        cache = scratch / "home" / ".cache"
        cache.mkdir(parents=True)
        (cache / "chroma").symlink_to((model_home / ".cache" / "chroma").resolve())
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def environment(scratch: Path, **more: str) -> dict[str, str]:
    """Return this environment without what would change a measured process."""
    dropped = ("MEMPAL", "PALACE_", "XDG_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"HOME": str(scratch / "home")} | more


def install(source: Path, venv: Path) -> Path:
    """Install a palace as pip does, with bytecode, beside this environment's packages.

    Returns the directory of its commands, among them the floors and stock's proxy.
    """
    in_scratch = {"TMPDIR": str(venv.parent)}  # a pip that is killed leaves its files there
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], in_scratch)
    python = str(venv / "bin" / "python")
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(HERE / "floor.py", site / "palace_bench_floor.py")
    run([python, "-m", "compileall", "-q", str(site)], in_scratch)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    run([*pip, str(source)], in_scratch)
    for name in ("pump", "answer", "serve"):
        text = SCRIPT.format(python=python, module="palace_bench_floor", name=name)
        write_command(venv / "bin" / f"floor-{name}", text)
    stock = Path(sysconfig.get_path("scripts"), "mempalace-mcp").read_text()
    write_command(venv / "bin" / "mempalace-mcp", f"#!{python}\n" + stock.split("\n", 1)[1])
    return venv / "bin"


def write_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(argv: Sequence[str], more: Mapping[str, str]) -> None:
    """Run a command to its end; interrupted, it and its children are killed."""
    kept = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        argv,
        env={**kept, **more},
        text=True,
        process_group=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        raise Broken(f"{' '.join(argv)} failed: {said[-2000:]}")


@contextmanager
def open_server(argv: Sequence[str], environ: Mapping[str, str], log: Path) -> Iterator[int]:
    """Start a server, yield its pid, end it."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            process_group=0,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_made(path: Path, log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise Broken(f"{path} did not appear: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def warm(contender: Contender) -> Contender:
    """Add a drawer through it: its store exists from here on, and its engine is known to work."""
    client = contender.start()
    try:
        client.initialize()
        client.must(ADD)
        client.must(NO_OP)
        if b"drawer_id" not in client.must(ADD):
            raise Broken(
                f"{contender.name} did not add a drawer: {contender.log.read_text()[-800:]}"
            )
        if client.memory_mib()[0] > 60 and contender.server_pid:
            raise Broken(f"{contender.name} serves by itself: it did not find its server")
    finally:
        client.close()
    return contender


@contextmanager
def open_palace(
    scratch: Path,
    commands: Path,
    name: str = "palace",
    root: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Contender]:
    """A broker, and `palace shim` in front of it, which may not start another.

    `more` are variables of its environment.
    """
    # Its parent holds files, too.
    root = root or scratch / f"{commands.parent.name}-store" / "palace"
    log = scratch / f"{commands.parent.name}.log"
    environ = environment(scratch, MEMPALACE_PATH=str(root), PALACE_IDLE_S="0", PALACE_NO_SPAWN="1")
    environ |= more or {}
    palace = str(commands / "palace")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_server([palace, "serve"], environ, log) as pid:
        wait_until_made(root / "broker.sock", log)
        argv = (palace, "shim")
        yield warm(Contender(name=name, argv=argv, environ=environ, log=log, server_pid=pid))


@contextmanager
def open_stock_hub(
    scratch: Path, commands: Path, more: Mapping[str, str] | None = None
) -> Iterator[Contender]:
    """Stock's hub, and its thin proxy in front of it; `more` are variables of its environment."""
    root, log = scratch / "hub-store", scratch / "hub.log"
    environ = environment(scratch, **(more or {}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = [str(commands / "python"), "-m", "mempalace.mcp_server", "--transport", "http"]
    with open_server([*server, "--port", str(port), "--palace", str(root)], environ, log) as pid:
        _wait_until_healthy(f"http://127.0.0.1:{port}/healthz", log)
        argv = (str(commands / "mempalace-mcp"), "--palace", str(root))
        yield warm(
            Contender(name="stock proxy", argv=argv, environ=environ, log=log, server_pid=pid)
        )


def _wait_until_healthy(url: str, log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).read()
        except OSError:
            if time.monotonic() > deadline_s:
                raise Broken(f"stock's hub did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return


def stock_direct(scratch: Path, commands: Path) -> Contender:
    root, log = scratch / "direct-store", scratch / "direct.log"
    environ = environment(scratch, MEMPALACE_HUB_FORWARD="0")
    python = str(commands / "python")
    argv = (python, "-m", "mempalace.mcp_server", "--palace", str(root))
    return warm(Contender(name="stock direct", argv=argv, environ=environ, log=log))


@contextmanager
def open_pump(scratch: Path, commands: Path) -> Iterator[Contender]:
    """The byte pump and the server that answers it."""
    path, log = scratch / "floor.sock", scratch / "floor.log"
    environ = environment(scratch)
    with open_server([str(commands / "floor-serve"), str(path)], environ, log) as pid:
        wait_until_made(path, log)
        argv = (str(commands / "floor-pump"), str(path))
        yield Contender(
            name="byte pump", argv=argv, environ=environ, log=log, server_pid=pid, speaks_mcp=False
        )
    path.unlink(missing_ok=True)


def plain(scratch: Path, name: str, *argv: str) -> Contender:
    """A command without a server behind it."""
    return Contender(
        name=name,
        argv=argv,
        environ=environment(scratch),
        log=scratch / "plain.log",
        speaks_mcp=False,
    )


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def catch_signals(hang_s: int) -> None:
    """Let an alarm and the signals that end a program end a measurement, and clean up behind it."""

    def interrupt(number: int, _frame: object) -> None:
        if number == signal.SIGALRM:
            raise Broken(f"no answer within {hang_s} s")
        raise KeyboardInterrupt

    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def parser(about: str) -> argparse.ArgumentParser:
    """Return a measurement's options: what all of them have."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    made.add_argument("--source", type=Path, default=HERE.parent, help="the tree to measure")
    made.add_argument("--model-home", type=Path, default=Path.home(), metavar="DIR")
    return made


def carry_out(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Path], T],
    tell: Callable[[T], tuple[str, dict[str, Any]]],
    hang_s: int,
) -> int:
    """Measure in a scratch directory and tell what was found, as text and as JSON; exit code.

    `measure` may set the alarm again; what hangs for `hang_s` is ended.
    """
    catch_signals(hang_s)
    try:
        with open_scratch(options.model_home) as scratch:
            about = machine(scratch)
            found = measure(options, scratch)
    except (Broken, OSError, subprocess.SubprocessError) as error:
        print(f"could not be measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text, body = tell(found)
    print(" - ".join(f"{name} {value}" for name, value in about.items()), text, sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, **body}, indent=1) + "\n")
    return 0
