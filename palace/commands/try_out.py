"""`palace try`: a demonstration of palace's main job on a scratch palace.

Two agents, each a real `palace shim`, share one palace through the broker that they start. One
files real text, the other finds it; then the broker is killed, and both go on by themselves.
"""

import glob
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from palace.client.control import Control
from palace.commands.agent import Agent
from palace.commands.config import change_settings
from palace.commands.running import stop_broker
from palace.kernel.kernel import Kernel
from palace.kernel.output import redraw, say
from palace.ownership.record import read_record
from palace.protocol.errors import PalaceError
from palace.settings.environment import ShimEnvironment, read_environment
from palace.settings.paths import Paths, home_dir, python_command

QUESTION = "what happens when the process that owns the palace is killed?"
PARAGRAPH_CHARS_MIN = 200
PARAGRAPHS_MAX = 40


class Steps:
    """Prints each step with the time that it took."""

    def __init__(self) -> None:
        self._begun_s = time.perf_counter()

    def done(self, text: str) -> None:
        now_s = time.perf_counter()
        say(f"{(now_s - self._begun_s) * 1e3:8.0f} ms  {text}", flush=True)
        self._begun_s = time.perf_counter()

    def show(self, text: str) -> None:
        """Print what a step is about, below it."""
        for line in text.splitlines():
            say(f"             {line}", flush=True)


def paragraphs() -> list[tuple[str, str]]:
    """Return paragraphs of this project's own documents, each with its file's name."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    names = sorted(glob.glob(f"{package}/texts/*.md"))
    if not names:  # a source tree
        root = os.path.dirname(package)
        names = [f"{root}/README.md", *sorted(glob.glob(f"{root}/docs/*.md"))]
    found = []
    for name in names:
        with open(name, encoding="utf-8") as file:
            pieces = file.read().split("\n\n")
        base = os.path.basename(name)
        found += [(base, piece) for piece in pieces if len(piece) >= PARAGRAPH_CHARS_MIN]
    return found[:PARAGRAPHS_MAX]


def run_tryout(story: Callable[[Paths, dict[str, str]], None], *, keep: bool) -> int:
    """Tell a story on a scratch palace; return 0 if each step did what it should."""
    environ = dict(read_environment().for_broker())
    home_dir(environ)  # which is where the model and mempalace's locks are
    scratch = tempfile.mkdtemp(prefix="palace-try-")
    paths = Paths(os.path.realpath(f"{scratch}/palace"))
    for name in [name for name in environ if name.startswith(("MEMPAL", "PALACE_"))]:
        del environ[name]
    environ["PALACE_IDLE_S"] = "120"
    say(f"a scratch palace: {paths.root}\n")
    os.mkdir(paths.root, 0o700)
    environ["XDG_STATE_HOME"] = f"{scratch}/state"  # nothing of it is to be remembered
    # HTTP would leave a token in the user's home.
    change_settings(paths, ShimEnvironment(environ), {"http": False}, Kernel())
    try:
        story(paths, environ)
    finally:
        if keep:
            say(f"\nkept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    say("\nit works: register `palace shim` as an MCP server in your agents (README).")
    return 0


def tell_story(paths: Paths, environ: dict[str, str]) -> None:
    """Let two agents share a palace; raises PalaceError where that goes wrong."""
    environment = ShimEnvironment(environ)
    steps = Steps()
    argv = [*python_command(), "shim", f"--palace={paths.root}"]
    agents = [Agent(name, argv, environ) for name in ("first-agent", "second-agent")]
    try:
        steps.done("two agents started, each with its own `palace shim`; both are initialized")
        first, second = agents
        await_engine(paths, environment, steps)
        texts = paragraphs()
        for name, text in texts:
            _done(first, "mempalace_add_drawer", wing="palace", room=name, content=text)
        filed = _drawers(first)  # more than paragraphs, since mempalace splits long ones
        text = f"the first agent filed {len(texts)} paragraphs of palace's own documents"
        steps.done(f"{text} in {filed} drawers")
        _search(second, steps, "the second agent found")
        kill_broker(paths, steps)
        _search(second, steps, "the second agent, in the same session, found again")
        steps.done(owner_text(paths, "owned now by"))
        seen = _drawers(first)
        if seen != filed or filed < len(texts):
            raise PalaceError(f"The first agent sees {seen} drawers instead of {filed}.")
        steps.done(f"the first agent sees all {seen} drawers")
    finally:
        codes = [agent.close() for agent in agents]
        steps.done(f"both agents left (exit codes {codes})")
        stop(paths, environment, steps)


def _drawers(agent: Agent) -> int:
    wings = _done(agent, "mempalace_list_wings").get("wings", {})
    return int(wings.get("palace", 0))


def _done(agent: Agent, name: str, /, **arguments: Any) -> dict[str, Any]:
    """Call a tool of stock's; raises PalaceError also where its result tells of an error."""
    told = agent.tool(name, **arguments)
    problem = told.get("error") or (told.get("success") is False and told.get("reason"))
    if problem:
        more = [str(told[key]) for key in ("details", "hint") if told.get(key)]
        raise PalaceError(f"{name}: {': '.join([str(problem), *more])}")
    return told


def stop(paths: Paths, environment: ShimEnvironment, steps: Steps) -> None:
    """Stop the story's broker, and say so."""
    try:
        stop_broker(paths, environment, now=False, hold=False)
    except PalaceError as error:
        steps.done(f"there is no broker to stop: {error.message}")
    else:
        steps.done("the broker was stopped and is gone")


def await_engine(paths: Paths, environment: ShimEnvironment, steps: Steps) -> None:
    """Wait until the engine is loaded, with progress, since the model may have to be fetched."""
    from palace.shim.ensure import ensure

    ensure(paths, environment)
    steps.done(owner_text(paths, "they elected one broker:"))
    shown = ""
    while True:
        with Control(paths, environment) as control:
            engine = control.status()["engine"]
        if engine["state"] == "failed":
            raise PalaceError(engine["failure"])
        model = engine["model"]
        if engine["state"] == "ready" and not model["pending"]:
            break
        doing = model["text"] if engine["state"] == "ready" else engine["doing"]
        if sys.stderr.isatty() and doing != shown:
            shown = doing
            redraw(f"             {shown:<60.60}")
        time.sleep(0.1)
    if shown:
        redraw(" " * 75, end="\r")
    if model["text"]:
        raise PalaceError(model["text"])
    steps.done(f"the engine is loaded: mempalace {engine['version']}, with its embedding model")


def owner_text(paths: Paths, text: str) -> str:
    """Return a text with who owns the palace now behind it."""
    record = read_record(paths, Kernel())
    return f"{text} pid {record.pid}, epoch {record.epoch}" if record else f"{text} no broker"


def _search(agent: Agent, steps: Steps, text: str) -> None:
    results = _done(agent, "mempalace_search", query=QUESTION, limit=3).get("results", [])
    if not results:
        raise PalaceError("The search found nothing. Please report this.")
    best = " ".join(str(results[0]["text"]).split())[:60]
    steps.done(f"{text}: {best!r} (in {results[0]['room']})")


def kill_broker(paths: Paths, steps: Steps) -> None:
    """Kill the broker without a warning, and say so."""
    record = read_record(paths, Kernel())
    if record is None:
        raise PalaceError("The broker's record is gone. Please report this.")
    os.kill(record.pid, signal.SIGKILL)
    steps.done(f"the broker, pid {record.pid}, was killed with SIGKILL")
