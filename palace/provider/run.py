"""One command of a provider, run and told: whatever it does, the caller gets an outcome.

No shell: each argument is one element of argv, and what is put into it is never looked at again.
The command is a stranger's, so its output, its time and its whole group of processes have bounds.
It runs in the session of whoever ran `palace`, never in the broker: no code of others in the only
process that may open the palace, no lock inherited, no idle broker kept.
"""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import IO

import attrs

from palace.memory.redact import redact
from palace.protocol.errors import InvalidMemory
from palace.provider.declaration import Command

OK, FAILED, TIMEOUT, NOT_EXECUTABLE = "ok", "failed", "timeout", "not-executable"
TIMEOUT_S = 120.0
TERM_S = 2.0  # from TERM to KILL
OUTPUT_BYTES_MAX = 64 << 10  # that are kept of each stream: its end
DETAIL_CHARS_MAX = 400
_LOOK_S = 0.02
_PLACEHOLDER = re.compile(r"\{(cwd|runtime|personality|occasion)\}")
# What lets a process into a palace, which the provider's own has no need of.
_OURS = frozenset({"PALACE_TOKEN_FILE", "PALACE_WORKSPACE_TOKEN_FILE", "PALACE_BRIDGE_COMMAND"})


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a command: `exit_code` is None where none ended by itself.

    `detail` is the end of what it complained of, without secrets; `ms` how long it took.
    """

    state: str
    exit_code: int | None
    detail: str
    ms: int
    argv: tuple[str, ...]


def substituted(argument: str, values: Mapping[str, str]) -> str:
    """Return an argument with its placeholders replaced, in one pass.

    A directory may be called `{runtime}`: what has been put in is not searched again.
    """
    return _PLACEHOLDER.sub(lambda found: values[found[1]], argument)


def run_command(
    block: Command,
    values: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    timeout_s: float = TIMEOUT_S,
) -> Outcome:
    """Run a provider's command to its end, or to the end of its time; raises nothing."""
    argv = (block.command, *(substituted(one, values) for one in block.args))
    began_s = time.monotonic()
    try:
        state, code, detail = _run(argv, _environment(environ), timeout_s)
    except (OSError, ValueError) as error:  # ValueError: a NUL that came in with a value
        state, code, detail = NOT_EXECUTABLE, None, f"{block.command}: {_cause(error)}"
    ms = round((time.monotonic() - began_s) * 1000)
    return Outcome(state=state, exit_code=code, detail=_shown(detail), ms=ms, argv=argv)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in _OURS}


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _run(
    argv: tuple[str, ...], environ: dict[str, str], timeout_s: float
) -> tuple[str, int | None, str]:
    process = subprocess.Popen(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    tails = _Tails(process.stdout, process.stderr)
    in_time = is_over = False
    try:
        in_time = _wait(process.pid, tails, timeout_s)
        if not in_time:
            _end_group(process.pid, tails)
        is_over = True
    finally:
        if not is_over:  # ctrl-C reaches us alone: the command has a session of its own
            _kill_group(process.pid, signal.SIGKILL)
        tails.close()
        code = process.wait()
    if not in_time:
        return TIMEOUT, None, tails.text or f"it did not end within {timeout_s:g} s"
    if code == 0:
        return OK, 0, ""
    ended = f"it ended with {code}" if code > 0 else f"it was ended by signal {-code}"
    return FAILED, code if code > 0 else None, tails.text or ended


class _Tails:
    """The ends of a command's two streams, read as they come and never waited for."""

    def __init__(self, out: IO[bytes], err: IO[bytes]) -> None:
        self._selector = selectors.DefaultSelector()
        self._streams = (out, err)
        self._kept = {out: bytearray(), err: bytearray()}
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)

    def read(self, wait_s: float) -> bool:
        """Read what is there once, waiting at most so long; tell whether anything was."""
        if not self._selector.get_map():  # it has closed both, and may go on for long
            time.sleep(wait_s)
            return False
        ready = self._selector.select(wait_s)
        for key, _ in ready:
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
            part = os.read(stream.fileno(), OUTPUT_BYTES_MAX)
            if not part:
                self._selector.unregister(stream)
            kept = self._kept[stream]
            kept += part
            del kept[:-OUTPUT_BYTES_MAX]
        return bool(ready)

    @property
    def text(self) -> str:
        """Return the end of what it complained of, else of what it said."""
        out, err = (bytes(self._kept[one]).decode(errors="replace") for one in self._streams)
        return err.strip() or out.strip()

    def close(self) -> None:
        """Close both streams; a descendant that still writes is told by the kernel."""
        self._selector.close()
        for stream in self._streams:
            stream.close()


def _has_ended(pid: int) -> bool:
    """Tell whether a child has ended, and leave it unreaped: its group keeps its number."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait(pid: int, tails: _Tails, timeout_s: float) -> bool:
    """Read until a child ends; tell whether it did in time.

    Its end counts, not that of its streams: a descendant may hold them open for ever.
    """
    deadline_s = time.monotonic() + timeout_s
    while not _has_ended(pid):
        if time.monotonic() >= deadline_s:
            return False
        tails.read(_LOOK_S)
    for _ in range(64):  # what it wrote last; bounded, since a descendant may write on
        if not tails.read(0):
            break
    return True


def _end_group(pid: int, tails: _Tails) -> None:
    """End a command and what it has started in its group; it gets two seconds to do so itself."""
    _kill_group(pid, signal.SIGTERM)
    _wait(pid, tails, TERM_S)
    _kill_group(pid, signal.SIGKILL)


def _kill_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)  # the leader isn't reaped yet, so the number is still its own
    except (ProcessLookupError, PermissionError):
        return  # all have gone; or nobody is left but another user's, which a set-uid program is


def _shown(text: str) -> str:
    """Return the end of a foreign text, without secrets and in one line."""
    try:
        clean = redact(text[-8 * DETAIL_CHARS_MAX :])  # before it is cut: half of one isn't known
    except InvalidMemory:
        clean = "(left out: it holds secrets within secrets)"
    return " ".join(clean.split())[-DETAIL_CHARS_MAX:]
